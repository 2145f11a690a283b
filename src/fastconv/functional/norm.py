"""Batch normalisation of the channels of 2-D images (Ioffe and Szegedy, 2015), and scaled channels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check as check
from .._check import FLOAT64, Array
from ..backend import empty, kernels, threads_for


class BatchNormWorkspace(NamedTuple):
    """What `batchnorm2d_forward` keeps for its backward: each channel's statistics, float64 (C,)."""

    mean: NDArray[np.float64]
    var: NDArray[np.float64]


def batchnorm2d_forward(Z: Any, BW: Any, Bb: Any, eps: float = 1e-8) -> tuple[Array, BatchNormWorkspace]:
    """Normalise each channel by the batch's own mean and variance, then scale and shift it.

    BZ = BW * (Z - mean) / sqrt(var + eps) + Bb, with mean and biased variance over N, H and W,
    both computed in float64 around a shift, so that a large mean costs no accuracy.

    Parameters
    ----------
    Z : array_like (N, C, H, W)
    BW, Bb : array_like (1, C, 1, 1) or (C,)
    eps : float

    Returns
    -------
    BZ : ndarray (N, C, H, W)
        In the dtype that NumPy promotes Z and BW to, narrowed to float32 or float64.
    workspace : BatchNormWorkspace
        For an empty batch the statistics are zeros.

    Raises
    ------
    TypeError, ValueError
        An argument is no array of real numbers, or shapes do not fit.
    """
    z, dtype, bw, bb = _prepare(Z, BW=BW, Bb=Bb)
    scale, shift = check.ready(bw, FLOAT64), check.ready(bb, FLOAT64)
    eps = check.number("eps", eps, 0)
    BZ = empty("the result", z.shape, dtype)
    workspace = BatchNormWorkspace(np.zeros(z.shape[1]), np.zeros(z.shape[1]))
    if z.size:
        kernels(dtype).batch_norm(
            check.ready(z, dtype, "Z"), scale, shift, eps, *workspace, BZ, threads_for(3 * z.size)
        )
    return BZ, workspace


def batchnorm2d_eval(Z: Any, BW: Any, Bb: Any, M: Any, V: Any, eps: float = 1e-8) -> Array:
    """`batchnorm2d_forward` with given statistics: M and V, array_like (1, C, 1, 1) or (C,)."""
    z, dtype, bw, bb = _prepare(Z, BW=BW, Bb=Bb)
    scale, shift = check.ready(bw, FLOAT64), check.ready(bb, FLOAT64)
    eps = check.number("eps", eps, 0)
    mean = check.ready(check.vector("M", M, z.shape[1], "Z"), FLOAT64)
    var = check.ready(check.vector("V", V, z.shape[1], "Z"), FLOAT64)
    BZ = empty("the result", z.shape, dtype)
    if z.size:
        kernels(dtype).batch_norm_eval(
            check.ready(z, dtype, "Z"), scale, shift, eps, mean, var, BZ, threads_for(z.size)
        )
    return BZ


def batchnorm2d_backward(
    dLdBZ: Any, Z: Any, BW: Any, workspace: BatchNormWorkspace, eps: float = 1e-8
) -> tuple[Array, Array, Array]:
    """Gradients of a loss through `batchnorm2d_forward`, from its gradient with respect to BZ.

    Returns
    -------
    dLdZ : ndarray (N, C, H, W)
    dLdBW, dLdBb : ndarray (1, C, 1, 1)
        In the dtypes of Z and BW (integers: float64).

    Raises
    ------
    TypeError, ValueError
        As `batchnorm2d_forward`; dLdBZ is not of the shape of Z.
    """
    dz = check.array("dLdBZ", dLdBZ, 4)
    z, dtype, bw = _prepare(Z, BW=BW)
    check.same_shape("dLdBZ", dz, z.shape, "Z")
    eps = check.number("eps", eps, 0)
    M, V = _statistics(workspace)
    mean = check.ready(check.vector("workspace.mean", M, z.shape[1], "Z"), FLOAT64)
    var = check.ready(check.vector("workspace.var", V, z.shape[1], "Z"), FLOAT64)
    if dz.dtype is not dtype:
        dtype = check.real_dtype(dz, np.empty(0, dtype))
    dLdZ = empty("dLdZ", z.shape, dtype)
    dscale, dshift = np.zeros(z.shape[1]), np.zeros(z.shape[1])
    if z.size:
        kernels(dtype).batch_norm_gradient(
            check.ready(z, dtype, "Z"), check.ready(dz, dtype, "dLdBZ"), check.ready(bw, FLOAT64), eps,
            mean, var, dLdZ, dscale, dshift, threads_for(3 * z.size),
        )
    parameter = check.gradient_dtype(bw, dtype)
    return (
        dLdZ.astype(check.gradient_dtype(z, dtype), copy=False),
        dscale.astype(parameter).reshape(1, -1, 1, 1),
        dshift.astype(parameter).reshape(1, -1, 1, 1),
    )


def scale_channels(A: Any, factors: Any, dtype: Any = None) -> Array:
    """Multiply each channel of each image by a factor of its own.

    Parameters
    ----------
    A : array_like (N, C, H, W)
    factors : array_like (N, C) or (N, C, 1, 1)
    dtype : {"float64", "float32"}, optional
        To compute in. Default: what NumPy promotes A and factors to, narrowed to one of these.

    Returns
    -------
    ndarray (N, C, H, W)
        Zero times an infinity or NaN is NaN.

    Raises
    ------
    TypeError, ValueError
        A or factors is no array of real numbers, or shapes do not fit; dtype is neither.
    """
    a, by = check.array("A", A, 4), check.array("factors", factors)
    check.not_empty("A", a)
    if by.shape not in (a.shape[:2], (*a.shape[:2], 1, 1)):
        raise ValueError(f"factors has shape {by.shape}, but A has {a.shape}: one for each image and channel")
    real = check.real_dtype(a, by) if dtype is None else check.parameter_dtype(dtype)
    out = empty("the result", a.shape, real)
    if a.size:
        kernels(real).scale_planes(check.ready(a, real, "A"), check.ready(by, real), out, threads_for(a.size))
    return out


def _statistics(workspace: Any) -> tuple[Any, Any]:
    if not isinstance(workspace, tuple) or len(workspace) != 2:
        kind = type(workspace).__name__
        raise TypeError(f"workspace must be the BatchNormWorkspace of the forward, not {kind}")
    return workspace[0], workspace[1]


def _prepare(Z: Any, **parameters: Any) -> tuple[Any, ...]:
    """Z, the dtype to compute in, and the parameters, of which the first counts for it."""
    z = check.array("Z", Z, 4)
    check.not_empty("Z", z)
    vectors = [check.vector(name, value, z.shape[1], "Z") for name, value in parameters.items()]
    return z, check.real_dtype(z, vectors[0]), *vectors
