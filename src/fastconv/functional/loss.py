"""Losses of a batch of rows, each a pair of value and gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array
from ..backend import empty, kernels, threads_for
from .activation import _EXPONENTIAL


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
    a, y = _prepare(A, Y)
    if not a.size:
        return np.float64("nan")
    return np.float64(kernels(a.dtype).squared_error(a, y, threads_for(a.size)) / a.size)


def mse_backward(A: Any, Y: Any) -> Array:
    """The gradient of `mse` with respect to A: 2 (A - Y) / (N C)."""
    a, y = _prepare(A, Y)
    gradient = empty("the result", a.shape, a.dtype)
    kernels(a.dtype).scaled_difference(a, y, 2 / max(1, a.size), gradient, threads_for(a.size))
    return gradient


def cross_entropy(A: Any, Y: Any) -> np.float64:
    """Softmax cross-entropy of logits A against the rows of Y, mean over N. Arguments as of `mse`."""
    a, y = _prepare(A, Y)
    if not a.size:
        return np.float64("nan")
    threads = threads_for(_EXPONENTIAL * a.size)
    return np.float64(kernels(a.dtype).cross_entropy(a, y, a.shape[1], threads))


def cross_entropy_backward(A: Any, Y: Any) -> Array:
    """The gradient of `cross_entropy` with respect to A: (softmax(A) - Y) / N for one-hot rows."""
    a, y = _prepare(A, Y)
    gradient = empty("the result", a.shape, a.dtype)
    threads = threads_for(_EXPONENTIAL * a.size)
    kernels(a.dtype).cross_entropy_gradient(a, y, gradient, a.shape[1], threads)
    return gradient


def _prepare(A: Any, Y: Any) -> tuple[Array, Array]:
    a, y = check.array("A", A, 2), check.array("Y", Y, 2)
    check.not_empty("A", a)
    check.same_shape("Y", y, a.shape, "A")
    dtype = check.real_dtype(a)
    return check.ready(a, dtype, "A"), check.ready(y, dtype, "Y")
