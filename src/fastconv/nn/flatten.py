"""Flatten."""

from __future__ import annotations

from math import prod
from typing import Any

from .. import _check as check
from .._check import Array
from .layer import Layer


class Flatten(Layer):
    """(N, ...) to (N, product of the rest); a view where NumPy's reshape gives one.

    Attributes
    ----------
    A_shape : tuple of int
        After forward.
    """

    def __init__(self) -> None:
        self.A_shape: Any = None

    def forward(self, A: Any) -> Array:
        a = check.array("A", A)
        if a.ndim == 0:
            raise ValueError("A must have at least 1 dimension, but its shape is ()")
        check.not_empty("A", a)
        Z = a.reshape(a.shape[0], prod(a.shape[1:]))
        self.A_shape = a.shape
        return Z

    def backward(self, dLdZ: Any) -> Array:
        check.saved(self, A_shape=self.A_shape)
        dz = check.array("dLdZ", dLdZ)
        check.same_shape("dLdZ", dz, (self.A_shape[0], prod(self.A_shape[1:])), "Z")
        return dz.reshape(self.A_shape)
