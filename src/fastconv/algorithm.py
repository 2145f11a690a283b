"""Which algorithm a convolution runs on: direct, or Winograd's for kernels of 3 and 5 taps.

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
        "winograd" is for kernels of 1, 3 or 5 rows and 3 or 5 columns with stride 1 and without
        upsampling (1-D: 3 or 5); all others run directly. "auto", the default, uses it where it is
        faster: on compiled kernels, from 18 (3x3) to 96 (1-D, 5) channels.
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


# Kernels that the algorithm has transforms for, by rows and columns, and from how many channels it is
# faster, forward and for the gradient with respect to the weights. Transforms cost as much as so many
# channels' multiplications would, so it is the harmonic mean of both channels that counts. (Measured
# against direct convolution on images of 8 to 28 pixels, AVX2 and AVX-512, both dtypes: at these numbers
# it took 0.75 to 1.05 of the time; at twice as many 0.4 to 0.8.)
_FEWEST_CHANNELS = {
    (1, 3): (56, 88), (1, 5): (96, 144),
    (3, 3): (18, 26), (3, 5): (22, 30), (5, 3): (22, 30), (5, 5): (26, 34),
}  # fmt: skip
# With more input channels one panel of transformed tiles would take more than 2.5 MB of scratch.
_MOST_CHANNELS = 512


def winograd_runs(
    in_channels: int, out_channels: int, kernel: tuple[int, int], out_shape: tuple[int, ...], weights: bool
) -> bool:
    """Whether a convolution of stride 1 with outputs (N, O, P, Q), or its weight gradient, goes by it."""
    name = _choice.get()
    if name == "direct" or kernel not in _FEWEST_CHANNELS or in_channels > _MOST_CHANNELS:
        return False
    if name == "winograd":
        return True
    fewest = _FEWEST_CHANNELS[kernel][weights]
    if 2 * in_channels * out_channels < fewest * (in_channels + out_channels):
        return False
    images, rows, cols = out_shape[0], *out_shape[2:]
    high, wide = 7 - kernel[0] if kernel[0] > 1 else 1, 7 - kernel[1]  # outputs of a tile
    tiles = -(-rows // high) * -(-cols // wide)
    return (
        images * tiles >= 4 and high * wide * tiles <= 2 * rows * cols and get_backend() == "compiled"
    )
