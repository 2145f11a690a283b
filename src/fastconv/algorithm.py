"""Which algorithm a convolution runs on: direct, or Winograd's for kernels of 2, 3 and 5 taps a phase.

Winograd's F(4x4, 3x3) needs a quarter of the multiplications and two to three times less time. Its
rounding error is larger, about 10 times in units of the largest result (docs/performance.md), and
falls on whole tiles: beside numbers that are larger by many orders of magnitude, small results lose
their digits. Who cannot have that asks for direct convolution.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from ._check import Pair
from ._choice import Choice
from .backend import get_backend


def _initial() -> str:
    wanted = os.environ.get("FASTCONV_CONV", "") or "auto"
    if wanted not in _NAMES:
        raise ValueError(f"FASTCONV_CONV must be 'auto', 'direct' or 'winograd', not {wanted!r}")
    return wanted


_NAMES = ("auto", "direct", "winograd")
_choice = Choice("conv algorithm", _NAMES, _initial())


def set_conv_algorithm(name: str) -> None:
    """Choose the algorithm of convolutions, forward and backward, for the whole process.

    Parameters
    ----------
    name : {"auto", "direct", "winograd"}
        "winograd" is for kernels of 1, 2, 3 or 5 rows and 2, 3 or 5 columns (1-D: 2, 3 or 5), and for
        those that a stride or upsampling of s cuts into phases of so many taps (3 or 4 taps by 2:
        two; 5: three); all others run directly, and so do gradients with respect to weights with a
        stride or of kernels of 2. "auto", the default, uses it where it is faster: on compiled
        kernels, from about 15 (3x3) to 110 (1-D, 5) channels.
        Without a call it is what FASTCONV_CONV says.

    Raises
    ------
    ValueError
        `name` is none of them.
    """
    _choice.set(name)


def get_conv_algorithm() -> str:
    """What a call made here would go by: "auto", "direct" or "winograd"."""
    return _choice.get()


def use_conv_algorithm(name: str) -> AbstractContextManager[None]:
    """Run a block by another algorithm: ``with fastconv.use_conv_algorithm("direct"): ...``.

    It holds for this thread and context alone, over `set_conv_algorithm`, and blocks nest.
    Raises as `set_conv_algorithm`.
    """
    return _choice.use(name)


_ONE = (1, 1)
# Outputs of a tile of an axis by its taps, those of a kernel with stride 1.
_TILE_OUTPUTS = {1: 1, 2: 4, 3: 4, 5: 2}
# Times in units of a multiply-add of direct convolution, fitted to measurements on images of 8 to 64
# pixels, 3 to 256 channels, AVX2 and AVX-512, both dtypes. Where the model has 1 for the time saved,
# 0.75 to 1.05 of the time were measured, and 0.4 to 0.8 at twice as many channels.
# - A multiply-add of a direct convolution with upsampling, phase by phase:
_UPSAMPLED = 1.8
# - one for many small images, which conv.pyx does with images as lanes; tiles are few in each:
_SMALL, _SMALL_IMAGES, _SMALL_PIXELS = 0.72, 16, 144
# - one of transformed tiles; with phases their weights are many more:
_PRODUCT, _PHASE_PRODUCT = 1.3, 1.5
# - the transforms of a number of input and of output: forward, and for the gradient with respect to the
#   weights; twice that where steps other than 1 and 2 are read and written number by number:
_TRANSFORMS = 20, 30
# With more input channels one panel of transformed tiles would take more than 2.5 MB of scratch.
_MOST_CHANNELS = 512


def winograd_runs(
    weights_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    stride: Pair,
    pad: Pair,
    up: Pair,
    weights: bool = False,
) -> bool:
    """Whether a convolution of weights (O, C, KH, KW) to (N, O, P, Q), or its weight gradient, goes by it."""
    name = _choice.get()
    if name == "direct" or stride != _ONE != up or (weights and not stride == up == _ONE):
        return False
    O, C, KH, KW = weights_shape
    high, wide = _taps(KH, stride[0], pad[0], up[0]), _taps(KW, stride[1], pad[1], up[1])
    if high not in _TILE_OUTPUTS or wide not in _TILE_OUTPUTS or wide == 1:
        return False
    if weights and 2 in (high, wide):
        return False
    inputs, outputs = C * stride[0] * stride[1], O * up[0] * up[1]
    if inputs > _MOST_CHANNELS:
        return False
    if name == "winograd":
        return True
    rows, cols = _TILE_OUTPUTS[high], _TILE_OUTPUTS[wide]
    direct = O * C * KH * KW * rows * cols * (1 if up == _ONE else _UPSAMPLED)
    if out_shape[0] >= _SMALL_IMAGES and out_shape[2] * out_shape[3] <= _SMALL_PIXELS:
        direct *= _SMALL
    product, transforms = _PRODUCT, _TRANSFORMS[weights]
    if not stride == up == _ONE:
        product = _PHASE_PRODUCT
        transforms *= 1 if max(*stride, *up) == 2 else 2
    points = (rows + high - 1) * (cols + wide - 1)
    if direct < points * (product * inputs * outputs + transforms * (inputs + outputs)):
        return False
    P, Q = -(-out_shape[2] // up[0]), -(-out_shape[3] // up[1])
    tiles = -(-P // rows) * -(-Q // cols)
    return out_shape[0] * tiles >= 4 and rows * cols * tiles <= 2 * P * Q and get_backend() == "compiled"


def _taps(kernel: int, stride: int, pad: int, up: int) -> int:
    """Those of the kernel with stride 1 that is the same for phases (`side_of` in pyx/transforms.pxd)."""
    if up == 1:
        return -(-kernel // stride)
    return (kernel - 1 + up - 1 - pad) // up + pad // up + 1
