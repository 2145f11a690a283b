"""BatchNorm2d."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check as check
from .. import functional as F
from .._check import Array
from .layer import Layer


class BatchNorm2d(Layer):
    """Normalises each channel of (N, C, H, W), then scales and shifts it.

    Training: ``NZ = (Z - M) / sqrt(V + eps)``, ``BZ = BW * NZ + Bb`` with the batch's own mean and
    biased variance, of which running averages are kept:
    ``running_M = alpha * running_M + (1 - alpha) * M``. With ``eval=True`` the running averages
    take their place, and nothing changes.

    Parameters
    ----------
    num_features : int
    alpha : float in [0, 1]
    dtype : {"float64", "float32"}

    Attributes
    ----------
    BW, Bb, dLdBW, dLdBb, M, V, running_M, running_V : ndarray (1, num_features, 1, 1)
    NZ, BZ : ndarray (N, C, H, W)
        Computed from the last training input when asked for.
    alpha, eps, N, Z
    """

    parameter_names = ("BW", "Bb", "dLdBW", "dLdBb", "running_M", "running_V")

    def __init__(self, num_features: int, alpha: float = 0.9, *, dtype: Any = "float64") -> None:
        shape = (1, check.integer("num_features", num_features, 1), 1, 1)
        real = check.parameter_dtype(dtype)
        self.alpha = check.number("alpha", alpha, 0, 1)
        self.eps = 1e-8
        self.BW: Array = np.ones(shape, real)
        self.Bb: Array = np.zeros(shape, real)
        self.dLdBW: Array = np.zeros(shape, real)
        self.dLdBb: Array = np.zeros(shape, real)
        self.running_M: Array = np.zeros(shape, real)
        self.running_V: Array = np.ones(shape, real)
        self.M: Array | None = None
        self.V: Array | None = None
        self.Z: Any = None
        self.N: int | None = None
        self._workspace: Any = None

    def forward(self, Z: Any, eval: bool = False) -> Array:
        if eval:
            return F.batchnorm2d_eval(Z, self.BW, self.Bb, self.running_M, self.running_V, self.eps)
        BZ, workspace = F.batchnorm2d_forward(Z, self.BW, self.Bb, self.eps)
        shape = 1, BZ.shape[1], 1, 1
        M = workspace.mean.astype(BZ.dtype).reshape(shape)
        V = workspace.var.astype(BZ.dtype).reshape(shape)
        if BZ.size:
            running_M = self._moved("running_M", self.running_M, M)
            self.running_V = self._moved("running_V", self.running_V, V)
            self.running_M = running_M
        self.Z, self.N, self.M, self.V, self._workspace = Z, BZ.shape[0], M, V, workspace
        return BZ

    def _moved(self, name: str, average: Any, new: Array) -> Array:
        if type(average) is not np.ndarray or average.shape != new.shape or average.dtype is not new.dtype:
            average = check.vector(name, average, new.size, "Z").reshape(new.shape)
        alpha = check.number("alpha", self.alpha, 0, 1)
        moved: Array = alpha * average + (1 - alpha) * new
        return moved

    def backward(self, dLdBZ: Any) -> Array:
        check.saved(self, workspace=self._workspace)
        dLdZ, self.dLdBW, self.dLdBb = F.batchnorm2d_backward(
            dLdBZ, self.Z, self.BW, self._workspace, self.eps
        )
        return dLdZ

    def _normalised(self, name: str, BW: Any, Bb: Any) -> Array:
        if self._workspace is None:
            raise AttributeError(f"{name} is there after a training forward")
        return F.batchnorm2d_eval(self.Z, BW, Bb, self._workspace.mean, self._workspace.var, self.eps)

    @property
    def NZ(self) -> Array:
        return self._normalised("NZ", np.ones_like(self.BW), np.zeros_like(self.BW))

    @property
    def BZ(self) -> Array:
        return self._normalised("BZ", self.BW, self.Bb)
