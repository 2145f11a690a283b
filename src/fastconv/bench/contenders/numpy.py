"""What a good NumPy program does: im2col and matmul, strided slices, whole-array arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..._check import Array
from .arrays import Arrays
from .base import Call, Contender
from .blas import limit_blas


class NumPy(Contender):
    name = "numpy"
    modules = ()

    def version(self) -> str:
        return np.__version__

    def set_threads(self, count: int) -> None:
        limit_blas(count)

    def conv(self, a: Arrays) -> dict[str, Call]:
        convolution = _Im2col(a)
        return {
            "fwd": convolution.forward,
            "dX": convolution.input_gradient,
            "dW": convolution.weight_gradient,
            "bwd": lambda: (convolution.input_gradient(), *convolution.weight_gradient()),
        }

    def pool(self, a: Arrays) -> dict[str, Call]:
        taps = a.problem.kernel[0] * a.problem.kernel[1]

        def largest() -> Array:
            Z = np.full(a.problem.out_shape, -np.inf, a.dtype)
            for _, seen in _slices(a.X, a):
                np.maximum(Z, seen, out=Z)
            return Z

        def mean() -> Array:
            Z = np.zeros(a.problem.out_shape, a.dtype)
            for _, seen in _slices(a.X, a):
                Z += seen
            Z /= taps
            return Z

        if a.problem.op == "mean":

            def spread() -> Array:
                dX = np.zeros(a.X.shape, a.dtype)
                share = a.dZ / taps
                for _, seen in _slices(dX, a):
                    seen += share
                return dX

            return {"fwd": mean, "bwd": spread}

        # Its forward keeps nothing but the result: a program that only predicts wants no more.
        Z = largest()

        def route() -> Array:
            dX = np.zeros(a.X.shape, a.dtype)
            for (_, seen), (_, gradient) in zip(_slices(a.X, a), _slices(dX, a)):
                np.add(gradient, a.dZ, out=gradient, where=seen == Z)
            return dX

        return {"fwd": largest, "bwd": route}

    def bn(self, a: Arrays) -> dict[str, Call]:
        axes, eps = (0, 2, 3), 1e-8
        scale, shift = a.W[:, None, None], a.b[:, None, None]

        def forward() -> Array:
            centred = a.X - a.X.mean(axis=axes, keepdims=True)
            var = np.square(centred).mean(axis=axes, keepdims=True)
            centred *= scale / np.sqrt(var + a.dtype.type(eps))
            centred += shift
            return np.asarray(centred)

        mean, var = a.X.mean(axis=axes, keepdims=True), a.X.var(axis=axes, keepdims=True)
        inverse = (1 / np.sqrt(var + eps)).astype(a.dtype)
        numbers = a.X.size // a.problem.ic

        def backward() -> tuple[Array, Array, Array]:
            normal = a.X - mean
            normal *= inverse
            dshift = a.dZ.sum(axis=axes)
            dscale = np.einsum("nchw,nchw->c", a.dZ, normal)
            normal *= (dscale / numbers)[:, None, None]
            dX = a.dZ - normal
            dX -= (dshift / numbers)[:, None, None]
            dX *= scale * inverse
            return dX, np.asarray(dscale), dshift

        return {"fwd": forward, "bwd": backward}

    def activation(self, a: Arrays) -> dict[str, Call]:
        def softmax() -> Array:
            A = np.exp(a.X - a.X.max(axis=1, keepdims=True))
            A /= A.sum(axis=1, keepdims=True)
            return np.asarray(A)

        def sigmoid() -> Array:
            return np.asarray(1 / (1 + np.exp(-a.X)))

        def softmax_backward() -> Array:
            return np.asarray(A * (a.dZ - (a.dZ * A).sum(axis=1, keepdims=True)))

        zero = a.dtype.type(0)
        if a.problem.op == "relu":
            return {"fwd": lambda: np.maximum(a.X, zero), "bwd": lambda: np.where(a.X > 0, a.dZ, zero)}
        if a.problem.op == "tanh":
            A = np.tanh(a.X)
            return {"fwd": lambda: np.tanh(a.X), "bwd": lambda: a.dZ * (1 - A * A)}
        if a.problem.op == "sigmoid":
            A = sigmoid()
            return {"fwd": sigmoid, "bwd": lambda: a.dZ * A * (1 - A)}
        if a.problem.op == "softmax":
            A = softmax()
            return {"fwd": softmax, "bwd": softmax_backward}
        return {}  # NumPy has no erf

    def linear(self, a: Arrays) -> dict[str, Call]:
        return {
            "fwd": lambda: a.X @ a.W.T + a.b,
            "bwd": lambda: (a.dZ @ a.W, a.dZ.T @ a.X, a.dZ.sum(axis=0)),
        }

    def loss(self, a: Arrays) -> dict[str, Call]:
        def cross_entropy() -> Array:
            log = a.X - a.X.max(axis=1, keepdims=True)
            log -= np.log(np.exp(log).sum(axis=1, keepdims=True))
            return np.asarray(-(log * a.Y).sum() / len(log))

        def cross_entropy_gradient() -> Array:
            A = np.exp(a.X - a.X.max(axis=1, keepdims=True))
            A /= A.sum(axis=1, keepdims=True)
            A -= a.Y
            A /= len(A)
            return np.asarray(A)

        if a.problem.op == "xent":
            return {"fwd": cross_entropy, "bwd": cross_entropy_gradient}
        factor = a.dtype.type(2 / a.X.size)
        return {"fwd": lambda: np.square(a.X - a.Y).mean(), "bwd": lambda: (a.X - a.Y) * factor}


def _slices(image: Array, a: Arrays) -> Iterator[tuple[int, Array]]:
    """For each position in the window what all windows have there, a view of the image."""
    (rows, cols), (sh, sw) = a.problem.out_size[-2:], a.problem.stride
    for tap in range(a.problem.kernel[0] * a.problem.kernel[1]):
        u, v = divmod(tap, a.problem.kernel[1])
        yield tap, image[:, :, u : u + (rows - 1) * sh + 1 : sh, v : v + (cols - 1) * sw + 1 : sw]


class _Im2col:
    """Convolution as a matrix product with every window laid out as a column (Chellapilla et al., 2006)."""

    def __init__(self, a: Arrays) -> None:
        p = self.problem = a.problem
        self.a = a
        one = len(p.size) == 1
        # One dimension is two with a height of 1.
        self.kernel, self.stride, self.out = ((1, *s) if one else s for s in (p.kernel, p.stride, p.out_size))
        self.padding = (0, *p.padding) if one else p.padding
        self.up = (1, *p.up) if one else p.up
        self.size = (1, *p.size) if one else p.size
        self.whole = tuple(u * (i - 1) + 1 for i, u in zip(self.size, self.up))

    def _inner(self, padded: Array) -> Array:
        """The part of a padded and dilated image that holds the numbers, a view."""
        (top, left), (rows, cols), (uh, uw) = self.padding, self.whole, self.up
        return padded[:, :, top : top + rows : uh, left : left + cols : uw]

    def _padded(self) -> Array:
        x = self.a.X.reshape(self.problem.n, self.problem.ic, *self.size)
        sizes = [w + 2 * p for w, p in zip(self.whole, self.padding)]
        if sizes == list(self.size):
            return x
        padded = np.zeros((*x.shape[:2], *sizes), x.dtype)
        self._inner(padded)[...] = x
        return padded

    def _columns(self) -> Array:
        windows = np.lib.stride_tricks.sliding_window_view(self._padded(), self.kernel, axis=(2, 3))
        windows = windows[:, :, :: self.stride[0], :: self.stride[1]]
        return windows.transpose(0, 1, 4, 5, 2, 3).reshape(self.problem.n, self.a.W[0].size, -1)

    def forward(self) -> Array:
        Z = self.a.W.reshape(self.problem.oc, -1) @ self._columns()
        Z += self.a.b[:, None]
        return Z.reshape(self.problem.out_shape)

    def input_gradient(self) -> Array:
        p = self.problem
        columns = self.a.W.reshape(p.oc, -1).T @ self.a.dZ.reshape(p.n, p.oc, -1)
        columns = columns.reshape(p.n, p.ic, *self.kernel, *self.out)
        padded = np.zeros((p.n, p.ic, *(w + 2 * q for w, q in zip(self.whole, self.padding))), self.a.dtype)
        (sh, sw), (rows, cols) = self.stride, self.out
        for u in range(self.kernel[0]):
            for v in range(self.kernel[1]):
                seen = padded[:, :, u : u + (rows - 1) * sh + 1 : sh, v : v + (cols - 1) * sw + 1 : sw]
                seen += columns[:, :, u, v]
        return np.ascontiguousarray(self._inner(padded)).reshape(self.a.X.shape)

    def weight_gradient(self) -> tuple[Array, Array]:
        dZ = self.a.dZ.reshape(self.problem.n, self.problem.oc, -1)
        dW = (dZ @ self._columns().transpose(0, 2, 1)).sum(axis=0)
        return dW.reshape(self.a.W.shape), dZ.sum(axis=(0, 2))
