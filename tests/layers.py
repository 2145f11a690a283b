"""Every public layer with an input that fits it, for tests that hold for all of them.

A new layer is added here once, and every property test covers it. (`test_layer_table.py` checks
that none is missing.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastconv as fc


@dataclass(frozen=True)
class Case:
    """A layer: how to make it, the shape of an input, and whether it has parameters."""

    name: str
    make: Callable[..., Any]
    shape: tuple[int, ...]
    parameters: tuple[str, ...] = ()

    def input(self, rng: np.random.Generator, dtype: Any = np.float64) -> np.ndarray:
        return rng.standard_normal(self.shape).astype(dtype)

    def __str__(self) -> str:
        return self.name


CONV = ("W", "b")
NORM = ("BW", "Bb")
CASES = [
    Case("Conv1d_stride1", lambda **k: fc.Conv1d_stride1(3, 4, 3, **k), (2, 3, 11), CONV),
    Case("Conv1d", lambda **k: fc.Conv1d(3, 4, 3, 2, 1, **k), (2, 3, 12), CONV),
    Case("Conv2d_stride1", lambda **k: fc.Conv2d_stride1(3, 4, 3, **k), (2, 3, 7, 9), CONV),
    Case("Conv2d", lambda **k: fc.Conv2d(3, 4, 3, 2, 1, **k), (2, 3, 8, 9), CONV),
    Case("ConvTranspose1d", lambda **k: fc.ConvTranspose1d(3, 4, 3, 2, **k), (2, 3, 6), CONV),
    Case("ConvTranspose2d", lambda **k: fc.ConvTranspose2d(3, 4, 3, 2, **k), (2, 3, 5, 4), CONV),
    Case("Upsample1d", lambda: fc.Upsample1d(3), (2, 3, 5)),
    Case("Upsample2d", lambda: fc.Upsample2d(3), (2, 3, 5, 4)),
    Case("Downsample1d", lambda: fc.Downsample1d(3), (2, 3, 11)),
    Case("Downsample2d", lambda: fc.Downsample2d(3), (2, 3, 11, 9)),
    Case("MaxPool2d_stride1", lambda: fc.MaxPool2d_stride1(3), (2, 3, 7, 9)),
    Case("MaxPool2d", lambda: fc.MaxPool2d(3, 2), (2, 3, 8, 9)),
    Case("MeanPool2d_stride1", lambda: fc.MeanPool2d_stride1(3), (2, 3, 7, 9)),
    Case("MeanPool2d", lambda: fc.MeanPool2d(3, 2), (2, 3, 8, 9)),
    Case("BatchNorm2d", lambda **k: fc.BatchNorm2d(3, **k), (4, 3, 5, 6), NORM),
    Case("Dropout2d", lambda: fc.Dropout2d(0.4), (4, 5, 3, 2)),
    Case("Flatten", lambda: fc.Flatten(), (3, 4, 5, 2)),
    Case("Linear", lambda **k: fc.Linear(5, 4, weight_init_fn=np.random.randn, **k), (3, 5), CONV),
    Case("Identity", lambda: fc.Identity(), (3, 5)),
    Case("Sigmoid", lambda: fc.Sigmoid(), (3, 5)),
    Case("Tanh", lambda: fc.Tanh(), (3, 5)),
    Case("ReLU", lambda: fc.ReLU(), (3, 5)),
    Case("GELU", lambda: fc.GELU(), (3, 5)),
    Case("Swish", lambda: fc.Swish(1.5), (3, 5)),
    Case("Softmax", lambda: fc.Softmax(), (3, 5)),
    Case("ConvBlock", lambda **k: fc.ConvBlock(3, 4, 3, 2, 1, **k), (2, 3, 8, 9)),
    Case("ResBlock", lambda **k: fc.ResBlock(3, 4, 3, 2, 1, **k), (2, 3, 8, 9)),
    Case("IdentityBlock", lambda: fc.IdentityBlock(), (2, 3, 8, 9)),
]
# Layers whose forward or backward hands the argument on, or a view of it.
HANDS_ON = {"Identity", "IdentityBlock", "Flatten"}
