"""Conv1d_stride1, Conv1d."""

from __future__ import annotations

from typing import Any

from .. import _check as check
from .. import functional as F
from .conv import ConvOuter, ConvStride1, InitFn, either_revision
from .resampling import Downsample1d


class Conv1d_stride1(ConvStride1):
    """Valid cross-correlation of (N, in_channels, W) with stride 1.

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
    weight_init_fn : callable, optional
        ``weight_init_fn(out_channels, in_channels, kernel_size)``; standard normal by default.
    bias_init_fn : callable, optional
        ``bias_init_fn(out_channels)``; zeros by default.
    dtype : {"float64", "float32"}
        Of the parameters.

    Attributes
    ----------
    W, dLdW : ndarray (out_channels, in_channels, kernel_size)
    b, dLdb : ndarray (out_channels,)
    A : the last input
    """

    _forward = staticmethod(F.conv1d_forward)
    _backward = staticmethod(F.conv1d_backward)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int,
        weight_init_fn: InitFn = None, bias_init_fn: InitFn = None, *, dtype: Any = "float64",
    ) -> None:
        size = check.integer("kernel_size", kernel_size, 1)
        super().__init__(
            in_channels, out_channels, size, (size,), weight_init_fn, bias_init_fn, dtype
        )


class Conv1d(ConvOuter):
    """`Conv1d_stride1` with padding before and every stride-th output kept.

    Parameters as `Conv1d_stride1`, and `stride`, `padding` : int. The older call without padding,
    ``Conv1d(in, out, k, stride, weight_init_fn, bias_init_fn)``, is understood.

    Attributes
    ----------
    conv1d_stride1 : Conv1d_stride1
        Holds the parameters; ``W b dLdW dLdb`` here are its own.
    downsample1d : Downsample1d
    stride, pad : int
    """

    _inner = "conv1d_stride1"
    _forward = staticmethod(F.conv1d_forward)
    _backward = staticmethod(F.conv1d_backward)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: Any = 0,
        weight_init_fn: InitFn = None, bias_init_fn: InitFn = None, *, dtype: Any = "float64",
    ) -> None:
        self.stride = check.integer("stride", stride, 1)
        self.pad, weight_init_fn, bias_init_fn = either_revision(padding, weight_init_fn, bias_init_fn)
        self.conv1d_stride1 = Conv1d_stride1(
            in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn, dtype=dtype
        )
        self.downsample1d = Downsample1d(self.stride)

    def _steps(self) -> tuple[int, int, int]:
        return self.stride, self.pad, 1
