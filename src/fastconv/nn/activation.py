"""Identity, Sigmoid, Tanh, ReLU, GELU, Swish, Softmax.

All keep `A`, the activation of the last input, for their readers. `backward(dLdA)` returns dLdZ;
the elementwise ones called as `backward()` return dA/dZ, as an older revision of the course has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .. import functional as F
from .._check import Array
from .layer import Layer


class _OfOutput(Layer):
    """Its gradient is a function of what it gave, which it keeps, apart from what callers get."""

    _forward: staticmethod[..., Array]
    _backward: staticmethod[..., Array]

    def __init__(self) -> None:
        self.A: Array | None = None

    def forward(self, Z: Any) -> Array:
        self.A = self._forward(Z)
        return self.A.copy()

    def backward(self, dLdA: Any = None) -> Array:
        check.saved(self, A=self.A)
        return self._backward(dLdA, self.A)


class _OfInput(Layer):
    """Its gradient is a function of the input, to which it keeps a reference."""

    _forward: staticmethod[..., Array]
    _backward: staticmethod[..., Any]

    def __init__(self) -> None:
        self.Z: Any = None

    @property
    def A(self) -> Array | None:
        return None if self.Z is None else self._forward(self.Z)

    def forward(self, Z: Any) -> Array:
        A = self._forward(Z)
        self.Z = Z
        return A

    def backward(self, dLdA: Any = None) -> Array:
        check.saved(self, Z=self.Z)
        dLdZ: Array = self._backward(dLdA, self.Z)
        return dLdZ


class Identity(Layer):
    """A = Z, the input itself."""

    def __init__(self) -> None:
        self.A: Any = None

    def forward(self, Z: Any) -> Any:
        check.array("Z", Z)
        self.A = Z
        return Z

    def backward(self, dLdA: Any = None) -> Array:
        check.saved(self, A=self.A)
        a = check.array("A", self.A)
        if dLdA is None:
            return np.ones(a.shape, check.real_dtype(a))
        dz = check.array("dLdA", dLdA)
        check.same_shape("dLdA", dz, a.shape, "A")
        return check.copied(dz)


class Sigmoid(_OfOutput):
    """A = 1 / (1 + exp(-Z))."""

    _forward = staticmethod(F.sigmoid)
    _backward = staticmethod(F.sigmoid_backward)


class Tanh(_OfOutput):
    """A = tanh(Z)."""

    _forward = staticmethod(F.tanh)
    _backward = staticmethod(F.tanh_backward)


class Softmax(_OfOutput):
    """Softmax of each row of Z (N, C). Not elementwise: `backward` needs its argument."""

    _forward = staticmethod(F.softmax)
    _backward = staticmethod(F.softmax_backward)


class ReLU(_OfInput):
    """A = max(Z, 0), with gradient 0 at 0."""

    _forward = staticmethod(F.relu)
    _backward = staticmethod(F.relu_backward)


class GELU(_OfInput):
    """A = Z * P(X <= Z) for a standard normal X, with the exact erf."""

    _forward = staticmethod(F.gelu)
    _backward = staticmethod(F.gelu_backward)


class Swish(Layer):
    """A = Z * sigmoid(beta * Z).

    Attributes
    ----------
    beta : float
    dLdbeta : float
        After backward.
    """

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = check.number("beta", beta)
        self.dLdbeta: Any = None
        self.Z: Any = None

    @property
    def A(self) -> Array | None:
        return None if self.Z is None else F.swish(self.Z, self.beta)

    def forward(self, Z: Any) -> Array:
        A = F.swish(Z, self.beta)
        self.Z = Z
        return A

    def backward(self, dLdA: Any = None) -> Array:
        check.saved(self, Z=self.Z)
        dLdZ, self.dLdbeta = F.swish_backward(dLdA, self.Z, self.beta)
        return dLdZ
