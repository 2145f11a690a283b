"""CNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array
from ..nn import Conv1d, Flatten, Layer, Linear
from ..nn.layer import state_kept


class CNN(Layer):
    """Any number of Conv1d layers, each with an activation, then Flatten and Linear.

    Parameters
    ----------
    input_width, num_input_channels : int
        Of the inputs (N, num_input_channels, input_width).
    num_channels, kernel_sizes, strides : sequence of int
        Of each convolution.
    num_linear_neurons : int
    activations : sequence of layers, one for each convolution
    conv_weight_init_fn, bias_init_fn, linear_weight_init_fn : callable or None
        Called as by `Conv1d` and `Linear`.
    criterion : loss, with ``forward(A, Y)`` and ``backward()``
    lr : float
    dtype : {"float64", "float32"}

    Attributes
    ----------
    convolutional_layers, flatten, linear_layer, layers, activations, criterion, lr, nlayers,
    train_mode
    Z : ndarray (N, num_linear_neurons), after forward
    loss : the criterion's value, summed, after backward
    """

    def __init__(
        self, input_width: int, num_input_channels: int, num_channels: Sequence[int],
        kernel_sizes: Sequence[int], strides: Sequence[int], num_linear_neurons: int,
        activations: Sequence[Any], conv_weight_init_fn: Any, bias_init_fn: Any,
        linear_weight_init_fn: Any, criterion: Any, lr: float, *, dtype: Any = "float64",
    ) -> None:
        num_channels = check.integers("num_channels", num_channels, 1)
        kernel_sizes = check.integers("kernel_sizes", kernel_sizes, 1)
        strides = check.integers("strides", strides, 1)
        self.activations = check.listed("activations", activations)
        self.nlayers = len(num_channels)
        for name, values in (
            ("activations", self.activations), ("kernel_sizes", kernel_sizes), ("strides", strides)
        ):
            if len(values) != self.nlayers:
                raise ValueError(f"{name} has {len(values)} entries, but num_channels {self.nlayers}")
        self.train_mode = True
        self.criterion = criterion
        self.lr = lr
        self.convolutional_layers: list[Conv1d] = []
        self.layers: list[Any] = []
        channels, width = num_input_channels, check.integer("input_width", input_width, 1)
        for i, (out_channels, kernel, stride) in enumerate(zip(num_channels, kernel_sizes, strides)):
            conv = Conv1d(
                channels, out_channels, kernel, stride, 0, conv_weight_init_fn, bias_init_fn, dtype=dtype
            )
            if kernel > width:
                raise ValueError(f"kernel_sizes[{i}] is {kernel}, but the width there is {width}")
            channels, width = out_channels, (width - kernel) // stride + 1
            self.convolutional_layers.append(conv)
            self.layers += [conv, self.activations[i]]
        self.flatten = Flatten()
        self.linear_layer = Linear(
            channels * width, num_linear_neurons,
            weight_init_fn=linear_weight_init_fn, bias_init_fn=bias_init_fn, dtype=dtype,
        )
        self.layers += [self.flatten, self.linear_layer]
        self.Z: Array | None = None
        self.loss: Any = None

    def forward(self, A: Any) -> Array:
        """Outputs (N, num_linear_neurons) for inputs (N, num_input_channels, input_width)."""
        with state_kept(self):
            for layer in self.layers:
                A = layer.forward(A)
            self.Z = A.copy()
        return np.asarray(A)

    def backward(self, labels: Any) -> Array:
        """The loss against one-hot labels, its gradients in all layers, and that of the input."""
        check.saved(self, Z=self.Z)
        with state_kept(self):
            self.loss = self.criterion.forward(self.Z, labels).sum()
            grad = self.criterion.backward()
            for layer in reversed(self.layers):
                grad = layer.backward(grad)
        return np.asarray(grad)

    def _parametrised(self) -> list[Any]:
        return [conv.conv1d_stride1 for conv in self.convolutional_layers] + [self.linear_layer]

    def zero_grads(self) -> None:
        for layer in self._parametrised():
            layer.dLdW.fill(0.0)
            layer.dLdb.fill(0.0)

    def step(self) -> None:
        """One step of plain gradient descent."""
        lr = check.number("lr", self.lr)
        with state_kept(self):
            for layer in self._parametrised():
                layer.W = layer.W - lr * layer.dLdW
                layer.b = layer.b - lr * layer.dLdb

    def train(self) -> None:
        self.train_mode = True

    def eval(self) -> None:
        self.train_mode = False
