"""The Winograd kernels in plain NumPy; `pyx/transforms.pxd` has the algorithm."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.floating]
Pair = tuple[int, int]

# Polynomials are multiplied at these points and at infinity.
_POINTS = np.array([0, 1, -1, 2, -0.5])


def _powers(count: int) -> NDArray[np.float64]:
    """(6, count): the powers of the points, and of infinity the last."""
    powers = np.zeros((6, count))
    powers[:5], powers[5, -1] = np.vander(_POINTS, count, increasing=True), 1
    return powers


def _matrices(taps: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A (6, 7 - taps), B (6, 6) and G (6, taps) of Toom and Cook (Blahut, Fast Algorithms, section 5.2)."""
    if taps == 1:
        return np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1))
    others = [np.delete(_POINTS, i) for i in range(5)]
    A, B, G = _powers(7 - taps), np.zeros((6, 6)), _powers(taps)
    G[:5] /= [[np.prod(point - rest)] for point, rest in zip(_POINTS, others)]
    for i in range(5):
        B[:5, i] = np.poly(others[i])[::-1]
    B[:, 5] = np.poly(_POINTS)[::-1]
    return A, B, G


_MATRICES = {taps: _matrices(taps) for taps in (1, 3, 5)}


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


@np.errstate(over="ignore", invalid="ignore")
def winograd(x: Array, w: Array, b: Array | None, out: Array, pad: Pair, threads: int) -> bool:
    # BLAS may leave out a product with zero, and so lose what is not finite, before the result can tell.
    if not (np.isfinite(x).all() and np.isfinite(w).all()):
        return False
    (A, B, G), (Aw, Bw, Gw) = (
        [matrix.astype(out.dtype) for matrix in _MATRICES[taps]] for taps in w.shape[2:]
    )
    sides, reaches = (A.shape[1], Aw.shape[1]), (len(A), len(Aw))
    inputs = B.T @ _tiles(x, pad, out.shape[2:], sides, reaches) @ Bw
    weights = G @ w @ Gw.T
    products = np.einsum("ncpqij,ocij->nopqij", inputs, weights, optimize=True)
    Y = A.T @ products @ Aw
    N, O, rows, cols = Y.shape[:4]
    Z = Y.transpose(0, 1, 2, 4, 3, 5).reshape(N, O, sides[0] * rows, sides[1] * cols)
    out[...] = Z[:, :, : out.shape[2], : out.shape[3]]
    if b is not None:
        out += b[:, None, None]
    return bool(np.isfinite(out).all())


@np.errstate(over="ignore", invalid="ignore")
def winograd_weights(x: Array, dz: Array, dw: Array, pad: Pair, threads: int) -> bool:
    if not (np.isfinite(x).all() and np.isfinite(dz).all()):
        return False
    (A, B, G), (Aw, Bw, Gw) = (
        [matrix.astype(dw.dtype) for matrix in _MATRICES[taps]] for taps in dw.shape[2:]
    )
    sides, reaches = (A.shape[1], Aw.shape[1]), (len(A), len(Aw))
    inputs = B.T @ _tiles(x, pad, dz.shape[2:], sides, reaches) @ Bw
    gradients = A @ _tiles(dz, (0, 0), dz.shape[2:], sides, sides) @ Aw.T
    sums = np.einsum("nopqij,ncpqij->ocij", gradients, inputs, optimize=True)
    dw[...] = G.T @ sums @ Gw
    return bool(np.isfinite(dw).all())
