"""ConvBlock, IdentityBlock, ResBlock."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array
from .activation import ReLU
from .batchnorm2d import BatchNorm2d
from .conv2d import Conv2d
from .layer import Layer, state_kept


class ConvBlock(Layer):
    """A padded Conv2d, then BatchNorm2d: ``layers``."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int,
        *, dtype: Any = "float64",
    ) -> None:
        self.layers: list[Any] = [
            Conv2d(in_channels, out_channels, kernel_size, stride, padding, dtype=dtype),
            BatchNorm2d(out_channels, dtype=dtype),
        ]

    def forward(self, A: Any, eval: bool = False) -> Array:
        conv, norm = self.layers
        with state_kept(self, always=eval):
            Z: Array = norm.forward(conv.forward(A), eval=eval)
        return Z

    def backward(self, grad: Any) -> Array:
        with state_kept(self):
            for layer in reversed(self.layers):
                grad = layer.backward(grad)
        return np.asarray(grad)


class IdentityBlock(Layer):
    """Its input, and its gradient, unchanged."""

    def forward(self, A: Any, eval: bool = False) -> Any:
        return A

    def backward(self, grad: Any) -> Any:
        return grad


class ResBlock(Layer):
    """relu(main(A) + residual(A)) (He et al., 2015), as the course composes it.

    Attributes
    ----------
    convolution_layers : list
        ConvBlock(in, out, filter_size, stride, padding), ReLU, ConvBlock(out, out, 1, 1, 0).
    residual_connection : ConvBlock(in, out, filter_size, stride, padding), or IdentityBlock
        The latter where the main path keeps shape and position.
    final_activation : ReLU
    """

    def __init__(
        self, in_channels: int, out_channels: int, filter_size: int, stride: int = 3, padding: int = 1,
        *, dtype: Any = "float64",
    ) -> None:
        self.convolution_layers: list[Any] = [
            ConvBlock(in_channels, out_channels, filter_size, stride, padding, dtype=dtype),
            ReLU(),
            ConvBlock(out_channels, out_channels, 1, 1, 0, dtype=dtype),
        ]
        self.final_activation = ReLU()
        self.residual_connection: ConvBlock | IdentityBlock
        if stride != 1 or in_channels != out_channels or filter_size != 1 or padding != 0:
            self.residual_connection = ConvBlock(
                in_channels, out_channels, filter_size, stride, padding, dtype=dtype
            )
        else:
            self.residual_connection = IdentityBlock()

    def forward(self, A: Any, eval: bool = False) -> Array:
        first, activation, second = self.convolution_layers
        with state_kept(self, always=eval):
            Z = second.forward(activation.forward(first.forward(A, eval=eval)), eval=eval)
            Z += self.residual_connection.forward(A, eval=eval)
            return self.final_activation.forward(Z)

    def backward(self, grad: Any) -> Array:
        check.array("grad", grad)  # None would ask the activation for its derivative
        with state_kept(self):
            grad = self.final_activation.backward(grad)
            residual = self.residual_connection.backward(grad)
            for layer in reversed(self.convolution_layers):
                grad = layer.backward(grad)
            grad += residual
        return np.asarray(grad)
