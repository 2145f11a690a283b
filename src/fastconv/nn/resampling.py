"""Upsample1d, Upsample2d, Downsample1d, Downsample2d."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .. import _check as check
from .. import functional as F
from .._check import Array
from .layer import Layer


class _Resampling(Layer):
    """Remembers of its last input what the gradient needs: shape and dtype."""

    _axes: ClassVar[int]

    _shape: Any = None
    _dtype: Any = None

    def _remember(self, A: Any, Z: Array) -> None:
        self._shape, self._dtype = np.shape(A), Z.dtype


class _Upsample(_Resampling):
    def __init__(self, upsampling_factor: int) -> None:
        self.upsampling_factor = check.integer("upsampling_factor", upsampling_factor, 1)

    def forward(self, A: Any) -> Array:
        Z = F.upsample(A, self.upsampling_factor, self._axes)
        self._remember(A, Z)
        return Z

    def backward(self, dLdZ: Any) -> Array:
        shape = self._shape
        if shape is None:  # the course's layer needs no forward: dLdZ alone tells the shape
            dz = check.array("dLdZ", dLdZ, self._axes + 2)
            shape = *dz.shape[:2], *((n - 1) // self.upsampling_factor + 1 for n in dz.shape[2:])
        return F.upsample_backward(dLdZ, self.upsampling_factor, shape).astype(self._dtype, copy=False)


class Upsample1d(_Upsample):
    """Puts ``upsampling_factor - 1`` zeros between neighbours: (N, C, W) to (N, C, k*(W-1) + 1)."""

    _axes = 1


class Upsample2d(_Upsample):
    """`Upsample1d` on both axes of (N, C, H, W)."""

    _axes = 2


class _Downsample(_Resampling):
    def __init__(self, downsampling_factor: int) -> None:
        self.downsampling_factor = check.integer("downsampling_factor", downsampling_factor, 1)

    def forward(self, A: Any) -> Array:
        Z = F.downsample(A, self.downsampling_factor, self._axes)
        self._remember(A, Z)
        return Z

    def backward(self, dLdZ: Any) -> Array:
        check.saved(self, shape=self._shape)
        shape = self._shape
        if shape[0] is None:  # taken over from a layer that kept the sides alone
            shape = *np.shape(dLdZ)[:2], *shape[2:]
        dLdA = F.downsample_backward(dLdZ, self.downsampling_factor, shape)
        return dLdA.astype(self._dtype, copy=False)

    @property
    def input_width(self) -> int | None:
        return None if self._shape is None else self._shape[2]


class Downsample1d(_Downsample):
    """Keeps every ``downsampling_factor``-th number: (N, C, W) to (N, C, (W-1)//k + 1).

    Attributes
    ----------
    downsampling_factor : int
    input_width : int
        After forward.
    """

    _axes = 1


class Downsample2d(_Downsample):
    """`Downsample1d` on both axes of (N, C, H, W).

    Attributes
    ----------
    downsampling_factor : int
    input_width, input_height : int
        After forward: ``A.shape[2]`` and ``A.shape[3]``, named as the course names them.
    """

    _axes = 2

    @property
    def input_height(self) -> int | None:
        return None if self._shape is None else self._shape[3]
