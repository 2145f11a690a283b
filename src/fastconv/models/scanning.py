"""An MLP that scans speech frames, as a convolutional network: simple and distributed.

Both compute, for windows of 8 frames of 24 features stepped by 4, what `MLP([192, 8, 16, 4])`
computes for each window; the window's numbers enter that MLP frame by frame (index
``frame * 24 + feature``). The distributed one does so for an MLP whose weights are shared within
the window (Waibel et al., 1989), and then needs the shared part only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _check as check
from .._check import Array
from ..nn import Conv1d, Flatten, ReLU
from .mlp import Sequential

MLP_SHAPES = ((192, 8), (8, 16), (16, 4))


class _ScanningMLP(Sequential):
    def __init__(self, *convolutions: Conv1d) -> None:
        self.conv1, self.conv2, self.conv3 = convolutions
        self.layers = [self.conv1, ReLU(), self.conv2, ReLU(), self.conv3, Flatten()]

    def init_weights(self, weights: Sequence[Any]) -> None:
        """Take over the weights of ``MLP([192, 8, 16, 4])``, given as its (in, out) matrices."""
        weights = check.listed("weights", weights)
        if len(weights) != 3:
            raise ValueError(f"weights must hold 3 matrices, not {len(weights)}")
        matrices = [check.array(f"weights[{i}]", w, 2) for i, w in enumerate(weights)]
        for i, (matrix, shape) in enumerate(zip(matrices, MLP_SHAPES)):
            check.same_shape(f"weights[{i}]", matrix, shape, "the MLP")
        for conv, matrix in zip((self.conv1, self.conv2, self.conv3), matrices):
            conv.W = _filters(matrix, conv)


class CNN_SimpleScanningMLP(_ScanningMLP):
    """The scanning MLP with its first layer as one convolution over whole windows.

    Attributes
    ----------
    conv1, conv2, conv3 : Conv1d
    layers : [conv1, ReLU, conv2, ReLU, conv3, Flatten]
    """

    def __init__(self, *, dtype: Any = "float64") -> None:
        super().__init__(
            Conv1d(24, 8, 8, 4, dtype=dtype),
            Conv1d(8, 16, 1, 1, dtype=dtype),
            Conv1d(16, 4, 1, 1, dtype=dtype),
        )


class CNN_DistributedScanningMLP(_ScanningMLP):
    """The scanning MLP with weights shared within the window: 2 frames, then 4, then 8.

    Attributes as of `CNN_SimpleScanningMLP`.
    """

    def __init__(self, *, dtype: Any = "float64") -> None:
        super().__init__(
            Conv1d(24, 2, 2, 2, dtype=dtype),
            Conv1d(2, 8, 2, 2, dtype=dtype),
            Conv1d(8, 4, 2, 1, dtype=dtype),
        )


def _filters(matrix: Array, conv: Conv1d) -> Array:
    """Filters (out, channels, width) from the top left of an (in, out) matrix, in frame-major."""
    channels, width, out = conv.in_channels, conv.kernel_size, conv.out_channels
    return matrix[: width * channels, :out].reshape(width, channels, out).transpose(2, 1, 0)
