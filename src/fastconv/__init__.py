"""The mytorch layers on compiled kernels, for plain NumPy arrays.

Every layer, block and model of the course is here by its own name::

    import numpy as np
    import fastconv

    layer = fastconv.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
    Z = layer.forward(np.random.randn(4, 3, 32, 32))
    dLdA = layer.backward(np.ones_like(Z))   # fills layer.dLdW, layer.dLdb

`fastconv.functional` has the same without state. One way down: layers (`nn`, `models`) call
`functional`, which checks everything and calls one kernel of the active `backend`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import functional, models, nn
from ._version import __version__
from .algorithm import get_conv_algorithm, set_conv_algorithm, use_conv_algorithm
from .backend import get_backend, get_num_threads, set_backend, set_num_threads, use_backend
from .config import config, show_config
from .models import CNN, MLP, CNN_DistributedScanningMLP, CNN_SimpleScanningMLP
from .nn import (
    GELU,
    BatchNorm2d,
    Conv1d,
    Conv1d_stride1,
    Conv2d,
    Conv2d_padding,
    Conv2d_stride1,
    ConvBlock,
    ConvTranspose1d,
    ConvTranspose2d,
    CrossEntropyLoss,
    Downsample1d,
    Downsample2d,
    Dropout2d,
    Flatten,
    Identity,
    IdentityBlock,
    Layer,
    Linear,
    MaxPool2d,
    MaxPool2d_stride1,
    MeanPool2d,
    MeanPool2d_stride1,
    MSELoss,
    ReLU,
    ResBlock,
    Sigmoid,
    Softmax,
    Swish,
    Tanh,
    Upsample1d,
    Upsample2d,
)

if TYPE_CHECKING:
    from .profiling import profile, record
    from .swapping import install, swap, uninstall
    from .weights import load, save

# Names that are imported when first asked for, and the modules that have them.
_LAZY = {
    "install": "swapping", "load": "weights", "profile": "profiling", "record": "profiling",
    "save": "weights", "swap": "swapping", "uninstall": "swapping",
}

__all__ = [
    "CNN",
    "GELU",
    "MLP",
    "BatchNorm2d",
    "CNN_DistributedScanningMLP",
    "CNN_SimpleScanningMLP",
    "Conv1d",
    "Conv1d_stride1",
    "Conv2d",
    "Conv2d_padding",
    "Conv2d_stride1",
    "ConvBlock",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Downsample1d",
    "Downsample2d",
    "Dropout2d",
    "Flatten",
    "Identity",
    "IdentityBlock",
    "Layer",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "MaxPool2d_stride1",
    "MeanPool2d",
    "MeanPool2d_stride1",
    "ReLU",
    "ResBlock",
    "Sigmoid",
    "Softmax",
    "Swish",
    "Tanh",
    "Upsample1d",
    "Upsample2d",
    "__version__",
    "config",
    "functional",
    "get_backend",
    "get_conv_algorithm",
    "get_num_threads",
    "install",
    "load",
    "models",
    "nn",
    "profile",
    "record",
    "save",
    "set_backend",
    "set_conv_algorithm",
    "set_num_threads",
    "show_config",
    "swap",
    "uninstall",
    "use_backend",
    "use_conv_algorithm",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
