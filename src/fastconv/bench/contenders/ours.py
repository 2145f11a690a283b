"""fastconv itself: compiled, compiled without Winograd's algorithm, and pure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np

from ... import algorithm, backend, demo, nn
from ... import functional as F
from ..._check import Array
from ..._version import __version__
from ...functional import conv as internals
from .arrays import Arrays
from .base import Call, Contender
from .blas import limit_blas

_ACTIVATIONS = {
    "relu": (F.relu, F.relu_backward, False, nn.ReLU),
    "gelu": (F.gelu, F.gelu_backward, False, nn.GELU),
    "sigmoid": (F.sigmoid, F.sigmoid_backward, True, nn.Sigmoid),
    "tanh": (F.tanh, F.tanh_backward, True, nn.Tanh),
    "softmax": (F.softmax, F.softmax_backward, True, nn.Softmax),
}
_LOSSES = {
    "xent": (F.cross_entropy, F.cross_entropy_backward, nn.CrossEntropyLoss),
    "mse": (F.mse, F.mse_backward, nn.MSELoss),
}


class Compiled(Contender):
    """The package as it is."""

    name = "compiled"
    modules: ClassVar[tuple[str, ...]] = ("fastconv",)

    # What its calls run in.
    _within: ClassVar[Callable[[], AbstractContextManager[None]] | None] = None

    @classmethod
    def installed(cls) -> bool:
        return backend.ISA is not None

    def version(self) -> str:
        return __version__

    def set_threads(self, count: int) -> None:
        backend.set_num_threads(count)
        limit_blas(count)

    def call(self, arrays: Arrays, pass_: str) -> Call | None:
        within = type(self)._within
        if within is None:
            return super().call(arrays, pass_)
        with within():
            call = super().call(arrays, pass_)
        return None if call is None else _inside(within, call)

    def conv(self, a: Arrays) -> dict[str, Call]:
        p = a.problem
        one = len(p.size) == 1
        forward: Any = F.conv1d_forward if one else F.conv2d_forward
        backward: Any = F.conv1d_backward if one else F.conv2d_backward
        steps: Any = (p.stride[0], p.padding[0], p.up[0]) if one else (p.stride, p.padding, p.up)
        return {
            "fwd": lambda: forward(a.X, a.W, a.b, *steps),
            "dX": _input_gradient(a),
            "dW": _weight_gradient(a),
            "bwd": lambda: backward(a.dZ, a.X, a.W, *steps),
            **_layer_calls(_conv_layer, a, ("W", "b")),
        }

    def pool(self, a: Arrays) -> dict[str, Call]:
        forward, backward, layer = (
            (F.max_pool2d_forward, F.max_pool2d_backward, nn.MaxPool2d)
            if a.problem.op == "max"
            else (F.mean_pool2d_forward, F.mean_pool2d_backward, nn.MeanPool2d)
        )
        sizes: Any = a.problem.kernel, a.problem.stride
        kernel, stride = sizes
        _, workspace = forward(a.X, kernel, stride)
        return {
            "fwd": lambda: forward(a.X, kernel, stride)[0],
            "bwd": lambda: backward(a.dZ, workspace),
            **_layer_calls(lambda _: layer(kernel[0], stride[0]), a, ()),
        }

    def bn(self, a: Arrays) -> dict[str, Call]:
        _, workspace = F.batchnorm2d_forward(a.X, a.W, a.b)

        def backward() -> tuple[Array, ...]:
            return F.batchnorm2d_backward(a.dZ, a.X, a.W, workspace)

        return {
            "fwd": lambda: F.batchnorm2d_forward(a.X, a.W, a.b)[0],
            "bwd": backward,
            **_layer_calls(_bn_layer, a, ("BW", "Bb")),
        }

    def activation(self, a: Arrays) -> dict[str, Call]:
        forward, backward, of_output, layer = _ACTIVATIONS[a.problem.op]
        kept = forward(a.X) if of_output else a.X
        return {
            "fwd": lambda: forward(a.X),
            "bwd": lambda: backward(a.dZ, kept),
            **_layer_calls(lambda _: layer(), a, ()),
        }

    def linear(self, a: Arrays) -> dict[str, Call]:
        return {
            "fwd": lambda: F.linear_forward(a.X, a.W, a.b),
            "bwd": lambda: F.linear_backward(a.dZ, a.X, a.W, a.b),
            **_layer_calls(_linear_layer, a, ("W", "b")),
        }

    def loss(self, a: Arrays) -> dict[str, Call]:
        forward, backward, _ = _LOSSES[a.problem.op]
        return {"fwd": lambda: forward(a.X, a.Y), "bwd": lambda: backward(a.X, a.Y)}

    def model(self, a: Arrays) -> dict[str, Call]:
        training = training_of(a)
        images = a.X if a.problem.op == "resnet" else a.X[:, None]
        return {"step": lambda: training.step(images, a.Y)}


class Direct(Compiled):
    """The compiled kernels without Winograd's algorithm."""

    name = "direct"
    modules = ()
    _within = staticmethod(lambda: algorithm.use_conv_algorithm("direct"))


class Pure(Compiled):
    """The course's algorithms in NumPy."""

    name = "pure"
    modules = ()
    _within = staticmethod(lambda: backend.use_backend("pure"))

    @classmethod
    def installed(cls) -> bool:
        return True


def training_of(a: Arrays) -> Any:
    """The demo's training of a problem's model, from the same weights every time.

    Its rate falls so slowly that it is constant for as long as a benchmark takes.
    """
    state = np.random.get_state()
    np.random.seed(0)
    try:
        kind = demo.ResNetTraining if a.problem.op == "resnet" else demo.CNNTraining
        return kind(str(a.dtype), steps=10**12)
    finally:
        np.random.set_state(state)


def _inside(within: Callable[[], AbstractContextManager[None]], call: Call) -> Call:
    def inside() -> Any:
        with within():
            return call()

    return inside


# `functional` computes all gradients of a convolution at once; these are its own two halves.


def _input_gradient(a: Arrays) -> Call:
    steps = _kernel_steps(a)

    def gradient() -> Array:
        dX = np.empty(a.X.shape, a.dtype)
        dz, w, dx = (_as_2d(x) for x in (a.dZ, a.W, dX))
        internals._input_gradient(dz, w, dx, *steps)
        return dX

    return gradient


def _weight_gradient(a: Arrays) -> Call:
    steps = _kernel_steps(a)

    def gradient() -> tuple[Array, Array]:
        dW, db = np.empty(a.W.shape, a.dtype), np.empty(a.b.shape, a.dtype)
        x, dz, dw = (_as_2d(x) for x in (a.X, a.dZ, dW))
        internals._weight_gradient(x, dz, dw, db, *steps)
        return dW, db

    return gradient


def _kernel_steps(a: Arrays) -> tuple[Any, Any, Any]:
    p = a.problem
    stride: Any = p.stride
    padding: Any = p.padding
    up: Any = p.up
    if len(p.size) == 1:
        stride, padding, up = internals._steps_1d(stride[0], padding[0], up[0])
    _, stride, up = internals._geometry(a.X, a.W, stride, padding, up)
    return stride, padding, up


def _as_2d(x: Array) -> Array:
    return x if x.ndim == 4 else x[:, :, None]


# The layers of a problem, for the passes through them.


def _layer_calls(make: Callable[[Arrays], Any], a: Arrays, names: tuple[str, ...]) -> dict[str, Call]:
    """Forward and backward of a layer with parameters of those names; none where there is no such layer."""
    p = a.problem
    if any(len(set(sizes)) > 1 for sizes in (p.kernel, p.stride, p.padding, p.up)):
        return {}
    layer = make(a)
    if layer is None:
        return {}
    for name, value in zip(names, (a.W, a.b)):
        setattr(layer, name, value.reshape(getattr(layer, name).shape))
    layer.forward(a.X)

    def backward() -> Any:
        dX = layer.backward(a.dZ)
        return (dX, *(getattr(layer, f"dLd{name}") for name in names)) if names else dX

    return {"layer fwd": lambda: layer.forward(a.X), "layer bwd": backward}


def _conv_layer(a: Arrays) -> Any:
    p = a.problem
    sizes = p.ic, p.oc, p.kernel[0]
    one, dtype = len(p.size) == 1, a.dtype
    if p.up[0] == 1:
        plain = nn.Conv1d if one else nn.Conv2d
        return plain(*sizes, p.stride[0], p.padding[0], dtype=dtype)
    if p.stride[0] == 1 and p.padding[0] == 0:
        transposed = nn.ConvTranspose1d if one else nn.ConvTranspose2d
        return transposed(*sizes, p.up[0], dtype=dtype)
    return None


def _bn_layer(a: Arrays) -> Any:
    return nn.BatchNorm2d(a.problem.ic, dtype=a.dtype)


def _linear_layer(a: Arrays) -> Any:
    return nn.Linear(a.problem.ic, a.problem.oc, dtype=a.dtype)
