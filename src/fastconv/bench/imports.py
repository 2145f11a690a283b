"""How long `import` of a library takes after `import numpy`, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from . import BenchError
from .timing import FEWEST_ROUNDS, Samples

_SCRIPT = """
import time, numpy
start = time.perf_counter()
for name in {modules!r}: __import__(name)
print(time.perf_counter() - start)
"""
_MOST_ROUNDS = 15


def interleaved(modules: Mapping[str, Sequence[str]], budget: float) -> dict[str, Samples]:
    """Seconds for each, one sample a round, as `timing.interleaved` gives them.

    What NumPy has imported already is not counted. The first, cold imports are not kept.
    """
    rounds = FEWEST_ROUNDS
    samples: dict[str, list[float]] = {name: [] for name in modules}
    turn = -1
    while turn < rounds:
        for name, names in modules.items():
            seconds = _seconds(names)
            if turn >= 0:
                samples[name].append(seconds)
        if turn == 0:
            slowest = max(times[0] for times in samples.values())
            rounds = min(_MOST_ROUNDS, max(FEWEST_ROUNDS, int(10 * budget / slowest)))
        turn += 1
    return {name: np.array(times) for name, times in samples.items()}


def _seconds(modules: Sequence[str]) -> float:
    """Of one import, in a child that finds what this process finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(modules=tuple(modules))],
        env=environment, capture_output=True, text=True, check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise BenchError(f"importing {', '.join(modules)} failed: {reason[0]}")
    return float(done.stdout)
