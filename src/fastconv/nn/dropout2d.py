"""Dropout2d."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .. import functional as F
from .._check import Array
from .layer import Layer


class Dropout2d(Layer):
    """Zeroes whole channels of (N, C, H, W) with probability p, and scales the rest by 1 / (1 - p).

    The mask is drawn from NumPy's global stream at every training forward. ``eval=True`` returns
    the input itself, and keeps the mask.

    Parameters
    ----------
    p : float in [0, 1]

    Attributes
    ----------
    p : float
    mask : ndarray (N, C, 1, 1) of 0 and 1
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = check.number("p", p, 0, 1)
        self.mask: Any = None
        self._shape: Any = None
        self._dtype: Any = None

    def forward(self, x: Any, eval: bool = False) -> Array:
        a = check.array("x", x, 4)
        check.not_empty("x", a)
        if eval:
            return a if type(x) is not np.ndarray else x
        p = check.number("p", self.p, 0, 1)
        dtype = check.real_dtype(a)
        check.fits("x", a.shape, dtype.itemsize)
        mask = np.random.binomial(1, 1 - p, size=(*a.shape[:2], 1, 1))
        out = self._scaled(a, mask, dtype)
        self.mask, self._shape, self._dtype = mask, a.shape, dtype
        return out

    def backward(self, delta: Any) -> Array:
        check.saved(self, mask=self.mask)
        dz = check.array("delta", delta, 4)
        # A mask taken over from another layer has come without the shape of its x.
        check.same_shape("delta", dz, self._shape or (*self.mask.shape[:2], *dz.shape[2:]), "x")
        return self._scaled(dz, self.mask, self._dtype or check.real_dtype(dz))

    def _scaled(self, a: Array, mask: Array, dtype: np.dtype[Any]) -> Array:
        # With p = 1 nothing is kept, so there is nothing to scale.
        kept = max(1 - check.number("p", self.p, 0, 1), float(np.finfo(dtype).tiny))
        return F.scale_channels(a, check.array("mask", mask) / kept, dtype)
