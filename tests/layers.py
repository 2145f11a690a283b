"""Every public layer with an input that fits it, for tests that hold for all of them.

A new layer is added here once, and every property test covers it. (`test_layer_table.py` checks
that none is missing.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastconv as fc
import fastconv.functional as F


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
    Case("ResBlock_identity", lambda **k: fc.ResBlock(3, 3, 1, 1, 0, **k), (2, 3, 5, 4)),
    Case("IdentityBlock", lambda: fc.IdentityBlock(), (2, 3, 8, 9)),
]
# Layers whose forward or backward hands the argument on, or a view of it.
HANDS_ON = {"Identity", "IdentityBlock", "Flatten"}
# Layers made of others.
COMPOSITES = {"ConvBlock", "ResBlock", "ResBlock_identity"}
# Layers that take any shape: each number for itself, or handed on.
ELEMENTWISE = {"Identity", "IdentityBlock", "Sigmoid", "Tanh", "ReLU", "GELU", "Swish"}

LOSSES = [fc.MSELoss, fc.CrossEntropyLoss]


def make_cnn(dtype: Any = "float64") -> Any:
    return fc.CNN(
        20, 3, [4, 5], [3, 2], [2, 1], 6, [fc.Tanh(), fc.ReLU()], None, None, np.random.randn,
        fc.CrossEntropyLoss(), 0.1, dtype=dtype,
    )


def make_mlp() -> Any:
    mlp = fc.MLP([6, 5, 4])
    mlp.init_weights([np.random.randn(6, 5), np.random.randn(5, 4)])
    return mlp


# CNN.backward takes labels, so CNN is tested by name.
MODELS = [
    Case("MLP", make_mlp, (3, 6)),
    Case("ResNet", lambda **k: fc.models.ResNet(3, 8, 4, (4, 6), **k), (2, 3, 8, 8)),
    Case("CNN_SimpleScanningMLP", fc.CNN_SimpleScanningMLP, (2, 24, 20)),
    Case("CNN_DistributedScanningMLP", fc.CNN_DistributedScanningMLP, (2, 24, 20)),
]


@dataclass(frozen=True)
class Function:
    """A function of `fastconv.functional`, with the shapes of its arrays, by their names."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    call: Callable[..., Any]

    def inputs(self, rng: np.random.Generator, dtype: Any = np.float64) -> dict[str, np.ndarray]:
        return {name: rng.standard_normal(shape).astype(dtype) for name, shape in self.shapes.items()}

    def __str__(self) -> str:
        return self.name


def _max_workspace() -> F.PoolWorkspace:
    A = np.random.default_rng(1).standard_normal((2, 3, 8, 9)).astype(np.float64)
    return F.max_pool2d_forward(A, 3, 2)[1]


def _mean_workspace() -> F.PoolWorkspace:
    return F.mean_pool2d_forward(np.zeros((2, 3, 8, 9)), 3, 2)[1]


def _norm_workspace() -> F.BatchNormWorkspace:
    return F.BatchNormWorkspace(np.zeros(3), np.ones(3))


_IMAGE, _NORM, _ROWS = (2, 3, 8, 9), {"BW": (1, 3, 1, 1), "Bb": (1, 3, 1, 1)}, (3, 5)
FUNCTIONS = [
    Function("conv1d_forward", {"A": (2, 3, 12), "W": (4, 3, 3), "b": (4,)},
             lambda A, W, b: F.conv1d_forward(A, W, b, 2, 1)),
    Function("conv1d_backward", {"dLdZ": (2, 4, 6), "A": (2, 3, 12), "W": (4, 3, 3)},
             lambda dLdZ, A, W: F.conv1d_backward(dLdZ, A, W, 2, 1)),
    Function("conv2d_forward", {"A": _IMAGE, "W": (4, 3, 3, 3), "b": (4,)},
             lambda A, W, b: F.conv2d_forward(A, W, b, 2, 1)),
    Function("conv2d_backward", {"dLdZ": (2, 4, 4, 5), "A": _IMAGE, "W": (4, 3, 3, 3)},
             lambda dLdZ, A, W: F.conv2d_backward(dLdZ, A, W, 2, 1)),
    Function("max_pool2d_forward", {"A": _IMAGE}, lambda A: F.max_pool2d_forward(A, 3, 2)),
    Function("max_pool2d_backward", {"dLdZ": (2, 3, 3, 4)},
             lambda dLdZ: F.max_pool2d_backward(dLdZ, _max_workspace())),
    Function("mean_pool2d_forward", {"A": _IMAGE}, lambda A: F.mean_pool2d_forward(A, 3, 2)),
    Function("mean_pool2d_backward", {"dLdZ": (2, 3, 3, 4)},
             lambda dLdZ: F.mean_pool2d_backward(dLdZ, _mean_workspace())),
    Function("batchnorm2d_forward", {"Z": _IMAGE, **_NORM}, F.batchnorm2d_forward),
    Function("batchnorm2d_eval", {"Z": _IMAGE, **_NORM, "M": (3,), "V": (3,)},
             lambda V, **rest: F.batchnorm2d_eval(**rest, V=V, eps=100.0)),
    Function("batchnorm2d_backward", {"dLdBZ": _IMAGE, "Z": _IMAGE, "BW": (1, 3, 1, 1)},
             lambda **arrays: F.batchnorm2d_backward(**arrays, workspace=_norm_workspace())),
    Function("scale_channels", {"A": _IMAGE, "factors": (2, 3)}, F.scale_channels),
    Function("upsample", {"A": _IMAGE}, lambda A: F.upsample(A, 3, 2)),
    Function("upsample_backward", {"dLdZ": (2, 3, 7, 10)},
             lambda dLdZ: F.upsample_backward(dLdZ, 3, (2, 3, 3, 4))),
    Function("downsample", {"A": _IMAGE}, lambda A: F.downsample(A, 3, 2)),
    Function("downsample_backward", {"dLdZ": (2, 3, 3, 3)},
             lambda dLdZ: F.downsample_backward(dLdZ, 3, (2, 3, 8, 9))),
    Function("linear_forward", {"A": _ROWS, "W": (4, 5), "b": (4, 1)}, F.linear_forward),
    Function("linear_backward", {"dLdZ": (3, 4), "A": _ROWS, "W": (4, 5), "b": (4, 1)},
             F.linear_backward),
    Function("sigmoid", {"Z": _ROWS}, F.sigmoid),
    Function("sigmoid_backward", {"dLdA": _ROWS, "A": _ROWS}, F.sigmoid_backward),
    Function("tanh", {"Z": _ROWS}, F.tanh),
    Function("tanh_backward", {"dLdA": _ROWS, "A": _ROWS}, F.tanh_backward),
    Function("relu", {"Z": _ROWS}, F.relu),
    Function("relu_backward", {"dLdA": _ROWS, "Z": _ROWS}, F.relu_backward),
    Function("gelu", {"Z": _ROWS}, F.gelu),
    Function("gelu_backward", {"dLdA": _ROWS, "Z": _ROWS}, F.gelu_backward),
    Function("swish", {"Z": _ROWS}, F.swish),
    Function("swish_backward", {"dLdA": _ROWS, "Z": _ROWS}, F.swish_backward),
    Function("softmax", {"Z": _ROWS}, F.softmax),
    Function("softmax_backward", {"dLdA": _ROWS, "A": _ROWS}, F.softmax_backward),
    Function("mse", {"A": _ROWS, "Y": _ROWS}, F.mse),
    Function("mse_backward", {"A": _ROWS, "Y": _ROWS}, F.mse_backward),
    Function("cross_entropy", {"A": _ROWS, "Y": _ROWS}, F.cross_entropy),
    Function("cross_entropy_backward", {"A": _ROWS, "Y": _ROWS}, F.cross_entropy_backward),
]
