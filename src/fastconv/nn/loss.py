"""MSELoss, CrossEntropyLoss."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .. import functional as F
from .._check import Array
from .layer import Layer


class _Loss(Layer):
    """A loss of predictions A (N, C) against targets Y (N, C).

    Attributes
    ----------
    A, Y : the last arguments of forward
    N, C : int
    """

    _forward: staticmethod[..., np.float64]
    _backward: staticmethod[..., Array]

    def __init__(self) -> None:
        self.A: Any = None
        self.Y: Any = None
        self.N: int | None = None
        self.C: int | None = None

    def forward(self, A: Any, Y: Any) -> np.float64:
        """The loss, a scalar."""
        loss = self._forward(A, Y)
        self.A, self.Y = A, Y
        self.N, self.C = np.shape(A)
        return loss

    def backward(self) -> Array:
        """Its gradient with respect to A."""
        check.saved(self, A=self.A)
        return self._backward(self.A, self.Y)


class MSELoss(_Loss):
    """Mean of (A - Y)^2 over all N * C numbers."""

    _forward = staticmethod(F.mse)
    _backward = staticmethod(F.mse_backward)


class CrossEntropyLoss(_Loss):
    """Softmax cross-entropy of logits A against one-hot rows Y, mean over N.

    Attributes
    ----------
    softmax : ndarray (N, C)
        Of the last logits.
    """

    _forward = staticmethod(F.cross_entropy)
    _backward = staticmethod(F.cross_entropy_backward)

    @property
    def softmax(self) -> Array | None:
        return None if self.A is None else F.softmax(self.A)
