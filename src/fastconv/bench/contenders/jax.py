"""JAX: every pass a function of its own, compiled before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...extras import need
from .arrays import Arrays
from .base import Call, Contender


class Jax(Contender):
    """A gradient is that of `jax.vjp`, compiled alone, so that what it does not need is not computed."""

    name = "jax"
    modules = ("jax",)

    def __init__(self) -> None:
        self.jax = need("jax", "peers")
        self.jax.config.update("jax_enable_x64", True)

    def version(self) -> str:
        return str(self.jax.__version__)

    def conv(self, a: Arrays) -> dict[str, Call]:
        p, lax = a.problem, self.jax.lax
        sides = [(q, q) for q in p.padding]
        shape = (p.oc,) + (1,) * len(p.size)

        def forward(X: Any, W: Any, b: Any) -> Any:
            return lax.conv_general_dilated(X, W, p.stride, sides, lhs_dilation=p.up) + b.reshape(shape)

        gradients = self._gradients(forward, (a.X, a.W, a.b), a.dZ)
        return {
            "fwd": self._compiled(forward, a.X, a.W, a.b),
            "dX": gradients(0),
            "dW": gradients(1, 2),
            "bwd": gradients(0, 1, 2),
        }

    def pool(self, a: Arrays) -> dict[str, Call]:
        lax, kernel, stride = self.jax.lax, (1, 1, *a.problem.kernel), (1, 1, *a.problem.stride)
        taps = a.problem.kernel[0] * a.problem.kernel[1]

        def forward(X: Any) -> Any:
            if a.problem.op == "max":
                return lax.reduce_window(X, -np.inf, lax.max, kernel, stride, "VALID")
            return lax.reduce_window(X, 0.0, lax.add, kernel, stride, "VALID") / taps

        return self._of_input(forward, a)

    def bn(self, a: Arrays) -> dict[str, Call]:
        def forward(X: Any, scale: Any, shift: Any) -> Any:
            mean = X.mean(axis=(0, 2, 3), keepdims=True)
            centred = X - mean
            var = (centred * centred).mean(axis=(0, 2, 3), keepdims=True)
            normal = centred * self.jax.lax.rsqrt(var + 1e-8)
            return normal * scale[:, None, None] + shift[:, None, None]

        return {
            "fwd": self._compiled(forward, a.X, a.W, a.b),
            "bwd": self._gradients(forward, (a.X, a.W, a.b), a.dZ)(0, 1, 2),
        }

    def activation(self, a: Arrays) -> dict[str, Call]:
        functions = self.jax.nn
        forward = {
            "relu": functions.relu,
            "gelu": lambda X: functions.gelu(X, approximate=False),
            "sigmoid": functions.sigmoid,
            "tanh": self.jax.numpy.tanh,
            "softmax": functions.softmax,
        }[a.problem.op]
        return self._of_input(forward, a)

    def linear(self, a: Arrays) -> dict[str, Call]:
        def forward(X: Any, W: Any, b: Any) -> Any:
            return X @ W.T + b

        return {
            "fwd": self._compiled(forward, a.X, a.W, a.b),
            "bwd": self._gradients(forward, (a.X, a.W, a.b), a.dZ)(0, 1, 2),
        }

    def loss(self, a: Arrays) -> dict[str, Call]:
        def forward(X: Any, Y: Any) -> Any:
            if a.problem.op == "mse":
                return ((X - Y) ** 2).mean()
            return -(self.jax.nn.log_softmax(X) * Y).sum() / len(X)

        return {
            "fwd": self._compiled(forward, a.X, a.Y),
            "bwd": self._compiled(self.jax.grad(forward), a.X, a.Y),
        }

    def _of_input(self, forward: Callable[[Any], Any], a: Arrays) -> dict[str, Call]:
        return {"fwd": self._compiled(forward, a.X), "bwd": self._gradients(forward, (a.X,), a.dZ)(0)}

    def _gradients(
        self, forward: Callable[..., Any], arguments: tuple[Any, ...], dZ: Any
    ) -> Callable[..., Call]:
        """A function of the places of the arguments whose gradients are wanted."""

        def of(*places: int) -> Call:
            def gradient(dZ: Any, *arguments: Any) -> Any:
                _, pull_back = self.jax.vjp(forward, *arguments)
                found = pull_back(dZ)
                return found[places[0]] if len(places) == 1 else tuple(found[i] for i in places)

            return self._compiled(gradient, dZ, *arguments)

        return of

    def _compiled(self, function: Callable[..., Any], *arguments: Any) -> Call:
        jitted = self.jax.jit(function)

        def call() -> Any:
            result = self.jax.block_until_ready(jitted(*arguments))
            return tuple(map(np.asarray, result)) if isinstance(result, tuple) else np.asarray(result)

        return call
