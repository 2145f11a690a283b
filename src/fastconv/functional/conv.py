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

from .. import _check as check
from .._check import Array, Pair
from ..algorithm import winograd_runs
from ..backend import empty, kernels, threads_for

# Of a padded axis, so that every position in it fits a signed integer of the kernels.
_LARGEST = sys.maxsize // 4
_ONE = (1, 1)
# A 1-D image is a 2-D image of height 1.
_ROW = (slice(None), slice(None), None)
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
    a, w = check.array("A", A, 4), check.array("W", W, 4)
    return _forward(
        a, w, b,
        check.pair("stride", stride, 1),
        check.pair("padding", padding, 0),
        check.pair("upsampling", upsampling, 1),
    )


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
    dz, a, w = check.array("dLdZ", dLdZ, 4), check.array("A", A, 4), check.array("W", W, 4)
    return _backward(
        dz, a, w,
        check.pair("stride", stride, 1),
        check.pair("padding", padding, 0),
        check.pair("upsampling", upsampling, 1),
    )


def conv1d_forward(
    A: Any, W: Any, b: Any = None, stride: int = 1, padding: int = 0, upsampling: int = 1
) -> Array:
    """`conv2d_forward` for A (N, C, W) and W (O, C, K)."""
    a, w = check.array("A", A, 3), check.array("W", W, 3)
    return _forward(a, w, b, *_steps_1d(stride, padding, upsampling))


def conv1d_backward(
    dLdZ: Any, A: Any, W: Any, stride: int = 1, padding: int = 0, upsampling: int = 1
) -> tuple[Array, Array, Array]:
    """`conv2d_backward` for A (N, C, W) and W (O, C, K)."""
    dz, a, w = check.array("dLdZ", dLdZ, 3), check.array("A", A, 3), check.array("W", W, 3)
    return _backward(dz, a, w, *_steps_1d(stride, padding, upsampling))


def _steps_1d(stride: int, padding: int, upsampling: int) -> tuple[Pair, Pair, Pair]:
    return (
        (1, check.integer("stride", stride, 1)),
        (0, check.integer("padding", padding, 0)),
        (1, check.integer("upsampling", upsampling, 1)),
    )


def _forward(a: Array, w: Array, b: Any, stride: Pair, padding: Pair, up: Pair) -> Array:
    shape, stride, up = _geometry(a, w, stride, padding, up)
    bias = None
    dtype = check.real_dtype(a, w)
    if b is not None:
        bias = check.array("b", b, 1)
        if bias.shape[0] != w.shape[0]:
            raise ValueError(f"b has shape {bias.shape}, but W has {w.shape[0]} output channels: {w.shape}")
        bias = check.ready(bias, dtype)
    Z = empty("the result", shape, dtype)
    a, w = check.ready(a, dtype, "A"), check.ready(w, dtype, "W")
    if a.ndim == 4:
        _correlate(a, w, bias, Z, stride, padding, up)
    else:
        _correlate(a[_ROW], w[_ROW], bias, Z[_ROW], stride, padding, up)
    return Z


def _backward(
    dz: Array, a: Array, w: Array, stride: Pair, padding: Pair, up: Pair
) -> tuple[Array, Array, Array]:
    shape, stride, up = _geometry(a, w, stride, padding, up)
    check.same_shape("dLdZ", dz, shape, "Z")
    dtype = check.real_dtype(dz, a, w)
    dLdA = empty("dLdA", a.shape, dtype)
    dLdW = empty("dLdW", w.shape, dtype)
    dLdb = empty("dLdb", w.shape[:1], dtype)
    dz, x = check.ready(dz, dtype, "dLdZ"), check.ready(a, dtype, "A")
    filters, dx, dw = check.ready(w, dtype, "W"), dLdA, dLdW
    if a.ndim == 3:
        dz, x, filters, dx, dw = dz[_ROW], x[_ROW], filters[_ROW], dx[_ROW], dw[_ROW]
    _input_gradient(dz, filters, dx, stride, padding, up)
    _weight_gradient(x, dz, dw, dLdb, stride, padding, up)
    return (
        check.narrowed(dLdA, a, dtype), check.narrowed(dLdW, w, dtype), check.narrowed(dLdb, w, dtype)
    )


# Below, images have four dimensions, and arrays are as the kernels want them.


def _correlate(
    x: Array, w: Array, b: Array | None, out: Array, stride: Pair, pad: Pair, up: Pair
) -> None:
    kernel = kernels(out.dtype)
    threads = _threads(out, w, up)
    if (
        winograd_runs(w.shape, out.shape, stride, pad, up, out.itemsize)
        and kernel.winograd(x, w, b, out, stride, pad, up, threads)
    ):
        return
    kernel.correlate(x, w, b, out, stride, pad, up, threads)


def _threads(out: Array, w: Array, up: Pair) -> int:
    # Four multiply-adds take as long as another operation.
    return threads_for(out.size * w[0].size // (4 * up[0] * up[1]))


def _input_gradient(dz: Array, w: Array, dx: Array, stride: Pair, padding: Pair, up: Pair) -> None:
    rotated = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    pad = w.shape[2] - 1 - padding[0], w.shape[3] - 1 - padding[1]
    _correlate(dz, rotated, None, dx, up, pad, stride)


def _weight_gradient(
    x: Array, dz: Array, dw: Array, db: Array, stride: Pair, pad: Pair, up: Pair
) -> None:
    kernel = kernels(dw.dtype)
    threads = _threads(dz, dw, up)
    if (
        winograd_runs(dw.shape, dz.shape, stride, pad, up, dw.itemsize, weights=True)
        and kernel.winograd_weights(x, dz, dw, pad, threads)
    ):
        kernel.sum_channels(dz, db, threads)
    else:
        kernel.correlate_weights(x, dz, dw, db, stride, pad, up, threads)


def _geometry(
    a: Array, w: Array, stride: Pair, padding: Pair, up: Pair
) -> tuple[tuple[int, ...], Pair, Pair]:
    """The shape of Z, and stride and upsampling as the kernels need them."""
    if a.ndim == 4:
        (N, C, H, W), (O, channels, KH, KW) = a.shape, w.shape
    else:
        (N, C, W), (O, channels, KW) = a.shape, w.shape
        H = KH = 1
    if channels != C:
        raise ValueError(
            f"A has {C} channels, but W has {channels} input channels: shapes {a.shape} and {w.shape}"
        )
    if not (C and H and W and O and KH and KW):
        check.not_empty("A", a)
        raise ValueError(f"W has shape {w.shape}: no size may be 0")
    height, width = up[0] * (H - 1) + 1 + 2 * padding[0], up[1] * (W - 1) + 1 + 2 * padding[1]
    if not (KH <= height <= _LARGEST and KW <= width <= _LARGEST):
        raise _misfit(a, w, padding, up, (height, width), (KH, KW))
    P, Q = (height - KH) // stride[0] + 1, (width - KW) // stride[1] + 1
    # With one output there is no step to the next, with one input no zeros to insert; the kernels
    # would overflow on a step that no array bounds.
    if P == 1 or Q == 1:
        stride = stride[0] if P > 1 else 1, stride[1] if Q > 1 else 1
    if H == 1 or W == 1:
        up = up[0] if H > 1 else 1, up[1] if W > 1 else 1
    return (N, O, P, Q) if a.ndim == 4 else (N, O, Q), stride, up


def _misfit(a: Array, w: Array, padding: Pair, up: Pair, sizes: Pair, kernel: Pair) -> ValueError:
    axis = 0 if not kernel[0] <= sizes[0] <= _LARGEST else 1
    size = sizes[axis]
    of = f"A {a.shape} with upsampling {up[axis]} and padding {padding[axis]}"
    if kernel[axis] > size:
        return ValueError(
            f"the kernel is larger than the input: W has shape {w.shape}, {of}, "
            f"that is {kernel[axis]} against {size}"
        )
    return ValueError(f"the input is too large: {of}, that is {size} against {_LARGEST}")
