"""MaxPool2d_stride1, MaxPool2d, MeanPool2d_stride1, MeanPool2d."""

from __future__ import annotations

from typing import Any

from .. import _check as check
from .. import functional as F
from .._check import Array
from .layer import Layer
from .resampling import Downsample2d


class _Pool2d(Layer):
    _forward: staticmethod[..., tuple[Array, F.PoolWorkspace]]
    _backward: staticmethod[..., Array]

    stride = 1

    def __init__(self, kernel: int) -> None:
        self.kernel = check.integer("kernel", kernel, 1)
        self.A: Any = None
        self._workspace: F.PoolWorkspace | None = None

    def forward(self, A: Any) -> Array:
        Z, self._workspace = self._forward(A, self.kernel, self.stride)
        self.A = A
        return Z

    def backward(self, dLdZ: Any) -> Array:
        check.saved(self, workspace=self._workspace)
        return self._backward(dLdZ, self._workspace)


class MaxPool2d_stride1(_Pool2d):
    """Maximum over every kernel x kernel window of (N, C, H, W).

    Ties, and NaNs, go to the first in row-major order.

    Attributes
    ----------
    kernel : int
    A : the last input
    max_indices : ndarray (N, C, H - kernel + 1, W - kernel + 1, 2), int64
        (row, column) of each output's maximum in the input; made when asked for.
    """

    _forward = staticmethod(F.max_pool2d_forward)
    _backward = staticmethod(F.max_pool2d_backward)

    @property
    def max_indices(self) -> Array:
        if self._workspace is None:
            raise AttributeError("max_indices are there after forward")
        return self._workspace.max_indices


class MaxPool2d(MaxPool2d_stride1):
    """`MaxPool2d_stride1` with every stride-th row and column of outputs kept.

    Attributes
    ----------
    maxpool2d_stride1 : MaxPool2d_stride1
    downsample2d : Downsample2d
        The parts; called one after the other they give the same.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__(kernel)
        self.stride = check.integer("stride", stride, 1)
        self.maxpool2d_stride1 = MaxPool2d_stride1(kernel)
        self.downsample2d = Downsample2d(stride)


class MeanPool2d_stride1(_Pool2d):
    """Mean over every kernel x kernel window of (N, C, H, W)."""

    _forward = staticmethod(F.mean_pool2d_forward)
    _backward = staticmethod(F.mean_pool2d_backward)


class MeanPool2d(MeanPool2d_stride1):
    """`MeanPool2d_stride1` with every stride-th row and column of outputs kept.

    Attributes
    ----------
    meanpool2d_stride1 : MeanPool2d_stride1
    downsample2d : Downsample2d
        The parts; called one after the other they give the same.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__(kernel)
        self.stride = check.integer("stride", stride, 1)
        self.meanpool2d_stride1 = MeanPool2d_stride1(kernel)
        self.downsample2d = Downsample2d(stride)
