"""The Winograd kernels in plain NumPy; `pyx/transforms.pxd` has the algorithm."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.polynomial import polynomial
from numpy.typing import NDArray

Array = NDArray[np.floating]
Pair = tuple[int, int]

# Polynomials are multiplied at these points and at infinity.
_POINTS = np.array([0, 1, -1, 2, -0.5])


def _matrices() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A (6, 4), B (6, 6) and G (6, 3) of Toom and Cook (Blahut, Fast Algorithms, section 5.2)."""
    others = [np.delete(_POINTS, i) for i in range(5)]
    A, B, G = np.zeros((6, 4)), np.zeros((6, 6)), np.zeros((6, 3))
    A[:5], A[5, 3] = np.vander(_POINTS, 4, increasing=True), 1
    G[:5], G[5, 2] = np.vander(_POINTS, 3, increasing=True), 1
    G[:5] /= [[np.prod(point - rest)] for point, rest in zip(_POINTS, others)]
    for i in range(5):
        B[:5, i] = polynomial.polyfromroots(others[i])
    B[:, 5] = polynomial.polyfromroots(_POINTS)
    return A, B, G


_A, _B, _G = _matrices()


def _tiles(image: Array, pad: Pair, outs: Pair, side: int) -> Array:
    """(N, C, rows, cols, side, side): a window for every 4x4 outputs, zero outside the image."""
    counts = [-(-out // 4) for out in outs]
    widths = [
        (p, max(0, 4 * (count - 1) + side - p - size))
        for p, count, size in zip(pad, counts, image.shape[2:])
    ]
    padded = np.pad(image, ((0, 0), (0, 0), *((max(0, low), high) for low, high in widths)))
    skip = [max(0, -p) for p in pad]
    windows = sliding_window_view(padded[:, :, skip[0] :, skip[1] :], (side, side), axis=(2, 3))
    return windows[:, :, ::4, ::4][:, :, : counts[0], : counts[1]]


@np.errstate(over="ignore", invalid="ignore")
def winograd(x: Array, w: Array, b: Array | None, out: Array, pad: Pair, threads: int) -> bool:
    A, B, G = (matrix.astype(out.dtype) for matrix in (_A, _B, _G))
    inputs = B.T @ _tiles(x, pad, out.shape[2:], 6) @ B
    weights = G @ w @ G.T
    products = np.einsum("ncpqij,ocij->nopqij", inputs, weights, optimize=True)
    Y = A.T @ products @ A
    N, O, rows, cols = Y.shape[:4]
    Z = Y.transpose(0, 1, 2, 4, 3, 5).reshape(N, O, 4 * rows, 4 * cols)
    out[...] = Z[:, :, : out.shape[2], : out.shape[3]]
    if b is not None:
        out += b[:, None, None]
    return bool(np.isfinite(out).all())


@np.errstate(over="ignore", invalid="ignore")
def winograd_weights(x: Array, dz: Array, dw: Array, pad: Pair, threads: int) -> bool:
    A, B, G = (matrix.astype(dw.dtype) for matrix in (_A, _B, _G))
    inputs = B.T @ _tiles(x, pad, dz.shape[2:], 6) @ B
    gradients = A @ _tiles(dz, (0, 0), dz.shape[2:], 4) @ A.T
    sums = np.einsum("nopqij,ncpqij->ocij", gradients, inputs, optimize=True)
    dw[...] = G.T @ sums @ G
    return bool(np.isfinite(dw).all())
