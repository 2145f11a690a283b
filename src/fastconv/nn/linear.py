"""Linear."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .. import functional as F
from .._check import Array
from .conv import InitFn
from .layer import Layer, initial


class Linear(Layer):
    """Z = A W^T + b^T for A (N, in_features).

    Parameters
    ----------
    in_features, out_features : int
    debug : bool
        Keep dLdA as an attribute.
    weight_init_fn : callable, optional
        ``weight_init_fn(out_features, in_features)``; zeros by default.
    bias_init_fn : callable, optional
        ``bias_init_fn(out_features)``; zeros by default.
    dtype : {"float64", "float32"}

    Attributes
    ----------
    W, dLdW : ndarray (out_features, in_features)
    b, dLdb : ndarray (out_features, 1)
        A `b` of shape (out_features,) may be assigned; dLdb then has its shape. The gradients are
        sums over the batch, as the losses of this package expect: those divide by N.
    A : the last input
    """

    parameter_names = ("W", "b", "dLdW", "dLdb")

    def __init__(
        self, in_features: int, out_features: int, debug: bool = False, *,
        weight_init_fn: InitFn = None, bias_init_fn: InitFn = None, dtype: Any = "float64",
    ) -> None:
        self.in_features = check.integer("in_features", in_features, 1)
        self.out_features = check.integer("out_features", out_features, 1)
        self.debug = debug
        real = check.parameter_dtype(dtype)
        shape = (self.out_features, self.in_features)
        self.W: Array = initial("weight_init_fn", weight_init_fn, np.zeros, shape, real)
        self.b: Array = initial("bias_init_fn", bias_init_fn, np.zeros, shape[:1], real).reshape(-1, 1)
        self.dLdW: Array = np.zeros(shape, real)
        self.dLdb: Array = np.zeros_like(self.b)
        self.A: Any = None

    def forward(self, A: Any) -> Array:
        Z = F.linear_forward(A, self.W, self.b)
        self.A = A
        return Z

    def backward(self, dLdZ: Any) -> Array:
        check.saved(self, A=self.A)
        dLdA, self.dLdW, self.dLdb = F.linear_backward(dLdZ, self.A, self.W, self.b)
        if self.debug:
            self.dLdA = dLdA.copy()
        return dLdA
