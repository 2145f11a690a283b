"""``fastconv bench``: how fast it is, against other libraries, on this machine.

A *problem* is a string that says what is computed (`problems.py`), a *row* a problem and a pass of
it: forward, a gradient, a training step (`suites.py`). A *contender* is a library that can compute
rows (`contenders/`); all get the same NumPy arrays and give NumPy arrays back. `measure.py` times the
contenders of a row in turn (`timing.py`) and holds the result against what the machine can do
(`machine.py`). `report.py`, `results.py`, `plots.py`, `growth.py` and `pages.py` show it.

Nothing but the command line imports this. It needs the extra `bench`; the contenders, the extra `peers`.
"""

from __future__ import annotations

STATISTICS = ("median", "min")  # of the samples, that ratios are of


class BenchError(Exception):
    """What was asked for cannot be; the message is one line that says what can."""
