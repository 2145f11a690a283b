"""ResNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import _check as check
from .._check import Array
from ..nn import ConvBlock, Flatten, Layer, Linear, MeanPool2d, ReLU, ResBlock
from ..nn.conv import ConvStride1
from ..nn.layer import state_kept
from .mlp import Sequential


class ResNet(Sequential):
    """A small residual network (He et al., 2015) of this package's blocks, for square images.

    Stem convolution, a ResBlock of stride 2 for each further width, mean pool over what is left of
    the image, Linear. All weights are drawn with He et al.'s spread, ``sqrt(2 / inputs)``.

    Parameters
    ----------
    in_channels, image_side, num_classes : int
        Of inputs (N, in_channels, image_side, image_side) and outputs (N, num_classes).
    widths : sequence of int
        Channels of the stem and of each ResBlock.
    dtype : {"float64", "float32"}

    Attributes
    ----------
    layers : list of layers
    """

    def __init__(
        self, in_channels: int, image_side: int, num_classes: int,
        widths: Sequence[int] = (16, 32, 64), *, dtype: Any = "float64",
    ) -> None:
        side = check.integer("image_side", image_side, 1)
        widths = check.integers("widths", widths, 1)
        if not widths:
            raise ValueError("widths must hold at least 1 number, not []")
        self.layers = [ConvBlock(in_channels, widths[0], 3, 1, 1, dtype=dtype), ReLU()]
        for width, wider in pairwise(widths):
            self.layers.append(ResBlock(width, wider, 3, stride=2, padding=1, dtype=dtype))
            side = (side + 1) // 2
        for convolution in _convolutions(self):
            convolution.W *= convolution.W.dtype.type(np.sqrt(2 / convolution.W[0].size))
        self.layers += [
            MeanPool2d(side, side),
            Flatten(),
            Linear(widths[-1], num_classes, weight_init_fn=_he_normal, dtype=dtype),
        ]

    def forward(self, A: Any, eval: bool = False) -> Array:
        with state_kept(self, always=eval):
            for layer in self.layers:
                takes_eval = isinstance(layer, (ConvBlock, ResBlock))
                A = layer.forward(A, eval=eval) if takes_eval else layer.forward(A)
        return np.asarray(A)


def _convolutions(layer: Layer) -> Iterator[ConvStride1]:
    for inner in layer.sublayers():
        if isinstance(inner, ConvStride1):
            yield inner
        else:
            yield from _convolutions(inner)


def _he_normal(out_features: int, in_features: int) -> Array:
    return np.random.normal(0, np.sqrt(2 / in_features), (out_features, in_features))
