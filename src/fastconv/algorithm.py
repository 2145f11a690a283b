"""Which algorithm a convolution runs on: direct, or Winograd's for kernels of 2, 3 and 5 taps a part.

Winograd's F(4x4, 3x3) needs a quarter of the multiplications and two to three times less time. Its
rounding error is larger, about 10 times in units of the largest result (docs/performance.md), and
falls on whole tiles: beside numbers that are larger by many orders of magnitude, small results lose
their digits. Who cannot have that asks for direct convolution.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import lru_cache

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
        "winograd" is for kernels with stride 1 of 2 columns and more, and for those that a stride or
        upsampling of s cuts into phases of 1, 2, 3 or 5 rows and 2, 3 or 5 columns (3 or 4 taps by 2:
        two; 5: three), up to 15 x 15 taps and strides of 5; all others run directly, and so do gradients
        with respect to weights with a stride or of kernels with sides of 2 and 4. "auto", the default,
        uses it where it is faster: on compiled kernels, from about 12 (3x3) to 40 (1-D, 3) channels.
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
# Times in units of a multiply-add of direct convolution, fitted to 564 measurements (7 to 2000 pixels a
# side, 3 to 512 channels, 2 to 15 taps, AVX2, both dtypes): choosing by this model takes on the average 1.0%
# longer than choosing the faster one each time. (Phases and pieces, fitted again to 472 measurements with
# AVX2 and AVX-512 and 1 MB of second-level cache, held back where half of that measured otherwise: 1.4%.)
# - A multiply-add of a direct convolution with upsampling:
_UPSAMPLED = 1.5
# - one for many small images, if filters are not large (for a single vector of images: smaller), which
#   conv.pyx does with images as lanes and, with stride 1, without their borders:
_SMALL = 1.08
_SMALL_IMAGES, _SMALL_ROW, _SMALL_PIXELS, _SMALL_FILTERS = 8, 16, 196, (10 << 10, 1 << 16)
# - one of transformed tiles, with phases or pieces; their number goes up to whole vectors:
_PARTS_PRODUCT, _TILES = 1.3, 8
# - the transforms of a number of input and of output, and of those of phases or pieces (of pieces for the
#   gradient of weights: 128 measurements, 0.4%); more where lines alone are transformed, and where steps
#   other than 1 and 2 are read and written number by number:
_TRANSFORMS, _PARTS_TRANSFORMS, _LINE, _STEPS = 16, (12, 18), 1.2, 3
# - the transform of a number of a filter, and of its gradient; for phases and pieces, which are many more
#   filters, with reading them again from the third-level cache:
_FILTERS, _PARTS_FILTERS = (9, 18), 22
# - where the filters of pieces, or of the phases of a stride, take so many bytes, they are transformed
#   again for each slab of sums, and inputs for each group of filters, of so many bytes (winograd_cut.pxd):
_FILTERS_BYTES, _SUMS_BYTES, _GROUP_BYTES = 5_000_000, 2_000_000, 1_000_000
# Channels of a chunk, all parts counted; of each part at the least; and the most for which there is scratch.
_CHUNK, _LEAST_OF_PART, _MOST_IN_CHUNK = 128, 16, 480


def winograd_runs(
    weights_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    stride: Pair,
    pad: Pair,
    up: Pair,
    itemsize: int,
    weights: bool = False,
) -> bool:
    """Whether a convolution of weights (O, C, KH, KW) to (N, O, P, Q), or its weight gradient, goes by it.

    `itemsize` is the bytes of a number.
    """
    name = _choice.get()
    if name == "direct":
        return False
    can, pays = _judge(weights_shape, out_shape, stride, pad, up, itemsize, weights)
    return can and (name == "winograd" or (pays and get_backend() == "compiled"))


@lru_cache(maxsize=1024)  # a tiny layer's call takes little longer than this
def _judge(
    weights_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    stride: Pair,
    pad: Pair,
    up: Pair,
    itemsize: int,
    weights: bool,
) -> tuple[bool, bool]:
    """Whether Winograd's algorithm can compute it, and whether it is faster."""
    steps = max(*stride, *up)
    if stride != _ONE != up or (weights and steps > 1):
        return False, False
    O, C, KH, KW = weights_shape
    N, _, P, Q = out_shape
    high, wide = phase_taps(KH, stride[0], pad[0], up[0]), phase_taps(KW, stride[1], pad[1], up[1])
    pieces = 1
    if steps == 1:
        high, wide = piece_taps(KH), piece_taps(KW)
        pieces = _over(KH, high) * _over(KW, wide)
    if high not in _TILE_OUTPUTS or wide not in _TILE_OUTPUTS or wide == 1:
        return False, False
    if weights and 2 in (high, wide):
        return False, False
    parts = stride[0] * stride[1] * pieces
    inputs, outputs = C * parts, O * up[0] * up[1]
    chunk = parts * min(C, max(_LEAST_OF_PART, _CHUNK // parts))
    if chunk > _MOST_IN_CHUNK:
        return False, False

    direct = N * P * Q * O * C * KH * KW / (up[0] * up[1])
    if (
        not weights and N >= _SMALL_IMAGES and Q <= _SMALL_ROW and P * Q <= _SMALL_PIXELS
        and _SMALL_FILTERS[N > _SMALL_IMAGES] >= O * C * KH * KW
    ):
        direct *= _SMALL
        if steps == 1:
            direct *= _part_inside(P, KH, pad[0]) * _part_inside(Q, KW, pad[1])
    elif up != _ONE:
        direct *= _UPSAMPLED
    rows, cols = _TILE_OUTPUTS[high], 4 if high == 1 else _TILE_OUTPUTS[wide]
    tiles = N * _over(_over(P, up[0]), rows) * _over(_over(Q, up[1]), cols)
    tiles = _over(tiles, _TILES) * _TILES
    product, filters, transforms = 1.0, _FILTERS[weights], _TRANSFORMS
    if steps > 1 or pieces > 1:
        product, filters, transforms = _PARTS_PRODUCT, _PARTS_FILTERS, _PARTS_TRANSFORMS[weights]
    transform = transforms * (_LINE if high == 1 else 1) * (_STEPS if steps > 2 else 1)
    product *= points_met(KH, high, rows, stride[0], pad[0], up[0])
    product *= points_met(KW, wide, cols, stride[1], pad[1], up[1])
    points = (rows + high - 1) * (cols + wide - 1)
    groups = 1
    if parts > 1 and not weights and points * inputs * outputs * itemsize > _FILTERS_BYTES:
        groups = _over(points * chunk * outputs * itemsize, _GROUP_BYTES)
        filters *= _over(points * tiles * _over(outputs, groups) * itemsize, _SUMS_BYTES)
    winograd = points * (
        tiles * (product * inputs * outputs + transform * (inputs * groups + outputs))
        + filters * inputs * outputs
    )
    return True, winograd <= direct


def _part_inside(outputs: int, kernel: int, pad: int) -> float:
    """Of the pairs of outputs and taps on an axis with stride 1, the part not beyond the border."""
    size = outputs + kernel - 1 - 2 * pad
    inside = sum(max(0, min(kernel, size - p + pad) - max(0, pad - p)) for p in range(outputs))
    return inside / (outputs * kernel)


def points_met(kernel: int, taps: int, outputs: int, stride: int, pad: int, up: int) -> float:
    """Of the points of an axis of a tile, on the average over parts or phases, those not left out.

    `meets` in pyx/transforms.pxd has the rule.
    """
    firsts, points, met = first_taps(kernel, taps, stride, pad, up), outputs + taps - 1, 0
    for first in firsts:
        last = first + (taps - 1) * max(stride, up)
        if first < kernel and last >= 0:
            met += points - 2 + (first >= 0) + (last < kernel)
    return met / (len(firsts) * points)


def _over(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def first_taps(kernel: int, taps: int, stride: int, pad: int, up: int) -> list[int]:
    """The kernel's tap that is the first of each part or phase, if it has it.

    `side_of` in pyx/transforms.pxd has the rule.
    """
    if up > 1:
        return [pad % up - phase for phase in range(up)]
    return list(range(stride)) if stride > 1 else list(range(0, kernel, taps))


def piece_taps(kernel: int) -> int:
    """Those of each piece of a kernel with stride 1, or all (`side_of` in pyx/transforms.pxd)."""
    return 2 if kernel == 4 else 3 if kernel > 5 else kernel


def phase_taps(kernel: int, stride: int, pad: int, up: int) -> int:
    """Those of the kernel with stride 1 that is the same for phases (`side_of` in pyx/transforms.pxd)."""
    if up == 1:
        return _over(kernel, stride)
    return (kernel - 1 + up - 1 - pad) // up + pad // up + 1
