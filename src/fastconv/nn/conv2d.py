"""Conv2d_stride1, Conv2d, Conv2d_padding."""

from __future__ import annotations

from typing import Any

from .. import _check as check
from .. import functional as F
from .._check import Pair
from .conv import ConvOuter, ConvStride1, InitFn, either_revision
from .resampling import Downsample2d


class Conv2d_stride1(ConvStride1):
    """Valid cross-correlation of (N, in_channels, H, W) with stride 1.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int or (height, width)
    weight_init_fn : callable, optional
        ``weight_init_fn(out_channels, in_channels, height, width)``; standard normal by default.
    bias_init_fn : callable, optional
        ``bias_init_fn(out_channels)``; zeros by default.
    dtype : {"float64", "float32"}
        Of the parameters.

    Attributes
    ----------
    W, dLdW : ndarray (out_channels, in_channels, height, width)
    b, dLdb : ndarray (out_channels,)
    A : the last input
    """

    _forward = staticmethod(F.conv2d_forward)
    _backward = staticmethod(F.conv2d_backward)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Pair,
        weight_init_fn: InitFn = None, bias_init_fn: InitFn = None, *, dtype: Any = "float64",
    ) -> None:
        shape = check.pair("kernel_size", kernel_size, 1)
        super().__init__(
            in_channels, out_channels, kernel_size, shape, weight_init_fn, bias_init_fn, dtype
        )


class Conv2d(ConvOuter):
    """`Conv2d_stride1` with padding before and every stride-th row and column of outputs kept.

    Parameters as `Conv2d_stride1`, and `stride`, `padding` : int. The older call without padding,
    ``Conv2d(in, out, k, stride, weight_init_fn, bias_init_fn)``, is understood.

    Attributes
    ----------
    conv2d_stride1 : Conv2d_stride1
        Holds the parameters; ``W b dLdW dLdb`` here are its own.
    downsample2d : Downsample2d
    stride, pad : int
    """

    _inner = "conv2d_stride1"
    _forward = staticmethod(F.conv2d_forward)
    _backward = staticmethod(F.conv2d_backward)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Pair, stride: int, padding: Any = 0,
        weight_init_fn: InitFn = None, bias_init_fn: InitFn = None, *, dtype: Any = "float64",
    ) -> None:
        self.stride = check.integer("stride", stride, 1)
        self.pad, weight_init_fn, bias_init_fn = either_revision(padding, weight_init_fn, bias_init_fn)
        self.conv2d_stride1 = Conv2d_stride1(
            in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn, dtype=dtype
        )
        self.downsample2d = Downsample2d(self.stride)

    def _steps(self) -> tuple[int, int, int]:
        return self.stride, self.pad, 1


Conv2d_padding = Conv2d
