"""Which kernels run, and on how many threads.

There are two backends with the same functions: *compiled*, the kernels of `pyx/` at one
instruction-set level, and *pure*, the course's algorithms in NumPy (`pure.py`). One is active in
the process (`set_backend`); a `with use_backend(...)` block overrides it for its own thread and
context. `functional` asks here at every call:

    kernels(dtype).correlate(..., threads_for(operations))
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

import numpy as np

from . import _check as check
from . import _kernels
from ._check import Array
from ._choice import Choice
from ._kernels import KernelSet

# Below so many numbers read (or as much other work) a call runs on one thread: starting the others
# costs about as much as they save (measured: 5 us a parallel region). In steps of a small ResNet 2^17
# and 2^18 took 1.04 and 1.1 times as long.
SERIAL_BELOW = 1 << 16
MOST_THREADS = 1024
_LINE = 64  # bytes of a cache line
# Bytes from which a result begins with one. NumPy's own arrays begin anywhere, and of a line that is written
# in parts, a kernel must read the rest. (AVX2, 3x3 with 3 channels, 1x1 and 7x7, results of 2 to 13 MB: 1.15
# to 1.45 times as fast.)
_ALIGNED_FROM = 1 << 20

_PURE_BUILD = find_spec("fastconv._pure_build") is not None


class _Backends(dict[str, dict[str, KernelSet]]):
    """The kernels of each backend by dtype character. The pure ones are imported when first asked for."""

    def __missing__(self, name: str) -> dict[str, KernelSet]:
        if name != "pure":
            raise KeyError(name)
        from . import pure

        self[name] = {char: KernelSet.of(pure) for char in "fd"}
        return self[name]


def _choose_isa() -> tuple[str, list[str]]:
    """The instruction-set level to load, and those that can run here, lowest first."""
    present: list[str] = _kernels.cpu().levels()
    wanted = os.environ.get("FASTCONV_ISA", "")
    if wanted and wanted not in present:
        raise ImportError(
            f"FASTCONV_ISA={wanted!r} cannot be met: this machine runs {', '.join(present)}"
        )
    return wanted or present[-1], present


def _count_from(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    if not text:
        return None
    digits = text.lstrip("0")
    if not text.isdecimal() or len(digits) > 4 or not 1 <= int(digits or 0) <= MOST_THREADS:
        raise ValueError(f"{variable} must be an integer from 1 to {MOST_THREADS}, not {text!r:.40}")
    return int(text)


def _initial_threads() -> int:
    # OMP_NUM_THREADS may be a list for nested regions ("4,2"): OpenMP itself reads it.
    asked = _count_from("FASTCONV_NUM_THREADS")
    if "compiled" not in _BACKENDS or not _kernels.cpu().has_openmp():
        return 1
    # It takes any number, and wraps round beyond 31 bits.
    return asked or min(max(1, int(_kernels.cpu().default_threads())), MOST_THREADS)


def _initial_backends() -> tuple[_Backends, str, str | None, list[str]]:
    wanted = os.environ.get("FASTCONV_BACKEND", "")
    if wanted not in ("", "compiled", "pure"):
        raise ValueError(f"FASTCONV_BACKEND must be 'compiled' or 'pure', not {wanted!r}")
    if wanted == "compiled" and _PURE_BUILD:
        raise ImportError("FASTCONV_BACKEND='compiled' cannot be met: this build has only 'pure'")
    if _PURE_BUILD:
        return _Backends(), "pure", None, []
    try:
        isa, present = _choose_isa()
        compiled = _kernels.load(isa)
    except ImportError:
        if wanted == "pure":  # asked for, so nothing that is missing is missed
            return _Backends(), "pure", None, []
        raise
    return _Backends(compiled=compiled), wanted or "compiled", isa, present


_BACKENDS, _initial, ISA, ISA_PRESENT = _initial_backends()
_choice = Choice("backend", ("compiled", "pure"), _initial)
_threads = _initial_threads()
_address = _kernels.cpu().address if "compiled" in _BACKENDS else None
_forked = False


def kernels(dtype: np.dtype[Any]) -> KernelSet:
    """The active kernels for a dtype, float32 or float64."""
    return _BACKENDS[_choice.get()][dtype.char]


def probe(dtype: np.dtype[Any]) -> Any:
    """What measures this machine (`pyx/probe.pyx`), for a dtype: of the active backend."""
    if ISA is not None and _choice.get() == "compiled":
        return _kernels.probe(ISA, dtype.name)
    from . import pure

    return pure


def check_present(name: str) -> None:
    """ValueError if there is no such backend, ImportError if this copy does not have it."""
    if _choice.check(name) == "compiled" and "compiled" not in _BACKENDS:
        raise ImportError("backend 'compiled' is not there: this copy has only 'pure'")


def set_backend(name: str) -> None:
    """Choose the kernels for the whole process.

    Parameters
    ----------
    name : {"compiled", "pure"}

    Raises
    ------
    ValueError
        `name` is neither.
    ImportError
        This copy was built without compiled kernels.
    """
    check_present(name)
    _choice.set(name)


def get_backend() -> str:
    """The backend that a call made here would run on: "compiled" or "pure"."""
    return _choice.get()


def use_backend(name: str) -> AbstractContextManager[None]:
    """Run a block on another backend: ``with fastconv.use_backend("pure"): ...``.

    It holds for this thread and context alone (see `contextvars`), over `set_backend`, and blocks
    nest. Raises as `set_backend`.
    """
    check_present(name)
    return _choice.use(name)


def empty(what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A fresh array for a kernel's result, not filled; errors are those of `check.fits`."""
    size = check.fits(what, shape, dtype.itemsize)
    if size < _ALIGNED_FROM or _address is None:
        return np.empty(shape, dtype)
    size //= dtype.itemsize
    numbers = np.empty(size + _LINE // dtype.itemsize, dtype)
    first = -_address(numbers) % _LINE // dtype.itemsize
    return numbers[first : first + size].reshape(shape)


def threads_for(operations: int) -> int:
    """Threads for a call of so many operations, each as long as reading a number."""
    return _threads if operations >= SERIAL_BELOW else 1


def set_num_threads(count: int) -> None:
    """Choose how many threads the compiled kernels use. Results do not depend on it, bit for bit.

    Without a call it is FASTCONV_NUM_THREADS, else OMP_NUM_THREADS, else the processors available.
    In a process forked from one that uses fastconv it stays 1: GNU OpenMP cannot start threads
    there. So it does in a build without OpenMP.

    Raises
    ------
    TypeError, ValueError
        `count` is not an integer from 1 to 1024.
    """
    global _threads
    count = check.integer("count", count, 1)
    if count > MOST_THREADS:
        raise ValueError(f"count must be at most {MOST_THREADS}, not {count}")
    if not _forked and "compiled" in _BACKENDS and _kernels.cpu().has_openmp():
        _threads = count


def get_num_threads() -> int:
    """Threads that the compiled kernels use for calls large enough."""
    return _threads


def _after_fork_in_child() -> None:
    global _threads, _forked
    _threads, _forked = 1, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
