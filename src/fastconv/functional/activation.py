"""Elementwise activations and softmax.

Every `*_backward` takes the gradient with respect to the output, or None for the derivative dA/dZ
itself, and what its forward read or gave. Results are float32 for float32 and float64 for all
else; errors are those of any function here: TypeError for what is no array of real numbers,
ValueError for shapes that differ. Magnitudes that would overflow on the way raise no warnings.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array
from ..backend import kernels, threads_for

# exp(-x*x/2) is 0 in float64 from here on.
_NORMAL_TAIL = 40.0


def sigmoid(Z: Any) -> Array:
    """1 / (1 + exp(-Z)), without overflow."""
    z = _real("Z", Z)
    e = np.asarray(np.exp(-np.abs(z)))
    A = np.where(z < 0, e, z.dtype.type(1))
    e += 1
    A /= e
    return A


def sigmoid_backward(dLdA: Any, A: Any) -> Array:
    """dLdA * A * (1 - A), for the A that `sigmoid` gave."""
    a = _real("A", A)
    slope = np.asarray(1 - a)
    slope *= a
    return _times(slope, dLdA)


def tanh(Z: Any) -> Array:
    """The hyperbolic tangent."""
    return np.asarray(np.tanh(_real("Z", Z)))


def tanh_backward(dLdA: Any, A: Any) -> Array:
    """dLdA * (1 - A^2), for the A that `tanh` gave."""
    a = _real("A", A)
    slope = np.asarray(a * a)
    np.subtract(1, slope, out=slope)
    return _times(slope, dLdA)


def relu(Z: Any) -> Array:
    """max(Z, 0); NaN stays."""
    z = _real("Z", Z)
    return np.asarray(np.maximum(z, z.dtype.type(0)))


def relu_backward(dLdA: Any, Z: Any) -> Array:
    """dLdA where Z > 0, else 0: chosen, not multiplied, so that infinities do not become NaN."""
    z = _real("Z", Z)
    if dLdA is None:
        return (z > 0).astype(z.dtype)
    dz = check.array("dLdA", dLdA)
    check.same_shape("dLdA", dz, z.shape, "A")
    slope = np.zeros(z.shape, z.dtype)
    np.copyto(slope, dz, where=z > 0, casting="same_kind" if dz.dtype.kind == "f" else "unsafe")
    return slope


def _normal_cdf(z: Array) -> Array:
    """(1 + erf(z / sqrt 2)) / 2."""
    scaled = np.asarray(z * z.dtype.type(math.sqrt(0.5)))
    cdf = np.empty(z.shape, z.dtype)
    # An erf takes as long as 20 to 50 multiply-adds.
    kernels(z.dtype).erf(scaled.reshape(-1), cdf.reshape(-1), threads_for(20 * z.size))
    cdf += 1
    cdf *= z.dtype.type(0.5)
    return cdf


def gelu(Z: Any) -> Array:
    """Z * P(X <= Z) for a standard normal X: the exact form with erf (Hendrycks and Gimpel, 2016)."""
    z = _real("Z", Z)
    A = _normal_cdf(z)
    # Far below zero the factor is 0, and must stay so for an infinite Z.
    A *= np.maximum(z, z.dtype.type(-_NORMAL_TAIL))
    return A


def gelu_backward(dLdA: Any, Z: Any) -> Array:
    """dLdA * (P(X <= Z) + Z * p(Z)), p the normal density."""
    z = _real("Z", Z)
    near = np.clip(z, -_NORMAL_TAIL, _NORMAL_TAIL)
    slope = np.asarray(np.exp(near * near * z.dtype.type(-0.5)))
    slope *= near * z.dtype.type(1 / math.sqrt(2 * math.pi))
    slope += _normal_cdf(z)
    return _times(slope, dLdA)


def swish(Z: Any, beta: float = 1.0) -> Array:
    """Z * sigmoid(beta Z) (Ramachandran et al., 2017)."""
    z = _real("Z", Z)
    A = sigmoid(_scaled(z, beta))
    return _product(z, A)


def swish_backward(dLdA: Any, Z: Any, beta: float = 1.0) -> tuple[Array, np.floating[Any]]:
    """dLdA * dA/dZ, and the gradient with respect to beta: the sum of dLdA * dA/dbeta."""
    z = _real("Z", Z)
    s, rest = sigmoid(_scaled(z, beta)), sigmoid(_scaled(z, -beta))  # rest = 1 - s, exact for s near 1
    steep = _product(z, s * rest)
    dLdbeta = np.float64(_times(_product(z, steep), dLdA).sum(dtype=np.float64))
    steep *= z.dtype.type(beta)
    steep += s
    return _times(steep, dLdA), dLdbeta


def _scaled(z: Array, beta: float) -> Array:
    with np.errstate(over="ignore"):  # an infinity is as good: its sigmoid is 0 or 1
        return np.asarray(z * z.dtype.type(beta))


def _product(z: Array, factor: Array) -> Array:
    """z * factor, and 0 where factor is 0 even if z is infinite."""
    return np.multiply(z, factor, out=np.zeros_like(z), where=factor != 0)


def softmax(Z: Any) -> Array:
    """exp(Z) / sum of exp(Z) over each row of Z (N, C), shifted so that nothing overflows."""
    z = _real("Z", Z, 2)
    check.not_empty("Z", z)
    with np.errstate(over="ignore"):  # -1e308 - 1e308 is -inf, of which the exponential is 0
        A = z - z.max(axis=1, keepdims=True)
    np.exp(A, out=A)
    A /= A.sum(axis=1, keepdims=True)
    return np.asarray(A)


def softmax_backward(dLdA: Any, A: Any) -> Array:
    """Each row of dLdA times the Jacobian diag(A) - A^T A, for the A (N, C) that `softmax` gave."""
    a = _real("A", A, 2)
    dz = check.array("dLdA", dLdA, 2)
    check.same_shape("dLdA", dz, a.shape, "A")
    inner = (dz * a).sum(axis=1, keepdims=True)
    return _times(np.array(a), dz - inner)


def _real(name: str, value: Any, ndim: int | None = None) -> Array:
    a = check.array(name, value, ndim)
    dtype = check.real_dtype(a)
    check.fits(name, a.shape, dtype.itemsize)
    return np.asarray(a, dtype=dtype, order="C")


def _times(slope: Array, dLdA: Any) -> Array:
    """slope * dLdA in the dtype of slope, which may be overwritten."""
    if dLdA is None:
        return slope
    dz = check.array("dLdA", dLdA)
    check.same_shape("dLdA", dz, slope.shape, "A")
    return np.multiply(slope, dz, out=slope, casting="same_kind")
