"""Which classes are known by name, and what the parameters of their constructors are called."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

from .. import models, nn
from ..nn import Layer

# Convolution, pooling, resampling, batch norm, dropout and flattening mean the same in all revisions
# of the course. (The last names are those of older ones.)
LAYERS: dict[str, type[Layer]] = {
    **{
        layer.__name__: layer
        for layer in (
            nn.Conv1d_stride1, nn.Conv1d, nn.Conv2d_stride1, nn.Conv2d,
            nn.ConvTranspose1d, nn.ConvTranspose2d,
            nn.Upsample1d, nn.Upsample2d, nn.Downsample1d, nn.Downsample2d,
            nn.MaxPool2d_stride1, nn.MaxPool2d, nn.MeanPool2d_stride1, nn.MeanPool2d,
            nn.BatchNorm2d, nn.Dropout2d, nn.Flatten,
        )
    },
    "Conv2d_padding": nn.Conv2d_padding,
    "Conv1D": nn.Conv1d,
    "Conv2D": nn.Conv2d,
    "MaxPoolLayer": nn.MaxPool2d,
    "MeanPoolLayer": nn.MeanPool2d,
}

# These are scaled differently from revision to revision: a user's own belong together.
REST: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        nn.Linear, nn.Identity, nn.Sigmoid, nn.Tanh, nn.ReLU, nn.GELU, nn.Swish, nn.Softmax,
        nn.MSELoss, nn.CrossEntropyLoss, nn.ConvBlock, nn.IdentityBlock, nn.ResBlock,
        models.MLP, models.CNN, models.CNN_SimpleScanningMLP, models.CNN_DistributedScanningMLP,
    )
}

KNOWN = {**LAYERS, **REST}

# Other names that revisions give to a parameter of ours. Where one has an attribute of the same
# name, it goes by these, too.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "in_channels": ("in_channel", "in_ch", "input_channels", "C_in"),
    "out_channels": ("out_channel", "out_ch", "output_channels", "C_out"),
    "kernel_size": ("kernel", "K"),
    "kernel": ("kernel_size", "K"),
    "stride": ("S",),
    "padding": ("pad", "P"),
    "upsampling_factor": ("upsample_factor", "factor", "k"),
    "downsampling_factor": ("downsample_factor", "factor", "k"),
    "weight_init_fn": ("weight_init", "weights_init_fn"),
    "bias_init_fn": ("bias_init",),
    "num_features": ("num_channels", "in_channels"),
    "p": ("dropout_p",),
}

# What those older ones call the gradients.
OLDER_GRADIENTS = {"dW": "dLdW", "db": "dLdb"}

# What other libraries' parameters are where they change nothing.
NEUTRAL: dict[str, Any] = {
    "dilation": 1, "groups": 1, "bias": True, "padding_mode": "zeros", "ceil_mode": False,
    "return_indices": False, "output_padding": 0, "affine": True, "track_running_stats": True,
    "inplace": False,
}


class Parameter(NamedTuple):
    """A parameter of a user's constructor."""

    name: str
    meaning: str | None  # our name for it, or None
    default: Any  # inspect.Parameter.empty without one


_OWN: dict[type[Layer], dict[str, inspect.Parameter]] = {}


def own_parameters(layer: type[Layer]) -> dict[str, inspect.Parameter]:
    """The parameters of one of our constructors that a mytorch class can have."""
    if layer not in _OWN:
        parameters = inspect.signature(layer).parameters
        _OWN[layer] = {name: p for name, p in parameters.items() if name != "dtype"}
    return _OWN[layer]


def names_of(meaning: str) -> tuple[str, ...]:
    return (meaning, *SYNONYMS.get(meaning, ()))


def meaning_of(name: str, among: Iterable[str]) -> str | None:
    """Which of our parameters a user's parameter is."""
    return next((meaning for meaning in among if name in names_of(meaning)), None)


def check_names(names: Iterable[str]) -> frozenset[str]:
    chosen = frozenset(names)
    unknown = sorted(chosen - KNOWN.keys())
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no layer of that name; known are {', '.join(KNOWN)}")
    return chosen
