"""Arrays larger than the memory: one piece of it, mapped over and over along a range of addresses.

A number written anywhere shows at every distance of `PERIOD` bytes. Where numbers repeat with the piece,
so do the results of what is computed number by number, or from neighbours: they may lie in another such
array.
"""

import ctypes
import math
import mmap
import os
import weakref
from typing import Any

import numpy as np

PERIOD = 1 << 24
_FIXED = 0x10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong
)
_libc.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    dtype = np.dtype(dtype)
    size = -(-math.prod(shape) * dtype.itemsize // PERIOD) * PERIOD
    piece = os.memfd_create("piece")
    try:
        os.ftruncate(piece, PERIOD)
        start = _map(None, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        for at in range(start, start + size, PERIOD):
            _map(at, PERIOD, mmap.MAP_SHARED | _FIXED, piece)
    finally:
        os.close(piece)
    memory = (ctypes.c_char * size).from_address(start)
    weakref.finalize(memory, _libc.munmap, start, size)
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


def _map(at: int | None, size: int, flags: int, piece: int) -> int:
    found = _libc.mmap(at, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, piece, 0)
    if found == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return int(found)


def of_numbers(shape: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """An array that repeats `values`, which fill the piece a whole number of times."""
    a = empty(shape, values.dtype)
    flat = a.reshape(-1)[: PERIOD // a.itemsize]
    flat[...] = np.resize(values, flat.shape)
    return a
