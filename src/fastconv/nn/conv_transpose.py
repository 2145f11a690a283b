"""ConvTranspose1d, ConvTranspose2d."""

from __future__ import annotations

from typing import Any

from .. import _check as check
from .. import functional as F
from .._check import Pair
from .conv import ConvOuter, InitFn
from .conv1d import Conv1d_stride1
from .conv2d import Conv2d_stride1
from .resampling import Upsample1d, Upsample2d


class ConvTranspose1d(ConvOuter):
    """Zeros put between neighbours, then `Conv1d_stride1`: the course's transposed convolution.

    The output is ``upsampling_factor * (W - 1) + 1 - kernel_size + 1`` wide. (Libraries call
    another thing by this name, with an output padding.)

    Parameters as `Conv1d_stride1`, and `upsampling_factor` : int.

    Attributes
    ----------
    upsample1d : Upsample1d
    conv1d_stride1 : Conv1d_stride1
        Holds the parameters; ``W b dLdW dLdb`` here are its own.
    upsampling_factor : int
    """

    _inner = "conv1d_stride1"
    _forward = staticmethod(F.conv1d_forward)
    _backward = staticmethod(F.conv1d_backward)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, upsampling_factor: int,
        weight_init_fn: InitFn = None, bias_init_fn: InitFn = None, *, dtype: Any = "float64",
    ) -> None:
        self.upsampling_factor = check.integer("upsampling_factor", upsampling_factor, 1)
        self.upsample1d = Upsample1d(self.upsampling_factor)
        self.conv1d_stride1 = Conv1d_stride1(
            in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn, dtype=dtype
        )

    def _steps(self) -> tuple[int, int, int]:
        return 1, 0, self.upsampling_factor


class ConvTranspose2d(ConvOuter):
    """`ConvTranspose1d` of images (N, in_channels, H, W), with `upsample2d` and `conv2d_stride1`."""

    _inner = "conv2d_stride1"
    _forward = staticmethod(F.conv2d_forward)
    _backward = staticmethod(F.conv2d_backward)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Pair, upsampling_factor: int,
        weight_init_fn: InitFn = None, bias_init_fn: InitFn = None, *, dtype: Any = "float64",
    ) -> None:
        self.upsampling_factor = check.integer("upsampling_factor", upsampling_factor, 1)
        self.upsample2d = Upsample2d(self.upsampling_factor)
        self.conv2d_stride1 = Conv2d_stride1(
            in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn, dtype=dtype
        )

    def _steps(self) -> tuple[int, int, int]:
        return 1, 0, self.upsampling_factor
