"""The fully connected layer."""

from __future__ import annotations

from typing import Any

from .. import _check as check
from .._check import Array


def linear_forward(A: Any, W: Any, b: Any) -> Array:
    """Z = A W^T + b^T.

    Parameters
    ----------
    A : array_like (N, in)
    W : array_like (out, in)
    b : array_like (out, 1) or (out,)

    Returns
    -------
    ndarray (N, out)

    Raises
    ------
    TypeError, ValueError
        An argument is no array of real numbers, or shapes do not fit.
    """
    a, w = _prepare(A, W)
    bias = _bias(b, w)
    dtype = check.real_dtype(a, w)
    check.fits("the result", (a.shape[0], w.shape[0]), dtype.itemsize)
    # Contiguous operands take one path through BLAS, whatever came: equal numbers give equal bits.
    Z: Array = check.ready(a, dtype, "A") @ check.ready(w, dtype, "W").T
    Z += bias.reshape(-1).astype(dtype, copy=False)
    return Z


def linear_backward(dLdZ: Any, A: Any, W: Any, b: Any) -> tuple[Array, Array, Array]:
    """dLdA = dLdZ W, dLdW = dLdZ^T A, dLdb = dLdZ^T 1 in the shape of b: sums over the batch.

    Raises as `linear_forward`.
    """
    a, w = _prepare(A, W)
    dz, bias = check.array("dLdZ", dLdZ, 2), _bias(b, w)
    check.same_shape("dLdZ", dz, (a.shape[0], w.shape[0]), "Z")
    dtype = check.real_dtype(dz, a, w)
    input_dtype, weight_dtype, bias_dtype = (check.gradient_dtype(x, dtype) for x in (a, w, bias))
    dz, a, w = (check.ready(x, dtype, name) for x, name in ((dz, "dLdZ"), (a, "A"), (w, "W")))
    dLdb = dz.sum(axis=0).reshape(bias.shape)
    return (
        (dz @ w).astype(input_dtype, copy=False),
        (dz.T @ a).astype(weight_dtype, copy=False),
        dLdb.astype(bias_dtype, copy=False),
    )


def _prepare(A: Any, W: Any) -> tuple[Array, Array]:
    a, w = check.array("A", A, 2), check.array("W", W, 2)
    check.not_empty("A", a)
    if a.shape[1] != w.shape[1]:
        raise ValueError(
            f"A has {a.shape[1]} features, but W takes {w.shape[1]}: shapes {a.shape} and {w.shape}"
        )
    return a, w


def _bias(b: Any, w: Array) -> Array:
    bias = check.array("b", b)
    if bias.shape not in ((w.shape[0], 1), (w.shape[0],)):
        raise ValueError(f"b has shape {bias.shape}, but W has {w.shape[0]} output features: {w.shape}")
    return bias
