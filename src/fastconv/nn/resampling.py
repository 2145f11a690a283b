"""Upsample1d, Upsample2d, Downsample1d, Downsample2d."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .. import functional as F
from .._check import Array
from .layer import Layer


class _Upsample(Layer):
    _axes: int

    def __init__(self, upsampling_factor: int) -> None:
        self.upsampling_factor = check.integer("upsampling_factor", upsampling_factor, 1)
        self._sizes: tuple[int, ...] | None = None

    def forward(self, A: Any) -> Array:
        Z = F.upsample(A, self.upsampling_factor, self._axes)
        self._sizes = tuple((n - 1) // self.upsampling_factor + 1 for n in Z.shape[2:])
        return Z

    def backward(self, dLdZ: Any) -> Array:
        # Without a forward the course's layer answers too: dLdZ alone tells the size.
        sizes = self._sizes
        if sizes is None:
            sizes = tuple((n - 1) // self.upsampling_factor + 1 for n in np.shape(dLdZ)[2:])
        return F.upsample_backward(dLdZ, self.upsampling_factor, sizes)


class Upsample1d(_Upsample):
    """Puts ``upsampling_factor - 1`` zeros between neighbours: (N, C, W) to (N, C, k*(W-1) + 1)."""

    _axes = 1


class Upsample2d(_Upsample):
    """`Upsample1d` on both axes of (N, C, H, W)."""

    _axes = 2


class Downsample1d(Layer):
    """Keeps every ``downsampling_factor``-th number: (N, C, W) to (N, C, (W-1)//k + 1).

    Attributes
    ----------
    downsampling_factor : int
    input_width : int
        After forward.
    """

    def __init__(self, downsampling_factor: int) -> None:
        self.downsampling_factor = check.integer("downsampling_factor", downsampling_factor, 1)
        self.input_width: Any = None

    def forward(self, A: Any) -> Array:
        Z = F.downsample(A, self.downsampling_factor, 1)
        self.input_width = np.shape(A)[2]
        return Z

    def backward(self, dLdZ: Any) -> Array:
        check.saved(self, input_width=self.input_width)
        return F.downsample_backward(dLdZ, self.downsampling_factor, (self.input_width,))


class Downsample2d(Layer):
    """`Downsample1d` on both axes of (N, C, H, W).

    Attributes
    ----------
    downsampling_factor : int
    input_width, input_height : int
        After forward: ``A.shape[2]`` and ``A.shape[3]``, named as the course names them.
    """

    def __init__(self, downsampling_factor: int) -> None:
        self.downsampling_factor = check.integer("downsampling_factor", downsampling_factor, 1)
        self.input_width: Any = None
        self.input_height: Any = None

    def forward(self, A: Any) -> Array:
        Z = F.downsample(A, self.downsampling_factor, 2)
        self.input_width, self.input_height = np.shape(A)[2:]
        return Z

    def backward(self, dLdZ: Any) -> Array:
        check.saved(self, input_width=self.input_width)
        sizes = self.input_width, self.input_height
        return F.downsample_backward(dLdZ, self.downsampling_factor, sizes)
