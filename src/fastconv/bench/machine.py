"""What this machine can do at most, by a small probe of about a second."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend

_PROBE_SECONDS = 0.05
_REPEATS = 3
# Where the system does not tell.
_USUAL_CACHES = {2: 512 << 10, 3: 8 << 20}
# What changes how fast a library runs, by the first part of the variable's name.
_TELLING = ("FASTCONV_", "OMP_", "OPENBLAS_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_", "XLA_", "GOMP_")


@dataclass(frozen=True)
class Machine:
    """The machine and its measured limits; it goes to JSON and comes back by `asdict` and `Machine(**...)`.

    Attributes
    ----------
    cpu, cores
    environment : dict
        Variables that change how fast libraries run.
    gflops : dict
        Multiply-adds in registers, counted as two operations each: "float32 x 2" is on two threads.
    copy : list of dict
        "level", "bytes" of the working set, "threads", and "gbs" read and written together.
    """

    cpu: str
    cores: int
    environment: dict[str, str]
    gflops: dict[str, float]
    copy: list[dict[str, Any]]

    def peak(self, dtype: str, threads: int) -> float:
        """GFLOP/s, NaN if it was not measured."""
        return self.gflops.get(f"{dtype} x {threads}", float("nan"))

    def bandwidth(self, size: int, threads: int) -> float:
        """GB/s of copying in the smallest cache that holds so many bytes, or in memory."""
        levels = [level for level in self.copy if level["threads"] == threads]
        for level in levels:
            if size <= level["bytes"]:
                return float(level["gbs"])
        return float(levels[-1]["gbs"]) if levels else float("nan")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    dtypes: Sequence[str], threads: Sequence[int], seconds: float = _PROBE_SECONDS
) -> Machine:
    """Probe with the kernels of the active backend, each limit in a few runs of so many seconds."""
    gflops, copies = {}, []
    for count in threads:
        for dtype in dtypes:
            gflops[f"{dtype} x {count}"] = _gflops(dtype, count, seconds)
        for level, size in _working_sets().items():
            gbs = _gbs(size, count, seconds)
            copies.append({"level": level, "bytes": size, "threads": count, "gbs": gbs})
    environment = {k: v for k, v in sorted(os.environ.items()) if k.startswith(_TELLING)}
    return Machine(_cpu_name(), len(_cores()), environment, gflops, copies)


def _gflops(dtype: str, threads: int, seconds: float) -> float:
    kernel = backend.probe(np.dtype(dtype))

    def work(rounds: int, count: int) -> int:
        return int(kernel.multiply_adds(np.empty(count, dtype), rounds, count))

    return _rate(work, 1 << 16, threads, seconds)


def _gbs(size: int, threads: int, seconds: float) -> float:
    kernel = backend.probe(np.dtype(np.float64))
    source = np.ones(size // 16)
    target = np.zeros_like(source)

    def work(times: int, count: int) -> int:
        kernel.copy(source, target, times, count)
        return 2 * source.nbytes * times

    return _rate(work, 1, threads, seconds)


def _rate(work: Callable[[int, int], int], rounds: int, threads: int, wanted: float) -> float:
    """The best of a few runs in 1e9 a second. `work` takes rounds and threads.

    One thread finds out how many rounds take long enough. Where other programs run, several may spend
    the time waiting for each other, and would settle on too few.
    """
    best = 0.0
    for count in (1, 1, *[threads] * _REPEATS):
        start = time.perf_counter()
        done = work(rounds, count)
        seconds = max(time.perf_counter() - start, 1e-9)
        if count == threads:
            best = max(best, done / seconds / 1e9)
        if count == 1:
            rounds = max(1, int(rounds * min(1000.0, wanted / seconds)))
    return best


def _working_sets() -> dict[str, int]:
    """Source and target together: half of each cache, and what no cache holds."""
    caches = dict(_USUAL_CACHES)
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, size = (Path(index, name).read_text().strip() for name in ("level", "size"))
            if int(level) in caches:
                caches[int(level)] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
        except (OSError, ValueError):
            continue
    return {"L2": caches[2] // 2, "L3": caches[3] // 2, "memory": max(128 << 20, 4 * caches[3])}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> Sequence[int]:
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:
        return range(os.cpu_count() or 1)
