"""Batch normalisation of the channels of 2-D images (Ioffe and Szegedy, 2015)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check as check
from .._check import FLOAT64, Array
from ..backend import kernels, threads_for


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
    z, scale, shift, dtype = _prepare(Z, BW, Bb)
    BZ = check.empty("the result", z.shape, dtype)
    workspace = BatchNormWorkspace(np.zeros(z.shape[1]), np.zeros(z.shape[1]))
    if z.size:
        kernels(dtype).batch_norm(
            check.ready(z, dtype), scale, shift, float(eps), *workspace, BZ, threads_for(3 * z.size)
        )
    return BZ, workspace


def batchnorm2d_eval(Z: Any, BW: Any, Bb: Any, M: Any, V: Any, eps: float = 1e-8) -> Array:
    """`batchnorm2d_forward` with given statistics: M and V, array_like (1, C, 1, 1) or (C,)."""
    z, scale, shift, dtype = _prepare(Z, BW, Bb)
    mean = check.ready(check.vector("M", M, z.shape[1], "Z"), FLOAT64)
    var = check.ready(check.vector("V", V, z.shape[1], "Z"), FLOAT64)
    BZ = check.empty("the result", z.shape, dtype)
    if z.size:
        kernels(dtype).batch_norm_eval(
            check.ready(z, dtype), scale, shift, float(eps), mean, var, BZ, threads_for(z.size)
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
    z, scale, _, dtype = _prepare(Z, BW, BW)
    check.same_shape("dLdBZ", dz, z.shape, "Z")
    mean = check.ready(check.vector("workspace.mean", workspace[0], z.shape[1], "Z"), FLOAT64)
    var = check.ready(check.vector("workspace.var", workspace[1], z.shape[1], "Z"), FLOAT64)
    dtype = check.real_dtype(dz, np.empty(0, dtype))
    dLdZ = check.empty("dLdZ", z.shape, dtype)
    dscale, dshift = np.zeros(z.shape[1]), np.zeros(z.shape[1])
    if z.size:
        kernels(dtype).batch_norm_gradient(
            check.ready(z, dtype), check.ready(dz, dtype), scale, float(eps), mean, var,
            dLdZ, dscale, dshift, threads_for(3 * z.size),
        )
    parameter = check.gradient_dtype(check.array("BW", BW), dtype)
    return (
        dLdZ.astype(check.gradient_dtype(z, dtype), copy=False),
        dscale.astype(parameter).reshape(1, -1, 1, 1),
        dshift.astype(parameter).reshape(1, -1, 1, 1),
    )


def _prepare(Z: Any, BW: Any, Bb: Any) -> tuple[Array, Array, Array, np.dtype[Any]]:
    z = check.array("Z", Z, 4)
    check.not_empty("Z", z)
    bw, bb = check.vector("BW", BW, z.shape[1], "Z"), check.vector("Bb", Bb, z.shape[1], "Z")
    dtype = check.real_dtype(z, bw)
    check.fits("Z", z.shape, dtype.itemsize)
    return z, check.ready(bw, FLOAT64), check.ready(bb, FLOAT64), dtype
