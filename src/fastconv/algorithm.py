"""Which algorithm a convolution runs on: direct, or Winograd's for 3x3 kernels.

Winograd's F(4x4, 3x3) needs a quarter of the multiplications and two to three times less time. Its
rounding error is larger, about 10 times in units of the largest result (docs/performance.md), and
falls on whole tiles: beside numbers that are larger by many orders of magnitude, small results lose
their digits. Who cannot have that asks for direct convolution.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

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
        "winograd" is for 3x3 kernels of stride 1 without upsampling, all others run directly.
        "auto", the default, uses it where it is faster: on compiled kernels, from 16 channels.
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


# With more channels one panel of transformed tiles would take more than 4 MB of scratch.
_MOST_CHANNELS, _MOST_TOGETHER = 1024, 1536
_LEAST_CHANNELS = 16


def winograd_runs(in_channels: int, out_channels: int, out_shape: tuple[int, ...]) -> bool:
    """Whether a 3x3 convolution of stride 1 with outputs (N, O, P, Q) goes by Winograd."""
    name = _choice.get()
    if name == "direct" or in_channels + out_channels > _MOST_TOGETHER:
        return False
    if max(in_channels, out_channels) > _MOST_CHANNELS:
        return False
    if name == "winograd":
        return True
    if min(in_channels, out_channels) < _LEAST_CHANNELS:
        return False
    images, rows, cols = out_shape[0], *out_shape[2:]
    tiles = -(-rows // 4) * -(-cols // 4)
    return images * tiles >= 4 and 16 * tiles <= 2 * rows * cols and get_backend() == "compiled"
