"""Elementwise activations and softmax.

Every `*_backward` takes the gradient with respect to the output, or None for the derivative dA/dZ
itself, and what its forward read or gave. Results are float32 for float32 and float64 for all
else; errors are those of any function here: TypeError for what is no array of real numbers,
ValueError for shapes that differ. Magnitudes that would overflow on the way raise no warnings.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array
from ..backend import empty, kernels, threads_for

# An exponential and what goes with it takes as long as so many multiply-adds.
_EXPONENTIAL = 16


def sigmoid(Z: Any) -> Array:
    """1 / (1 + exp(-Z)), without overflow."""
    z, A = _prepare("Z", Z)
    kernels(z.dtype).sigmoid(z, A, threads_for(_EXPONENTIAL * z.size))
    return A


def sigmoid_backward(dLdA: Any, A: Any) -> Array:
    """dLdA * A * (1 - A), for the A that `sigmoid` gave."""
    a, dz, dLdZ = _prepare_backward(dLdA, "A", A)
    kernels(a.dtype).sigmoid_gradient(dz, a, dLdZ, threads_for(a.size))
    return dLdZ


def tanh(Z: Any) -> Array:
    """The hyperbolic tangent."""
    z, A = _prepare("Z", Z)
    kernels(z.dtype).tanh(z, A, threads_for(_EXPONENTIAL * z.size))
    return A


def tanh_backward(dLdA: Any, A: Any) -> Array:
    """dLdA * (1 - A^2), for the A that `tanh` gave."""
    a, dz, dLdZ = _prepare_backward(dLdA, "A", A)
    kernels(a.dtype).tanh_gradient(dz, a, dLdZ, threads_for(a.size))
    return dLdZ


def relu(Z: Any) -> Array:
    """max(Z, 0); NaN stays."""
    z, A = _prepare("Z", Z)
    kernels(z.dtype).relu(z, A, threads_for(z.size))
    return A


def relu_backward(dLdA: Any, Z: Any) -> Array:
    """dLdA where Z > 0, else 0: chosen, not multiplied, so that infinities do not become NaN."""
    z, dz, dLdZ = _prepare_backward(dLdA, "Z", Z)
    kernels(z.dtype).relu_gradient(dz, z, dLdZ, threads_for(z.size))
    return dLdZ


def gelu(Z: Any) -> Array:
    """Z * P(X <= Z) for a standard normal X: the exact form with erf (Hendrycks and Gimpel, 2016)."""
    z, A = _prepare("Z", Z)
    kernels(z.dtype).gelu(z, A, threads_for(_EXPONENTIAL * z.size))
    return A


def gelu_backward(dLdA: Any, Z: Any) -> Array:
    """dLdA * (P(X <= Z) + Z * p(Z)), p the normal density."""
    z, dz, dLdZ = _prepare_backward(dLdA, "Z", Z)
    kernels(z.dtype).gelu_gradient(dz, z, dLdZ, threads_for(_EXPONENTIAL * z.size))
    return dLdZ


def swish(Z: Any, beta: float = 1.0) -> Array:
    """Z * sigmoid(beta Z) (Ramachandran et al., 2017)."""
    z, A = _prepare("Z", Z)
    kernels(z.dtype).swish(z, check.number("beta", beta), A, threads_for(_EXPONENTIAL * z.size))
    return A


def swish_backward(dLdA: Any, Z: Any, beta: float = 1.0) -> tuple[Array, np.floating[Any]]:
    """dLdA * dA/dZ, and the gradient with respect to beta: the sum of dLdA * dA/dbeta."""
    z, dz, dLdZ = _prepare_backward(dLdA, "Z", Z)
    threads = threads_for(_EXPONENTIAL * z.size)
    dLdbeta = kernels(z.dtype).swish_gradient(dz, z, check.number("beta", beta), dLdZ, threads)
    return dLdZ, np.float64(dLdbeta)


def softmax(Z: Any) -> Array:
    """exp(Z) / sum of exp(Z) over each row of Z (N, C), shifted so that nothing overflows."""
    z, A = _prepare("Z", Z, 2)
    check.not_empty("Z", z)
    kernels(z.dtype).softmax(z, A, z.shape[1], threads_for(_EXPONENTIAL * z.size))
    return A


def softmax_backward(dLdA: Any, A: Any) -> Array:
    """Each row of dLdA times the Jacobian diag(A) - A^T A, for the A (N, C) that `softmax` gave."""
    check.array("dLdA", dLdA, 2)
    a, dz, dLdZ = _prepare_backward(dLdA, "A", A, 2)
    check.not_empty("A", a)
    kernels(a.dtype).softmax_gradient(dz, a, dLdZ, a.shape[1], threads_for(2 * a.size))
    return dLdZ


def _prepare(name: str, value: Any, ndim: int | None = None) -> tuple[Array, Array]:
    """The argument as a kernel takes it, and an array for the result."""
    a = check.array(name, value, ndim)
    dtype = check.real_dtype(a)
    out = empty(name, a.shape, dtype)
    return check.ready(a, dtype), out


def _prepare_backward(
    dLdA: Any, name: str, value: Any, ndim: int | None = None
) -> tuple[Array, Array, Array]:
    a = check.array(name, value, ndim)
    dtype = check.real_dtype(a)
    if dLdA is None:
        dz = np.ones(a.shape, dtype)
    else:
        dz = check.array("dLdA", dLdA)
        check.same_shape("dLdA", dz, a.shape, name)
    out = empty(name, a.shape, dtype)
    return check.ready(a, dtype), check.ready(dz, dtype), out
