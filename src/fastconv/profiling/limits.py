"""What this machine can do for a layer: the roofline (Williams, Waterman and Patterson, 2009).

A call that does so many operations and moves so many bytes takes at least the longer of the times that
multiply-adds in registers and copying would need. Both are measured by the benchmark's probe, once a
process for each dtype and number of threads.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

from .. import backend
from ..bench.machine import Machine, measure

# Of each probe, of which there are twenty: 0.3 s in all, and within a few percent of what takes longer.
_PROBE_SECONDS = 0.01


class Limit(NamedTuple):
    """The shortest time a call can take, in seconds, and what keeps it from less."""

    seconds: float
    by: str  # "arithmetic" or "memory"


@lru_cache
def machine(dtypes: tuple[str, ...], threads: int) -> Machine:
    """This machine's limits, by the compiled kernels if there are any."""
    with backend.use_backend("compiled") if backend.ISA is not None else nullcontext():
        return measure(dtypes, (threads,), _PROBE_SECONDS)


def limit(machine: Machine, dtype: str, threads: int, operations: int, moved: int) -> Limit:
    """Of one call; the memory is the smallest cache that holds what it moves."""
    computing = operations / (1e9 * machine.peak(dtype, threads))
    copying = moved / (1e9 * machine.bandwidth(moved, threads))
    return Limit(max(computing, copying), "arithmetic" if computing >= copying else "memory")
