"""The numbers that all contenders of a row are given."""

from __future__ import annotations

import math
import zlib

import numpy as np

from ..._check import Array
from ..problems import Problem


class Arrays:
    """Random arrays for a problem, the same in every run.

    Attributes
    ----------
    X : the input
    W, b : weights and bias of convolutions and Linear; scale and shift (C,) of a batch norm
    dZ : the gradient of the output
    Y : the targets of losses, one-hot, and of models
    """

    def __init__(self, problem: Problem, dtype: str) -> None:
        self.problem, self.dtype = problem, np.dtype(dtype)
        rng = np.random.default_rng(zlib.crc32(str(problem).encode()))

        def normal(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(dtype)

        self.X, self.dZ = normal(*problem.in_shape), normal(*problem.out_shape)
        self.W = self.b = self.Y = np.empty(0, dtype)
        if problem.family in ("conv", "linear"):
            # Results of the size of the input, whatever the number of terms.
            terms = math.prod(problem.weight_shape[1:])
            self.W = normal(*problem.weight_shape) / self.dtype.type(math.sqrt(terms))
            self.b = normal(problem.oc)
        elif problem.op == "bn":
            self.W, self.b = normal(problem.ic), normal(problem.ic)
        elif problem.family in ("loss", "model"):
            classes = problem.oc or problem.ic
            self.Y = np.eye(classes, dtype=dtype)[rng.integers(classes, size=problem.n)]
