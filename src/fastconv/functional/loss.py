"""Losses of a batch of rows, each a pair of value and gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array
from .activation import softmax


def mse(A: Any, Y: Any) -> np.float64:
    """Mean of (A - Y)^2 over all N * C numbers.

    Parameters
    ----------
    A, Y : array_like (N, C)

    Returns
    -------
    numpy.float64
        NaN for an empty batch.

    Raises
    ------
    TypeError, ValueError
        One is no array of real numbers; the shapes differ.
    """
    a, y, dtype = _prepare(A, Y)
    error = _difference(a, y, dtype).reshape(-1)
    with np.errstate(over="ignore"):
        return np.float64(np.dot(error, error) / error.size) if error.size else np.float64("nan")


def mse_backward(A: Any, Y: Any) -> Array:
    """The gradient of `mse` with respect to A: 2 (A - Y) / (N C)."""
    a, y, dtype = _prepare(A, Y)
    gradient = _difference(a, y, dtype)
    gradient *= dtype.type(2 / max(1, a.size))
    return gradient


def cross_entropy(A: Any, Y: Any) -> np.float64:
    """Softmax cross-entropy of logits A against the rows of Y, mean over N. Arguments as of `mse`."""
    a, y, dtype = _prepare(A, Y)
    if not a.size:
        return np.float64("nan")
    with np.errstate(over="ignore"):
        log = _difference(a, a.max(axis=1, keepdims=True), dtype)
    # A difference beyond the range of the dtype would be -inf, and times a zero of Y a NaN.
    np.maximum(log, np.finfo(dtype).min, out=log)
    log -= np.log(np.exp(log).sum(axis=1, keepdims=True))
    with np.errstate(over="ignore"):
        rows = (log * y).sum(axis=1, dtype=np.float64)
        return np.float64(-(rows / a.shape[0]).sum())


def cross_entropy_backward(A: Any, Y: Any) -> Array:
    """The gradient of `cross_entropy` with respect to A: (softmax(A) - Y) / N for one-hot rows."""
    a, y, dtype = _prepare(A, Y)
    gradient = softmax(a).astype(dtype, copy=False)
    gradient -= y.astype(dtype, copy=False)
    gradient /= max(1, a.shape[0])
    return gradient


def _difference(a: Array, y: Array, dtype: np.dtype[Any]) -> Array:
    return np.asarray(np.subtract(a, y, dtype=dtype, casting="unsafe", order="C"))


def _prepare(A: Any, Y: Any) -> tuple[Array, Array, np.dtype[Any]]:
    a, y = check.array("A", A, 2), check.array("Y", Y, 2)
    check.not_empty("A", a)
    check.same_shape("Y", y, a.shape, "A")
    dtype = check.real_dtype(a)
    check.fits("A", a.shape, dtype.itemsize)
    return a, y, dtype
