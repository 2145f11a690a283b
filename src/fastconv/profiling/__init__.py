"""Where the time goes: `fastconv.record`, `fastconv.profile` and ``fastconv profile``.

`record` notes each call of a layer while a block runs (`hooks.py`), finds out where in the model the layer
is (`places.py`, `graph.py`), and counts what it did (`counts.py`) against what the machine can do
(`limits.py`). `profile` runs a model on the compiled and on the pure kernels in turn (`compare.py`) and
puts both beside each other. Either gives a `Report` of rows (`report.py`, `rows.py`), as a table, a page,
JSON, a trace, pstats or a plot; `verdict.py` says in words what the figures say.

Nothing here is imported, and no layer slowed down, before something is recorded.
"""

from .compare import profile
from .recorder import record
from .report import Report
from .rows import Row, Times

__all__ = ["Report", "Row", "Times", "profile", "record"]
