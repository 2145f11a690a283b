"""Zero insertion and decimation along the last axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array


def upsample(A: Any, factor: int, axes: int) -> Array:
    """Put factor - 1 zeros between neighbours on each of the last `axes` axes.

    Parameters
    ----------
    A : array_like (N, C, W) for one axis, (N, C, H, W) for two
    factor : int
    axes : {1, 2}

    Returns
    -------
    ndarray (N, C, factor*(W-1) + 1) and likewise
        float32 for float32, else float64.

    Raises
    ------
    TypeError, ValueError
        A is no array of real numbers with axes + 2 dimensions, or one but the batch is empty; the
        factor is no positive integer.
    """
    a, k = _prepare(A, factor, _axes(axes))
    return _insert_zeros(a, k, tuple(k * (n - 1) + 1 for n in a.shape[2:]))


def downsample(A: Any, factor: int, axes: int) -> Array:
    """Keep every factor-th number on each of the last `axes` axes, (W-1)//factor + 1 of W.

    Arguments, dtype and errors as of `upsample`.
    """
    axes = _axes(axes)
    a, k = _prepare(A, factor, axes)
    return check.copied(a[_every(k, axes)])


def downsample_backward(dLdZ: Any, factor: int, shape: tuple[int, ...]) -> Array:
    """The gradient of `downsample` for an input of that shape, in the dtype of dLdZ."""
    shape = _input_shape(shape)
    dz, k = _prepare(dLdZ, factor, len(shape) - 2, "dLdZ")
    check.same_shape("dLdZ", dz, (*shape[:2], *((n - 1) // k + 1 for n in shape[2:])), "Z")
    return _insert_zeros(dz, k, shape[2:])


def upsample_backward(dLdZ: Any, factor: int, shape: tuple[int, ...]) -> Array:
    """The gradient of `upsample` for an input of that shape, in the dtype of dLdZ."""
    shape = _input_shape(shape)
    dz, k = _prepare(dLdZ, factor, len(shape) - 2, "dLdZ")
    check.same_shape("dLdZ", dz, (*shape[:2], *(k * (n - 1) + 1 for n in shape[2:])), "Z")
    return check.copied(dz[_every(k, len(shape) - 2)])


def _prepare(A: Any, factor: int, axes: int, name: str = "A") -> tuple[Array, int]:
    a = check.array(name, A, axes + 2)
    check.not_empty(name, a)
    return a, check.integer("factor", factor, 1)


def _axes(axes: int) -> int:
    if check.integer("axes", axes, 1) > 2:
        raise ValueError(f"axes must be 1 or 2, not {axes}")
    return int(axes)


def _input_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """That of an input of one or two axes besides batch and channels."""
    if not isinstance(shape, (tuple, list)) or len(shape) not in (3, 4):
        raise ValueError(f"shape must be 3 or 4 integers, not {shape!r:.40}")
    return tuple(check.integer("shape", n, 0) for n in shape)


def _every(k: int, axes: int) -> tuple[slice, ...]:
    return (slice(None), slice(None), *[slice(None, None, k)] * axes)


def _insert_zeros(a: Array, k: int, sizes: tuple[int, ...]) -> Array:
    shape = (*a.shape[:2], *sizes)
    dtype = check.real_dtype(a)
    check.fits("the result", shape, dtype.itemsize)
    out = np.zeros(shape, dtype)
    out[_every(k, len(sizes))] = a
    return out
