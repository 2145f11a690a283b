"""Problems as short strings, in the manner of oneDNN's benchdnn: ``n8ic64ih32oc64kh3ph1``.

An operation and a colon come first, nothing for a convolution; then sizes, each a name and a number:

    n          images (or rows) of the batch, 1 if left out
    ic, oc     channels (or features) in and out
    ih, iw     height and width of the image
    kh, kw     of the kernel, or of a pool's window
    sh, sw     stride, 1 if left out
    ph, pw     padding on every side, 0 if left out
    uh, uw     upsampling: uh - 1 zeros are put between neighbours (transposed convolution)

A width that is left out is the height. A problem with widths alone is one-dimensional:
``n32ic24iw128oc8kw8sw4``. `Problem.__str__` leaves out what may be left out, and `parse` reads it back.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .. import _check as check
from . import BenchError

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class _Operation:
    family: str
    dims: tuple[int, ...]  # of images: 2, 1, or 0 for plain rows of features
    has_out: bool = False
    has_kernel: bool = False
    steps: str = ""  # which of stride, padding and upsampling
    passes: tuple[str, ...] = ("fwd", "bwd")


_OPERATIONS = {
    "conv": _Operation("conv", (1, 2), True, True, "spu", ("fwd", "dX", "dW")),
    "max": _Operation("pool", (2,), has_kernel=True, steps="s"),
    "mean": _Operation("pool", (2,), has_kernel=True, steps="s"),
    "bn": _Operation("bn", (2,)),
    "relu": _Operation("activation", (0, 1, 2)),
    "gelu": _Operation("activation", (0, 1, 2)),
    "sigmoid": _Operation("activation", (0, 1, 2)),
    "tanh": _Operation("activation", (0, 1, 2)),
    "softmax": _Operation("activation", (0,)),
    "linear": _Operation("linear", (0,), True),
    "xent": _Operation("loss", (0,)),
    "mse": _Operation("loss", (0,)),
    "resnet": _Operation("model", (2,), True, passes=("step",)),
    "cnn": _Operation("model", (1,), True, passes=("step",)),
}
# Channels, classes and image of the demo's models.
_MODELS: dict[str, tuple[int, int, Sizes]] = {"resnet": (1, 10, (8, 8)), "cnn": (8, 10, (8,))}
_IMPORT = "import"  # the one problem without sizes
_LEAST = {"s": 1, "p": 0, "u": 1}  # and what is left out
_MOST_DIGITS = 12
_NAMES = ("n", "ic", "ih", "iw", "oc", "kh", "kw", "sh", "sw", "ph", "pw", "uh", "uw")


@dataclass(frozen=True)
class Problem:
    """An operation and its sizes; those of images and windows are (height, width), (width,) or ().

    Raises
    ------
    BenchError
        The window is larger than the image; an array would not fit into the machine's memory.
    """

    op: str
    n: int = 1
    ic: int = 0
    oc: int = 0
    size: Sizes = ()
    kernel: Sizes = ()
    stride: Sizes = ()
    padding: Sizes = ()
    up: Sizes = ()

    def __post_init__(self) -> None:
        if self.kernel and any(k > extent for k, extent in zip(self.kernel, self._extents)):
            raise BenchError(f"problem {str(self)!r}: the window {self.kernel} is larger than the image")
        fixed = _MODELS.get(self.op, (self.ic, self.oc, self.size))
        if (self.ic, self.oc, self.size) != fixed:
            raise BenchError(f"problem {str(self)!r}: the demo's models have fixed sizes, all but n")
        for name, shape in (
            ("its input", self.in_shape), ("its result", self.out_shape), ("its kernel", self.weight_shape)
        ):
            try:
                check.fits(name, shape, check.FLOAT64.itemsize)
            except (MemoryError, ValueError) as error:
                raise BenchError(f"problem {str(self)!r}: {error}") from None

    @property
    def family(self) -> str:
        """Which method of a contender computes it."""
        return _IMPORT if self.op == _IMPORT else _OPERATIONS[self.op].family

    @property
    def passes(self) -> tuple[str, ...]:
        """What a suite measures of it."""
        return (_IMPORT,) if self.op == _IMPORT else _OPERATIONS[self.op].passes

    @property
    def _extents(self) -> Sizes:
        """Of the dilated and padded image."""
        return tuple(u * (i - 1) + 1 + 2 * p for i, u, p in zip(self.size, self.up, self.padding))

    @property
    def out_size(self) -> Sizes:
        if not self.kernel:
            return self.size
        return tuple((e - k) // s + 1 for e, k, s in zip(self._extents, self.kernel, self.stride))

    @property
    def in_shape(self) -> Sizes:
        return self.n, self.ic, *self.size

    @property
    def out_shape(self) -> Sizes:
        return self.n, self.oc or self.ic, *self.out_size

    @property
    def weight_shape(self) -> Sizes:
        """() if it has no weights."""
        return (self.oc, self.ic, *self.kernel) if self.family in ("conv", "linear") else ()

    def flops(self, pass_: str) -> int:
        """Multiplications and additions of one pass as direct convolution does them; 0 if not known.

        Padding counts, inserted zeros do not.
        """
        if self.family not in ("conv", "linear"):
            return 0
        pairs = math.prod(map(self._pairs, range(len(self.kernel))))
        return 2 * self.n * self.oc * self.ic * pairs * (2 if pass_.endswith("bwd") else 1)

    def _pairs(self, axis: int) -> int:
        """Pairs of an output and a tap of the kernel that do not meet on an inserted zero."""
        out, kernel, up = self.out_size[axis], self.kernel[axis], self.up[axis]
        if up == 1:
            return out * kernel
        stride, padding = self.stride[axis], self.padding[axis]
        return sum((p * stride + u - padding) % up == 0 for p in range(out) for u in range(kernel))

    def bytes(self, pass_: str, itemsize: int) -> int:
        """What one pass must read and write at least: every array once. 0 if not known."""
        if self.family in ("model", _IMPORT):
            return 0
        x, z, w = (math.prod(s) if s else 0 for s in (self.in_shape, self.out_shape, self.weight_shape))
        backward = pass_.endswith("bwd")
        if self.family in ("conv", "linear"):
            numbers = 2 * x + z + 2 * w if backward else x + z + w
        elif self.family == "loss":
            numbers = 3 * x if backward else 2 * x
        elif self.family == "pool":
            numbers = x + z
        else:
            numbers = 3 * x if backward else x + z
        return numbers * itemsize

    def __str__(self) -> str:
        if self.op == _IMPORT:
            return _IMPORT
        text = "" if self.op == "conv" else f"{self.op}:"
        text += ("" if self.n == 1 else f"n{self.n}") + f"ic{self.ic}" + _text("i", self.size, None)
        text += (f"oc{self.oc}" if self.oc else "") + _text("k", self.kernel, None)
        for letter, sizes in (("s", self.stride), ("p", self.padding), ("u", self.up)):
            text += _text(letter, sizes, _LEAST[letter])
        return text


def _text(letter: str, sizes: Sizes, default: int | None) -> str:
    if len(sizes) == 2:
        height, width = sizes
        return (f"{letter}h{height}" if height != default else "") + (
            f"{letter}w{width}" if width != height else ""
        )
    return "".join(f"{letter}w{width}" for width in sizes if width != default)


def parse(text: str) -> Problem:
    """Read a problem.

    Raises
    ------
    BenchError
        It is none; the message says where and why.
    """
    op, colon, rest = text.strip().rpartition(":")
    if not colon:
        op, rest = (_IMPORT, "") if rest == _IMPORT else ("conv", rest)
    if op not in (*_OPERATIONS, _IMPORT):
        raise BenchError(
            f"problem {text!r:.200}: unknown operation {op!r:.40}, wanted {', '.join(_OPERATIONS)}"
        )
    try:
        given = _read(rest)
        if op == _IMPORT:
            if given:
                raise BenchError(f"{_IMPORT} has no sizes")
            return Problem(_IMPORT)
        return _problem(op, _OPERATIONS[op], given)
    except BenchError as error:
        raise BenchError(f"problem {text!r:.200}: {str(error).rpartition(': ')[2]}") from None


def _read(text: str) -> dict[str, int]:
    if not re.fullmatch(r"([a-z]+[0-9]+)*", text):
        raise BenchError("not a row of names and numbers like n8ic64ih32oc64kh3ph1")
    given: dict[str, int] = {}
    for name, number in re.findall(r"([a-z]+)([0-9]+)", text):
        if name not in _NAMES:
            raise BenchError(f"unknown size {name!r:.40}, wanted some of {' '.join(_NAMES)}")
        if name in given:
            raise BenchError(f"{name} comes twice")
        if len(number) > _MOST_DIGITS:
            raise BenchError(f"{name} has more than {_MOST_DIGITS} digits")
        given[name] = int(number)
        least = _LEAST.get(name[0], 1) if len(name) == 2 else 1
        if given[name] < least:
            raise BenchError(f"{name} must be at least {least}")
    return given


def _problem(op: str, kind: _Operation, given: dict[str, int]) -> Problem:
    rest = dict(given)
    dims = 2 if "ih" in rest else 1 if "iw" in rest else 0
    if dims not in kind.dims:
        wanted = {2: "ih", 1: "iw", 0: "no image"}
        raise BenchError(f"{op} wants {' or '.join(wanted[d] for d in kind.dims)}")
    axes = ("h", "w")[2 - dims :] if dims else ()

    def take(name: str) -> int:
        if name not in rest:
            raise BenchError(f"{op} wants {name}")
        return rest.pop(name)

    def take_pair(letter: str, default: int | None = None) -> Sizes:
        sizes: list[int] = []
        for axis in axes:
            if sizes and letter + axis not in rest:
                sizes.append(sizes[0])
            elif default is not None:
                sizes.append(rest.pop(letter + axis, default))
            else:
                sizes.append(take(letter + axis))
        return tuple(sizes)

    n, ic, size = rest.pop("n", 1), take("ic"), take_pair("i")
    oc = take("oc") if kind.has_out else 0
    kernel = take_pair("k") if kind.has_kernel else ()
    stride, padding, up = (
        take_pair(letter, default) if letter in kind.steps
        else tuple(default for _ in kernel)
        for letter, default in _LEAST.items()
    )
    if rest:
        raise BenchError(f"{op}{' of one dimension' if dims == 1 else ''} has no {', '.join(rest)}")
    return Problem(op, n, ic, oc, size, kernel, stride, padding, up)
