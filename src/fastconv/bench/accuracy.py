"""How far convolutions are from the exact result, direct and by Winograd's algorithm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .. import algorithm
from .. import functional as F
from .._check import Array

_KERNELS = ((1, 3), (1, 5), (3, 3), (5, 5))
_CHANNELS = (64, 512)
# Few filters and pixels: the exact results are computed in extended precision, number by number.
_IMAGES, _FILTERS, _SIDE = 2, 16, 14


def markdown() -> str:
    """A table of the largest error over the largest result, for unit normal numbers."""
    lines = [
        "| kernel | input channels | dtype | direct fwd | Winograd fwd | direct dW | Winograd dW |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kernel in _KERNELS:
        for channels in _CHANNELS:
            for dtype in ("float32", "float64"):
                errors = " | ".join(f"{error:.1e}" for error in _errors(kernel, channels, dtype))
                lines.append(f"| {kernel[0]}x{kernel[1]} | {channels} | {dtype} | {errors} |")
    return "\n".join(lines)


def _errors(kernel: tuple[int, int], channels: int, dtype: str) -> list[float]:
    rng = np.random.default_rng(channels)
    padding = kernel[0] // 2, kernel[1] // 2
    A = rng.standard_normal((_IMAGES, channels, _SIDE, _SIDE)).astype(dtype)
    W = rng.standard_normal((_FILTERS, channels, *kernel)).astype(dtype)
    dLdZ = rng.standard_normal((_IMAGES, _FILTERS, _SIDE, _SIDE)).astype(dtype)
    padded = np.pad(A.astype(np.longdouble), ((0, 0), (0, 0), *((p, p) for p in padding)))
    windows = sliding_window_view(padded, kernel, axis=(2, 3))
    exact = (
        np.einsum("ncpqij,ocij->nopq", windows, W.astype(np.longdouble)),
        np.einsum("nopq,ncpqij->ocij", dLdZ.astype(np.longdouble), windows),
    )
    computed: tuple[Callable[[], Array], ...] = (
        lambda: F.conv2d_forward(A, W, None, 1, padding),
        lambda: F.conv2d_backward(dLdZ, A, W, 1, padding)[1],
    )
    errors = []
    for compute, truth in zip(computed, exact):
        for name in ("direct", "winograd"):
            with algorithm.use_conv_algorithm(name):
                errors.append(float(abs(compute() - truth).max() / abs(truth).max()))
    return errors
