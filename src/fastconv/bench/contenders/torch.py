"""PyTorch, eager: the operators that its own layers and their gradients run."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._check import Array
from ...extras import need
from .arrays import Arrays
from .base import Call, Contender

_EPS = 1e-8  # that of BatchNorm2d here


class Torch(Contender):
    """Tensors are made of the arrays, which share memory, in every call, as a NumPy program would."""

    name = "torch"
    modules = ("torch",)

    def __init__(self) -> None:
        self.torch = need("torch", "peers")
        self.F = self.torch.nn.functional
        self.aten = self.torch.ops.aten

    def version(self) -> str:
        return str(self.torch.__version__)

    def set_threads(self, count: int) -> None:
        self.torch.set_num_threads(count)

    def conv(self, a: Arrays) -> dict[str, Call]:
        p, t, aten = a.problem, self.torch.from_numpy, self.aten
        dims = len(p.size)
        transposed = any(u > 1 for u in p.up)
        W, padding = a.W, p.padding
        if transposed:
            padding = tuple(k - 1 - q for k, q in zip(p.kernel, p.padding))
            if any(s > 1 for s in p.stride) or min(padding) < 0:
                return {}
            W = np.ascontiguousarray(_rotated(a.W))  # as PyTorch keeps the weights of such a layer
        functions = self.F.conv1d, self.F.conv2d, self.F.conv_transpose1d, self.F.conv_transpose2d
        function = functions[dims - 1 + 2 * transposed]
        stride = p.up if transposed else p.stride

        def forward() -> Array:
            return _numpy(function(t(a.X), t(W), t(a.b), stride=stride, padding=padding))

        def gradients(*wanted: bool) -> Any:
            return aten.convolution_backward(
                t(a.dZ), t(a.X), t(W), [p.oc], stride, padding, [1] * dims, transposed, [0] * dims, 1, wanted
            )

        def of_weights(found: Any) -> tuple[Array, Array]:
            dW = found[1].numpy()
            return (_rotated(dW) if transposed else dW), found[2].numpy()

        def both() -> tuple[Array, ...]:
            found = gradients(True, True, True)
            return (found[0].numpy(), *of_weights(found))

        calls: dict[str, Call] = {
            "fwd": forward,
            "dX": lambda: gradients(True, False, False)[0].numpy(),
            "dW": lambda: of_weights(gradients(False, True, True)),
            "bwd": both,
        }
        if not transposed:
            module = (self.torch.nn.Conv1d, self.torch.nn.Conv2d)[dims - 1]
            layer = self._layer(module(p.ic, p.oc, p.kernel, p.stride, p.padding), a)
            calls["layer fwd"] = lambda: layer(t(a.X)).numpy()
        return calls

    def _layer(self, module: Any, a: Arrays) -> Any:
        """The module with the weights of a problem, without gradients of autograd's."""
        with self.torch.no_grad():
            module.weight.data = self.torch.from_numpy(a.W)
            module.bias.data = self.torch.from_numpy(a.b)
        return module.requires_grad_(False)

    def pool(self, a: Arrays) -> dict[str, Call]:
        p, t, aten = a.problem, self.torch.from_numpy, self.aten
        none, one = [0, 0], [1, 1]
        if p.op == "mean":
            layer = self.torch.nn.AvgPool2d(p.kernel, p.stride)
            return {
                "fwd": lambda: self.F.avg_pool2d(t(a.X), p.kernel, p.stride).numpy(),
                "bwd": lambda: aten.avg_pool2d_backward(
                    t(a.dZ), t(a.X), p.kernel, p.stride, none, False, True, None
                ).numpy(),
                "layer fwd": lambda: layer(t(a.X)).numpy(),
            }
        _, indices = self.F.max_pool2d(t(a.X), p.kernel, p.stride, return_indices=True)
        layer = self.torch.nn.MaxPool2d(p.kernel, p.stride)
        return {
            # With the argmax, without which there is no backward.
            "fwd": lambda: self.F.max_pool2d(t(a.X), p.kernel, p.stride, return_indices=True)[0].numpy(),
            "bwd": lambda: aten.max_pool2d_with_indices_backward(
                t(a.dZ), t(a.X), p.kernel, p.stride, none, one, False, indices
            ).numpy(),
            "layer fwd": lambda: layer(t(a.X)).numpy(),
        }

    def bn(self, a: Arrays) -> dict[str, Call]:
        t, aten, X = self.torch.from_numpy, self.aten, self.torch.from_numpy(a.X)
        _, mean, inverse = aten.native_batch_norm(X, t(a.W), t(a.b), None, None, True, 0.1, _EPS)
        layer = self._layer(self.torch.nn.BatchNorm2d(a.problem.ic, eps=_EPS, dtype=X.dtype), a)

        def backward() -> tuple[Array, ...]:
            found = aten.native_batch_norm_backward(
                t(a.dZ), t(a.X), t(a.W), None, None, mean, inverse, True, _EPS, [True, True, True]
            )
            return tuple(x.numpy() for x in found)

        return {
            "fwd": lambda: self.F.batch_norm(
                t(a.X), None, None, t(a.W), t(a.b), training=True, eps=_EPS
            ).numpy(),
            "bwd": backward,
            "layer fwd": lambda: layer(t(a.X)).numpy(),
        }

    def activation(self, a: Arrays) -> dict[str, Call]:
        t, aten, F, nn = self.torch.from_numpy, self.aten, self.F, self.torch.nn
        X = t(a.X)
        op = a.problem.op
        if op == "relu":
            layer = nn.ReLU()
            return {
                "fwd": lambda: F.relu(t(a.X)).numpy(),
                "bwd": lambda: aten.threshold_backward(t(a.dZ), t(a.X), 0).numpy(),
                "layer fwd": lambda: layer(t(a.X)).numpy(),
            }
        if op == "gelu":
            return {
                "fwd": lambda: F.gelu(t(a.X)).numpy(),
                "bwd": lambda: aten.gelu_backward(t(a.dZ), t(a.X), approximate="none").numpy(),
            }
        if op == "softmax":
            kept = self.torch.softmax(X, 1)
            return {
                "fwd": lambda: self.torch.softmax(t(a.X), 1).numpy(),
                "bwd": lambda: aten._softmax_backward_data(t(a.dZ), kept, 1, kept.dtype).numpy(),
            }
        forward = {"sigmoid": self.torch.sigmoid, "tanh": self.torch.tanh}[op]
        backward = {"sigmoid": aten.sigmoid_backward, "tanh": aten.tanh_backward}[op]
        kept = forward(X)
        return {"fwd": lambda: forward(t(a.X)).numpy(), "bwd": lambda: backward(t(a.dZ), kept).numpy()}

    def linear(self, a: Arrays) -> dict[str, Call]:
        t = self.torch.from_numpy
        layer = self._layer(self.torch.nn.Linear(a.problem.ic, a.problem.oc), a)

        def backward() -> tuple[Array, ...]:
            dZ = t(a.dZ)
            return (dZ @ t(a.W)).numpy(), (dZ.T @ t(a.X)).numpy(), dZ.sum(0).numpy()

        return {
            "fwd": lambda: self.F.linear(t(a.X), t(a.W), t(a.b)).numpy(),
            "bwd": backward,
            "layer fwd": lambda: layer(t(a.X)).numpy(),
        }

    def loss(self, a: Arrays) -> dict[str, Call]:
        t, F = self.torch.from_numpy, self.F
        if a.problem.op == "mse":
            one = self.torch.ones((), dtype=t(a.X).dtype)
            return {
                "fwd": lambda: F.mse_loss(t(a.X), t(a.Y)).numpy(),
                "bwd": lambda: self.aten.mse_loss_backward(one, t(a.X), t(a.Y), 1).numpy(),
            }
        return {
            "fwd": lambda: F.cross_entropy(t(a.X), t(a.Y)).numpy(),
            "bwd": lambda: ((self.torch.softmax(t(a.X), 1) - t(a.Y)) / len(a.X)).numpy(),
        }

    def model(self, a: Arrays) -> dict[str, Call]:
        from .torch_models import step

        return {"step": step(self.torch, a)}


def _numpy(tensor: Any) -> Array:
    result: Array = tensor.numpy()
    return result


def _rotated(W: Array) -> Array:
    """Channels exchanged and every kernel turned by 180 degrees, a view."""
    axes = tuple(range(2, W.ndim))
    return np.flip(W, axes).swapaxes(0, 1)
