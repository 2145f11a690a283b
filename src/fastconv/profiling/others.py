"""How busy other programs keep the machine: times that were taken beside them are too long."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """Seconds since some time in the past."""

    clock: float
    own: float  # of this process and its children, on all processors
    all: float  # of all programs
    processors: int


def usage() -> Usage | None:
    """Linux's counters; None where there are none."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        user, nice, system, _, _, *more = map(int, lines[0].split()[1:9])
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    processors = sum(line.startswith("cpu") for line in lines) - 1
    busy = (user + nice + system + sum(more)) / ticks
    return Usage(time.perf_counter(), sum(os.times()[:4]), busy, processors)


def others(start: Usage | None, stop: Usage | None, threads: int) -> float | None:
    """How many processors others took from this process's threads, on average.

    What they do on processors that are left over does not count.
    """
    if start is None or stop is None or stop.clock - start.clock < 0.1:  # the counters are of 10 ms
        return None
    theirs = ((stop.all - start.all) - (stop.own - start.own)) / (stop.clock - start.clock)
    return min(max(0.0, theirs - max(0, stop.processors - threads)), float(threads))
