"""One row, measured: the contenders in turn, against each other and against the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import imports, timing
from .contenders import Arrays, Contender
from .machine import Machine
from .results import Result
from .suites import Row


@dataclass(frozen=True)
class Settings:
    """How to measure: seconds for each contender of a row, "median" or "min", whom to compare with."""

    seconds: float
    statistic: str
    reference: str


def measure(
    row: Row, dtype: str, threads: int, contenders: Mapping[str, Contender], machine: Machine,
    settings: Settings,
) -> list[Result]:
    """A result for each contender that can do it. They must be set to so many threads already."""
    samples = _samples(row, dtype, contenders, settings.seconds)
    reference = samples.get(settings.reference)
    results = []
    for name, times in samples.items():
        seconds = timing.statistic(times, settings.statistic)
        ratio, low, high = (
            timing.ratio(reference, times, settings.statistic) if reference is not None else (None,) * 3
        )
        gflops, gbs, percent = _rates(row, dtype, threads, seconds, machine)
        results.append(
            Result(
                row.suite, str(row.problem), row.problem.op, row.pass_, dtype, threads, name,
                timing.statistic(times, "min"), timing.statistic(times, "median"),
                int(np.count_nonzero(~np.isnan(times))), ratio,
                None if low is None or high is None else (low, high), gflops, gbs, percent,
            )
        )
    return results


def _samples(
    row: Row, dtype: str, contenders: Mapping[str, Contender], seconds: float
) -> dict[str, timing.Samples]:
    if row.pass_ == "import":
        # Only what is a package of its own; fastconv's other kernels and NumPy's programs are not.
        modules = {name: c.modules for name, c in contenders.items() if c.modules}
        return imports.interleaved(modules, seconds)
    arrays = Arrays(row.problem, dtype)
    calls = {name: contender.call(arrays, row.pass_) for name, contender in contenders.items()}
    present = {name: call for name, call in calls.items() if call is not None}
    return timing.interleaved(present, seconds) if present else {}


def _rates(
    row: Row, dtype: str, threads: int, seconds: float, machine: Machine
) -> tuple[float | None, float | None, float | None]:
    """GFLOP/s, GB/s, percent of the peak, where they can be told."""
    flops = row.problem.flops(row.pass_)
    moved = row.problem.bytes(row.pass_, np.dtype(dtype).itemsize)
    gflops = flops / seconds / 1e9 if flops else None
    gbs = moved / seconds / 1e9 if moved else None
    share = None
    if gflops is not None:
        share = gflops / machine.peak(dtype, threads)
    elif gbs is not None:
        share = gbs / machine.bandwidth(moved, threads)
    return gflops, gbs, None if share is None or np.isnan(share) else 100 * share
