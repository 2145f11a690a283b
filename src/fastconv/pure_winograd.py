"""The Winograd kernels in plain NumPy; `pyx/transforms.pxd` has the algorithm."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .algorithm import first_taps, phase_taps, piece_taps

Array = NDArray[np.floating]
Pair = tuple[int, int]
Transforms = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# That are summed before they are added to the rest: how NumPy's BLAS sums depends on the processor, and with
# AVX-512 a long sum came to three times the rounding error.
_CHANNELS = 32
# Polynomials are multiplied at these points and at infinity: for 2 taps without the last, for 5 on a
# single axis at some more.
_POINTS = np.array([0, 1, -1, 2, -0.5])
_LONG_POINTS = np.array([0, 1, -1, 2, -2, 0.5, -0.5])


def _powers(points: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(points + 1, count): the powers of the points, and of infinity the last."""
    powers = np.zeros((len(points) + 1, count))
    powers[:-1], powers[-1, -1] = np.vander(points, count, increasing=True), 1
    return powers


def _transforms(points: NDArray[np.float64], taps: int) -> Transforms:
    """A (points, outputs), B (points, points) and G (points, taps), where infinity is a point, too.

    They are those of Toom and Cook (Blahut, Fast Algorithms, section 5.2).
    """
    count = len(points)
    others = [np.delete(points, i) for i in range(count)]
    A, B, G = _powers(points, count + 2 - taps), np.zeros((count + 1, count + 1)), _powers(points, taps)
    G[:-1] /= [[np.prod(point - rest)] for point, rest in zip(points, others)]
    for i in range(count):
        B[:-1, i] = np.poly(others[i])[::-1]
    B[:, -1] = np.poly(points)[::-1]
    return A, B, G


_NONE = np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1))
_MATRICES = {1: _NONE, 2: _transforms(_POINTS[:4], 2), 3: _transforms(_POINTS, 3), 5: _transforms(_POINTS, 5)}
_LONG = _transforms(_LONG_POINTS, 5)


def matrices(taps: tuple[int, ...]) -> tuple[Transforms, Transforms]:
    """The transforms down and across, for so many rows and columns of a kernel."""
    rows, cols = taps
    return _MATRICES[rows], _LONG if taps == (1, 5) else _MATRICES[cols]


def phases(
    x: Array, w: Array, stride: Pair, pad: Pair, up: Pair, outs: Pair
) -> tuple[Array, Array, Pair, Pair]:
    """Input, weights, padding and outputs of the convolution with stride 1 that has a channel for each part.

    A stride s makes s*s times as many input channels, each of every s-th row and column; upsampling as
    many times more output channels; and the pieces of a long kernel as many times more input channels,
    shifted. Where a part has fewer taps than another the others are zero.
    """
    if stride == up == (1, 1):
        return _cut(x, w, pad, outs)
    axes = list(zip(w.shape[2:], stride, pad, up))
    taps = [phase_taps(*axis) for axis in axes]
    firsts = [first_taps(size, count, *steps) for (size, *steps), count in zip(axes, taps)]
    if up == (1, 1):
        high, wide = (max(p, 0) for p in pad)
        low = [max(-p, 0) for p in pad]
        padded = np.pad(x, ((0, 0), (0, 0), (high, high + stride[0]), (wide, wide + stride[1])))
        padded = padded[:, :, low[0] :, low[1] :]
        sizes = [size // step * step for size, step in zip(padded.shape[2:], stride)]
        padded = padded[:, :, : sizes[0], : sizes[1]]
        x = np.concatenate(
            [padded[:, :, i :: stride[0], j :: stride[1]] for i in firsts[0] for j in firsts[1]], axis=1
        )
        return x, _some_taps(w, firsts, stride, taps, axis=1), (0, 0), outs
    # Input i + origin of a phase of outputs meets the kernel's tap up*(i + origin) + pad - phase.
    origins = [-(p // step) for p, step in zip(pad, up)]
    return (
        x, _some_taps(w, firsts, up, taps, axis=0), (-origins[0], -origins[1]),
        (-(-outs[0] // up[0]), -(-outs[1] // up[1])),
    )


def _cut(x: Array, w: Array, pad: Pair, outs: Pair) -> tuple[Array, Array, Pair, Pair]:
    """Long kernels in pieces."""
    taps = [piece_taps(size) for size in w.shape[2:]]
    firsts = [first_taps(size, part, 1, 0, 1) for size, part in zip(w.shape[2:], taps)]
    if len(firsts[0]) == len(firsts[1]) == 1:
        return x, w, pad, outs
    last_row, last_col = (first[-1] for first in firsts)
    reaches = outs[0] + taps[0] - 1, outs[1] + taps[1] - 1
    # [:, :, first row, first column]
    windows = _tiles(x, pad, (last_row + 1, last_col + 1), (1, 1), reaches)
    x = np.concatenate([windows[:, :, i, j] for i in firsts[0] for j in firsts[1]], axis=1)
    return x, _some_taps(w, firsts, (1, 1), taps, axis=1), (0, 0), outs


def _some_taps(w: Array, firsts: list[list[int]], steps: Pair, taps: list[int], axis: int) -> Array:
    """For every pair of parts the taps first + step*i of the kernel, along an axis of channels."""
    kernels = []
    for down in firsts[0]:
        for across in firsts[1]:
            kernel = np.zeros((*w.shape[:2], *taps), w.dtype)
            for i in range(taps[0]):
                for j in range(taps[1]):
                    u, v = down + steps[0] * i, across + steps[1] * j
                    if 0 <= u < w.shape[2] and 0 <= v < w.shape[3]:
                        kernel[:, :, i, j] = w[:, :, u, v]
            kernels.append(kernel)
    return np.concatenate(kernels, axis=axis)


def _tiles(image: Array, pad: Pair, outs: Pair, sides: Pair, reaches: Pair) -> Array:
    """(N, C, rows, cols, *reaches): a window for every `sides` outputs, zero outside the image."""
    counts = [-(-out // side) for out, side in zip(outs, sides)]
    widths = [
        (p, max(0, side * (count - 1) + reach - p - size))
        for p, side, count, reach, size in zip(pad, sides, counts, reaches, image.shape[2:])
    ]
    padded = np.pad(image, ((0, 0), (0, 0), *((max(0, low), high) for low, high in widths)))
    skip = [max(0, -p) for p in pad]
    windows = sliding_window_view(padded[:, :, skip[0] :, skip[1] :], reaches, axis=(2, 3))
    return windows[:, :, :: sides[0], :: sides[1]][:, :, : counts[0], : counts[1]]


def in_silence(kernel: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """What the compiled kernels do not report, these do not either: 0 * infinity is NaN in silence.

    Products of matrices "divide by zero", too, where OpenBLAS uses SME (ARM).
    """

    @wraps(kernel)
    def silent(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        # A new one each time: before NumPy 2, one entered twice never gave back the caller's.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return kernel(*args, **kwargs)

    return silent


@in_silence
def winograd(
    x: Array, w: Array, b: Array | None, out: Array, stride: Pair, pad: Pair, up: Pair, threads: int
) -> bool:
    # BLAS may leave out a product with zero, and so lose what is not finite, before the result can tell.
    if not (np.isfinite(x).all() and np.isfinite(w).all()):
        return False
    x, w, pad, outs = phases(x, w, stride, pad, up, out.shape[2:])
    (A, B, G), (Aw, Bw, Gw) = (
        [matrix.astype(out.dtype) for matrix in of_axis] for of_axis in matrices(w.shape[2:])
    )
    sides, reaches = (A.shape[1], Aw.shape[1]), (len(A), len(Aw))
    inputs = B.T @ _tiles(x, pad, outs, sides, reaches) @ Bw
    weights = G @ w @ Gw.T
    products = np.zeros((), out.dtype)
    for c in range(0, inputs.shape[1], _CHANNELS):
        some = slice(c, c + _CHANNELS)
        products = products + np.einsum(
            "ncpqij,ocij->nopqij", inputs[:, some], weights[:, some], optimize=True
        )
    Y = A.T @ products @ Aw
    N, O, rows, cols = Y.shape[:4]
    Z = Y.transpose(0, 1, 2, 4, 3, 5).reshape(N, O, sides[0] * rows, sides[1] * cols)
    filters = out.shape[1]
    for phase in range(up[0] * up[1]):
        kept = out[:, :, phase // up[1] :: up[0], phase % up[1] :: up[1]]
        kept[...] = Z[:, phase * filters :][:, :filters, : kept.shape[2], : kept.shape[3]]
    if b is not None:
        out += b[:, None, None]
    return bool(np.isfinite(out).all())


@in_silence
def winograd_weights(x: Array, dz: Array, dw: Array, pad: Pair, threads: int) -> bool:
    if not (np.isfinite(x).all() and np.isfinite(dz).all()):
        return False
    taps = [piece_taps(size) for size in dw.shape[2:]]
    (A, B, G), (Aw, Bw, Gw) = (
        [matrix.astype(dw.dtype) for matrix in of_axis] for of_axis in matrices((taps[0], taps[1]))
    )
    sides, reaches = (A.shape[1], Aw.shape[1]), (len(A), len(Aw))
    gradients = A @ _tiles(dz, (0, 0), dz.shape[2:], sides, sides) @ Aw.T
    for u in range(0, dw.shape[2], taps[0]):
        for v in range(0, dw.shape[3], taps[1]):
            inputs = B.T @ _tiles(x, (pad[0] - u, pad[1] - v), dz.shape[2:], sides, reaches) @ Bw
            sums = np.einsum("nopqij,ncpqij->ocij", gradients, inputs, optimize=True)
            piece = dw[:, :, u : u + taps[0], v : v + taps[1]]
            piece[...] = (G.T @ sums @ Gw)[:, :, : piece.shape[2], : piece.shape[3]]
    return bool(np.isfinite(dw).all())
