"""The convolution layers' shared part; `conv1d.py`, `conv2d.py`, `conv_transpose.py` are the classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .. import _check as check
from .._check import Array
from .layer import Layer, initial, standard_normal

InitFn = Callable[..., Any] | None


class ConvStride1(Layer):
    """Holds W, b and their gradients, and convolves with stride 1."""

    parameter_names = ("W", "b", "dLdW", "dLdb")

    _forward: staticmethod[..., Array]
    _backward: staticmethod[..., tuple[Array, Array, Array]]

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, kernel_shape: tuple[int, ...],
        weight_init_fn: InitFn, bias_init_fn: InitFn, dtype: Any,
    ) -> None:
        self.in_channels = check.integer("in_channels", in_channels, 1)
        self.out_channels = check.integer("out_channels", out_channels, 1)
        self.kernel_size = kernel_size
        real = check.parameter_dtype(dtype)
        shape = (self.out_channels, self.in_channels, *kernel_shape)
        self.W: Array = initial("weight_init_fn", weight_init_fn, standard_normal, shape, real)
        self.b: Array = initial("bias_init_fn", bias_init_fn, np.zeros, shape[:1], real)
        self.dLdW: Array = np.zeros(shape, real)
        self.dLdb: Array = np.zeros(shape[:1], real)
        self.A: Any = None

    def forward(self, A: Any) -> Array:
        Z = self._forward(A, self.W, self.b)
        self.A = A
        return Z

    def backward(self, dLdZ: Any) -> Array:
        check.saved(self, A=self.A)
        dLdA, self.dLdW, self.dLdb = self._backward(dLdZ, self.A, self.W)
        return dLdA


class _OfInner:
    """An attribute of the inner stride-1 layer, read and assigned through the outer one."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else getattr(layer.inner, self.name)

    def __set__(self, layer: Any, value: Any) -> None:
        setattr(layer.inner, self.name, value)


class ConvOuter(Layer):
    """A stride-1 convolution with resampling around it. The parameters live in the inner layer.

    Its parts can be called one after the other; forward and backward here give the same, without
    computing outputs that would be thrown away or multiplying inserted zeros.
    """

    # The attribute that holds the inner layer, named as in the course. Of that layer only the
    # parameters are used here, so that it may be any object that has them.
    _inner: ClassVar[str]

    _forward: staticmethod[..., Array]
    _backward: staticmethod[..., tuple[Array, Array, Array]]

    in_channels, out_channels, kernel_size = _OfInner(), _OfInner(), _OfInner()
    W, b, dLdW, dLdb = _OfInner(), _OfInner(), _OfInner(), _OfInner()

    A: Any = None

    @property
    def inner(self) -> ConvStride1:
        """The stride-1 layer inside."""
        layer: ConvStride1 = getattr(self, self._inner)
        return layer

    def forward(self, A: Any) -> Array:
        inner = self.inner
        Z = self._forward(A, inner.W, inner.b, *self._steps())
        self.A = A
        return Z

    def backward(self, dLdZ: Any) -> Array:
        check.saved(self, A=self.A)
        inner = self.inner
        dLdA, inner.dLdW, inner.dLdb = self._backward(dLdZ, self.A, inner.W, *self._steps())
        return dLdA

    @abstractmethod
    def _steps(self) -> tuple[int, int, int]:
        """Stride, padding and upsampling."""


def either_revision(padding: Any, weight_init_fn: Any, bias_init_fn: Any) -> tuple[int, InitFn, InitFn]:
    """Padding and init functions of a call in either of the course's revisions.

    The older has no padding: ``Conv1d(i, o, k, s, weight_init_fn, bias_init_fn)``, which shows as a
    callable or None in the place of the padding.
    """
    if callable(padding) or padding is None:
        if weight_init_fn is not None and bias_init_fn is not None:
            raise TypeError(f"padding must be an integer, not {padding!r:.40}")
        padding, weight_init_fn, bias_init_fn = 0, padding, weight_init_fn or bias_init_fn
    return check.integer("padding", padding, 0), weight_init_fn, bias_init_fn
