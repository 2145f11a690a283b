"""Operations and bytes of a layer's call, from the layer and the shapes that went in and out.

Sizes become a `Problem` of the benchmark, which counts convolutions, dense layers and memory traffic.
Of the rest an addition, a comparison, a division, an exponential are one operation each: enough to
see that they are bound by memory.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from .. import nn
from ..bench.problems import Problem
from ..nn.conv import ConvOuter, ConvStride1
from ..nn.pool import _Pool2d
from ..nn.resampling import _Resampling

Shape = tuple[int, ...]


class Kind(NamedTuple):
    """What a layer computes, whatever the batch: the benchmark's operation, or "move", "scale", "view"."""

    op: str
    kernel: Shape = ()
    stride: Shape = ()
    padding: Shape = ()
    up: Shape = ()


class Work(NamedTuple):
    """Of one call: operations, bytes moved at least, and the problem to give to ``fastconv bench``."""

    operations: int
    bytes: int
    problem: str | None


# Operations a number, forward and backward: of the input, for pools of the output and the window.
_PER_NUMBER: dict[str, tuple[int, int]] = {
    "relu": (1, 1),
    "sigmoid": (4, 3),
    "tanh": (5, 3),
    "gelu": (5, 11),
    "swish": (6, 14),
    "softmax": (5, 4),
    "bn": (6, 9),
    "xent": (6, 7),
    "mse": (3, 2),
    "scale": (1, 1),
    "move": (0, 0),
}
_OPS: tuple[tuple[type, str], ...] = (
    (nn.ReLU, "relu"), (nn.Sigmoid, "sigmoid"), (nn.Tanh, "tanh"), (nn.GELU, "gelu"), (nn.Swish, "swish"),
    (nn.Softmax, "softmax"), (nn.BatchNorm2d, "bn"), (nn.CrossEntropyLoss, "xent"), (nn.MSELoss, "mse"),
    (nn.Dropout2d, "scale"), (_Resampling, "move"), (nn.Linear, "linear"),
    (nn.Identity, "view"), (nn.IdentityBlock, "view"), (nn.Flatten, "view"),
)  # fmt: skip


def kind_of(layer: Any) -> Kind | None:
    """What a layer computes, or None if it is not known: no layer of this package, or made of others."""
    if isinstance(layer, ConvOuter):
        return _convolution(layer.inner, *layer._steps())
    if isinstance(layer, ConvStride1):
        return _convolution(layer, 1, 0, 1)
    if isinstance(layer, _Pool2d):
        op = "max" if isinstance(layer, nn.MaxPool2d_stride1) else "mean"
        return Kind(op, *((n, n) for n in (layer.kernel, layer.stride, 0, 1)))
    for cls, op in _OPS:
        if isinstance(layer, cls):
            return Kind(op)
    return None


def _convolution(layer: ConvStride1, *steps: int) -> Kind:
    kernel = layer.W.shape[2:]
    return Kind("conv", kernel, *((step,) * len(kernel) for step in steps))


@lru_cache(maxsize=4096)
def work(kind: Kind, backward: bool, given: Shape, result: Shape, itemsize: int) -> Work | None:
    """Of a call that got one array and returned another; None if these shapes tell nothing."""
    if kind.op == "view":
        return Work(0, 0, None)
    image, out = (result, given) if backward else (given, result)
    if kind.op in ("xent", "mse"):
        image = out = result if backward else given
    if len(image) < 2 or len(out) < 2 or not math.prod(image):
        return None
    pass_ = "bwd" if backward else "fwd"
    known = kind.op if kind.op not in ("swish", "scale", "move") else "relu"
    dense = known in ("conv", "linear")
    problem = Problem(
        known, image[0], image[1], out[1] if dense else 0, image[2:] if known != "linear" else (), *kind[1:]
    )
    if dense:
        operations = problem.flops(pass_)
    elif kind.kernel:
        window = math.prod(kind.kernel)
        each = (window - 1, 1) if kind.op == "max" else (window, window)
        operations = each[backward] * math.prod(out)
    else:
        operations = _PER_NUMBER[kind.op][backward] * math.prod(image)
    if kind.op in ("scale", "move"):
        moved = (math.prod(image) + math.prod(out)) * itemsize
    else:
        moved = problem.bytes(pass_, itemsize)
    return Work(operations, moved, str(problem) if known == kind.op else None)


