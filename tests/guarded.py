"""Arrays beside memory that nothing may touch: one step over the edge ends the process.

Each array lies in pages of its own between two that can be neither read nor written, and ends where the
second begins, or begins where the first ends.
"""

import ctypes
import math
import mmap
from typing import Any

import numpy as np

_PAGE = mmap.PAGESIZE
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_NO_ACCESS = 0


def empty(shape: Any, dtype: Any, at: str = "end") -> np.ndarray:
    """An array, not filled, that ends ("end") or begins ("start") at a forbidden page."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    dtype, count = np.dtype(dtype), math.prod(shape)
    size = count * dtype.itemsize
    inside = max(1, -(-size // _PAGE)) * _PAGE
    pages = mmap.mmap(-1, inside + 2 * _PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    for page in (start, start + _PAGE + inside):
        if _mprotect(page, _PAGE, _NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = _PAGE if at == "start" else _PAGE + inside - size
    return np.frombuffer(pages, dtype, count, offset).reshape(shape)


def copy(a: np.ndarray, at: str = "end") -> np.ndarray:
    """`a` in such an array, C-contiguous."""
    guarded = empty(a.shape, a.dtype, at)
    guarded[...] = a
    return guarded
