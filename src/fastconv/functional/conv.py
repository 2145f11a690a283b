"""Convolution (cross-correlation) of 1-D and 2-D images, strided, padded, dilated by zeros.

All of them, and their gradients, are two kernels (`pyx/conv.pyx`, `pyx/conv_weights.pyx`), which
those of Winograd (`pyx/winograd.pyx`, `pyx/winograd_weights.pyx`) replace where they are faster. With
stride s, padding p and upsampling k (k - 1 zeros between the inputs' neighbours) the forward is

    Z[n,o,i,j] = b[o] + sum over c,u,v of  W[o,c,u,v] * up_k(A)[n, c, i*s + u - p, j*s + v - p]

and its gradient with respect to A is the same sum over dLdZ, with W rotated by 180 degrees and its
channel axes exchanged, padding K - 1 - p, and stride and upsampling exchanged.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array, Pair
from ..algorithm import winograd_runs
from ..backend import kernels, threads_for

# Of a padded axis, so that every position in it fits a signed integer of the kernels.
_LARGEST = sys.maxsize // 4
# What conv1d and conv2d take for stride, padding and upsampling.
Size = int | Pair


def conv2d_forward(
    A: Any, W: Any, b: Any = None, stride: Size = 1, padding: Size = 0, upsampling: Size = 1
) -> Array:
    """Cross-correlate A with W.

    Parameters
    ----------
    A : array_like (N, C, H, W)
    W : array_like (O, C, KH, KW)
    b : array_like (O,), optional
    stride, padding, upsampling : int or (int, int)
        For (height, width). `padding` zeros are put around the image after `upsampling - 1` zeros
        were put between its neighbours.

    Returns
    -------
    ndarray (N, O, (up*(H-1) + 1 + 2p - KH)//s + 1, ...)
        In the dtype that NumPy promotes A and W to, narrowed to float32 or float64.

    Raises
    ------
    TypeError
        An array that is none, or not of real numbers; a size that is not an integer.
    ValueError
        Shapes that do not fit each other; sizes out of range.
    """
    return _forward(4, A, W, b, stride, padding, upsampling)


def conv2d_backward(
    dLdZ: Any, A: Any, W: Any, stride: Size = 1, padding: Size = 0, upsampling: Size = 1
) -> tuple[Array, Array, Array]:
    """Gradients of a loss through `conv2d_forward`, from its gradient with respect to Z.

    Parameters
    ----------
    dLdZ : array_like, in the shape of Z
    A, W, stride, padding, upsampling
        As given to `conv2d_forward`.

    Returns
    -------
    dLdA, dLdW, dLdb : ndarray
        In the shapes and dtypes of A, W and b (integers: float64).

    Raises
    ------
    TypeError, ValueError
        As `conv2d_forward`.
    """
    return _backward(4, dLdZ, A, W, stride, padding, upsampling)


def conv1d_forward(
    A: Any, W: Any, b: Any = None, stride: int = 1, padding: int = 0, upsampling: int = 1
) -> Array:
    """`conv2d_forward` for A (N, C, W) and W (O, C, K)."""
    return _forward(3, A, W, b, stride, padding, upsampling)


def conv1d_backward(
    dLdZ: Any, A: Any, W: Any, stride: int = 1, padding: int = 0, upsampling: int = 1
) -> tuple[Array, Array, Array]:
    """`conv2d_backward` for A (N, C, W) and W (O, C, K)."""
    return _backward(3, dLdZ, A, W, stride, padding, upsampling)


def _forward(ndim: int, A: Any, W: Any, b: Any, stride: Size, padding: Size, upsampling: Size) -> Array:
    a, w = check.array("A", A, ndim), check.array("W", W, ndim)
    s, p, up = _steps(ndim, stride, padding, upsampling)
    shape, s, up = _geometry(a, w, s, p, up)
    bias = None if b is None else check.array("b", b, 1)
    if bias is not None and bias.shape[0] != w.shape[0]:
        raise ValueError(f"b has shape {bias.shape}, but W has {w.shape[0]} output channels: {w.shape}")
    dtype = check.real_dtype(a, w)
    Z = check.empty("the result", shape, dtype)
    check.fits("A", a.shape, dtype.itemsize)
    _correlate(
        _as_2d(check.ready(a, dtype)), _as_2d(check.ready(w, dtype)),
        None if bias is None else check.ready(bias, dtype), _as_2d(Z), s, p, up,
    )
    return Z


def _backward(
    ndim: int, dLdZ: Any, A: Any, W: Any, stride: Size, padding: Size, upsampling: Size
) -> tuple[Array, Array, Array]:
    dz, a, w = check.array("dLdZ", dLdZ, ndim), check.array("A", A, ndim), check.array("W", W, ndim)
    s, p, up = _steps(ndim, stride, padding, upsampling)
    shape, s, up = _geometry(a, w, s, p, up)
    check.same_shape("dLdZ", dz, shape, "Z")
    dtype = check.real_dtype(dz, a, w)
    dLdA = check.empty("dLdA", a.shape, dtype)
    dLdW = check.empty("dLdW", w.shape, dtype)
    dLdb = np.empty(w.shape[0], dtype)
    check.fits("dLdZ", dz.shape, dtype.itemsize)
    dz2, a2, w2 = (_as_2d(check.ready(x, dtype)) for x in (dz, a, w))
    _correlate(*_as_input_gradient(dz2, w2, _as_2d(dLdA), s, p, up))
    _correlate_weights(a2, dz2, _as_2d(dLdW), dLdb, s, p, up)
    return (
        dLdA.astype(check.gradient_dtype(a, dtype), copy=False),
        dLdW.astype(check.gradient_dtype(w, dtype), copy=False),
        dLdb.astype(check.gradient_dtype(w, dtype), copy=False),
    )


def _as_input_gradient(
    dz: Array, w: Array, dx: Array, stride: Pair, padding: Pair, up: Pair
) -> tuple[Array, Array, None, Array, Pair, Pair, Pair]:
    """The arguments with which `_correlate` computes the gradient with respect to A."""
    rotated = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return dz, rotated, None, dx, up, (w.shape[2] - 1 - padding[0], w.shape[3] - 1 - padding[1]), stride


def _correlate(
    x: Array, w: Array, b: Array | None, out: Array, stride: Pair, pad: Pair, up: Pair
) -> None:
    kernel = kernels(out.dtype)
    threads = threads_for(out.size * (w.size // w.shape[0]) // (up[0] * up[1]))
    if (
        w.shape[2:] == (3, 3)
        and stride == up == (1, 1)
        and winograd_runs(w.shape[1], w.shape[0], out.shape[0], *out.shape[2:])
        and kernel.winograd(x, w, b, out, pad, threads)
    ):
        return
    kernel.correlate(x, w, b, out, stride, pad, up, threads)


def _correlate_weights(
    x: Array, dz: Array, dw: Array, db: Array, stride: Pair, pad: Pair, up: Pair
) -> None:
    kernel = kernels(dw.dtype)
    threads = threads_for(dz.size * (dw.size // dw.shape[0]) // (up[0] * up[1]))
    kernel.sum_channels(dz, db, threads)
    if (
        dw.shape[2:] == (3, 3)
        and stride == up == (1, 1)
        and winograd_runs(dw.shape[1], dw.shape[0], dz.shape[0], *dz.shape[2:])
        and kernel.winograd_weights(x, dz, dw, pad, threads)
    ):
        return
    kernel.correlate_weights(x, dz, dw, stride, pad, up, threads)


def _as_2d(x: Array) -> Array:
    """A 1-D image is a 2-D image of height 1."""
    return x if x.ndim == 4 else x[:, :, None]


def _steps(ndim: int, stride: Size, padding: Size, upsampling: Size) -> tuple[Pair, Pair, Pair]:
    if ndim == 4:
        return (
            check.pair("stride", stride, 1),
            check.pair("padding", padding, 0),
            check.pair("upsampling", upsampling, 1),
        )
    return (
        (1, check.integer("stride", stride, 1)),
        (0, check.integer("padding", padding, 0)),
        (1, check.integer("upsampling", upsampling, 1)),
    )


def _geometry(
    a: Array, w: Array, stride: Pair, padding: Pair, up: Pair
) -> tuple[tuple[int, ...], Pair, Pair]:
    """The shape of Z, and stride and upsampling as the kernels need them."""
    check.not_empty("A", a)
    if 0 in w.shape:
        raise ValueError(f"W has shape {w.shape}: no size may be 0")
    if a.shape[1] != w.shape[1]:
        raise ValueError(
            f"A has {a.shape[1]} channels, but W has {w.shape[1]} input channels: "
            f"shapes {a.shape} and {w.shape}"
        )
    if a.ndim == 3:
        out, s, k = _axis(a, w, 2, stride[1], padding[1], up[1])
        return (a.shape[0], w.shape[0], out), (1, s), (1, k)
    rows, s_rows, k_rows = _axis(a, w, 2, stride[0], padding[0], up[0])
    cols, s_cols, k_cols = _axis(a, w, 3, stride[1], padding[1], up[1])
    return (a.shape[0], w.shape[0], rows, cols), (s_rows, s_cols), (k_rows, k_cols)


def _axis(a: Array, w: Array, axis: int, stride: int, padding: int, up: int) -> tuple[int, int, int]:
    n, kernel = a.shape[axis], w.shape[axis]
    size = up * (n - 1) + 1 + 2 * padding
    if kernel > size:
        raise ValueError(
            f"the kernel is larger than the input: W has shape {w.shape}, A {a.shape} with "
            f"upsampling {up} and padding {padding}, that is {kernel} against {size}"
        )
    if size > _LARGEST:
        raise ValueError(
            f"the input is too large: A has shape {a.shape} with upsampling {up} and padding {padding}, "
            f"that is {size} against {_LARGEST}"
        )
    out = (size - kernel) // stride + 1
    # With one output there is no step to the next, with one input no zeros to insert; the kernels
    # would overflow on a step that no array bounds.
    return out, stride if out > 1 else 1, up if n > 1 else 1
