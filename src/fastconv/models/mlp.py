"""MLP."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array
from ..nn import Layer, Linear, ReLU
from ..nn.layer import state_kept


class Sequential(Layer):
    """Layers one after the other, in ``layers``: the base of the models here."""

    layers: list[Any]

    def forward(self, A: Any) -> Array:
        with state_kept(self):
            for layer in self.layers:
                A = layer.forward(A)
        return np.asarray(A)

    def backward(self, dLdZ: Any) -> Array:
        with state_kept(self):
            for layer in reversed(self.layers):
                dLdZ = layer.backward(dLdZ)
        return np.asarray(dLdZ)


class MLP(Sequential):
    """Linear layers with ReLU between them, none after the last.

    Parameters
    ----------
    layer_sizes : sequence of int
        Features of the input, of each hidden layer and of the output.
    dtype : {"float64", "float32"}

    Attributes
    ----------
    layers : [Linear, ReLU, Linear, ...]
    """

    def __init__(self, layer_sizes: Sequence[int], *, dtype: Any = "float64") -> None:
        sizes = check.integers("layer_sizes", layer_sizes, 1)
        if len(sizes) < 2:
            raise ValueError(f"layer_sizes must hold at least 2 sizes, not {sizes}")
        self.layers = []
        for in_features, out_features in pairwise(sizes):
            self.layers += [Linear(in_features, out_features, dtype=dtype), ReLU()]
        self.layers.pop()

    def init_weights(self, weights: Sequence[Any]) -> None:
        """Set the weights of the Linear layers, given as (in, out) matrices."""
        linears, weights = self.layers[::2], check.listed("weights", weights)
        if len(weights) != len(linears):
            raise ValueError(f"weights must hold {len(linears)} matrices, not {len(weights)}")
        for i, (linear, given) in enumerate(zip(linears, weights)):
            matrix = check.array(f"weights[{i}]", given, 2)
            check.same_shape(f"weights[{i}]", matrix, linear.W.T.shape, "the layer")
        for linear, given in zip(linears, weights):
            linear.W = np.asarray(given).T
