"""The compiled kernels, and how the right ones are found.

Each file of `pyx/` is one family of kernels. setup.py compiles each family once for every
instruction-set level and each of float32 and float64, so a module here is called
`{family}_{level}_{real}`, say `conv_x86_64_v3_float32`. At import

1. `_cpu`, compiled for the baseline and so safe everywhere, says which levels this machine runs;
2. the highest, or the one that FASTCONV_ISA names, is loaded, a module for each family and dtype. The
   others are never touched: initialising a module compiled for instructions that the processor
   lacks can kill the process before any check of ours runs;
3. their functions become one `KernelSet` a dtype, which `backend` hands out.

The kernels check nothing. `fastconv.functional` is the only caller, and checks everything.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from .._check import Array, Pair

# The family that holds each kernel; the names are those of KernelSet.
_FAMILIES = {
    "conv": ("correlate",),
    "conv_weights": ("correlate_weights", "sum_channels"),
    "winograd": ("winograd",),
    "winograd_weights": ("winograd_weights",),
    "pool": ("max_pool", "mean_pool"),
    "pool_gradient": ("max_pool_gradient", "mean_pool_gradient"),
    "norm": ("batch_norm", "batch_norm_eval", "batch_norm_gradient", "scale_planes"),
    "activation": (
        "relu", "relu_gradient", "sigmoid", "sigmoid_gradient", "tanh", "tanh_gradient", "gelu",
        "gelu_gradient", "swish", "swish_gradient", "softmax", "softmax_gradient",
        "squared_error", "scaled_difference", "cross_entropy", "cross_entropy_gradient",
    ),
}


class KernelSet(NamedTuple):
    """The kernels for one dtype. `pyx/` documents the arguments of each, `pure` has them in NumPy."""

    correlate: Callable[[Array, Array, Array | None, Array, Pair, Pair, Pair, int], None]
    correlate_weights: Callable[[Array, Array, Array, Array, Pair, Pair, Pair, int], None]
    sum_channels: Callable[[Array, Array, int], None]
    winograd: Callable[[Array, Array, Array | None, Array, Pair, Pair, Pair, int], bool]
    winograd_weights: Callable[[Array, Array, Array, Pair, int], bool]
    max_pool: Callable[[Array, Array, Array, Pair, Pair, int], None]
    max_pool_gradient: Callable[[Array, Array, Array, Pair, Pair, int], bool]
    mean_pool: Callable[[Array, Array, Pair, Pair, int], None]
    mean_pool_gradient: Callable[[Array, Array, Pair, Pair, int], None]
    batch_norm: Callable[[Array, Array, Array, float, Array, Array, Array, int], None]
    batch_norm_eval: Callable[[Array, Array, Array, float, Array, Array, Array, int], None]
    batch_norm_gradient: Callable[
        [Array, Array, Array, float, Array, Array, Array, Array, Array, int], None
    ]
    scale_planes: Callable[[Array, Array, Array, int], None]
    relu: Callable[[Array, Array, int], None]
    relu_gradient: Callable[[Array, Array, Array, int], None]
    sigmoid: Callable[[Array, Array, int], None]
    sigmoid_gradient: Callable[[Array, Array, Array, int], None]
    tanh: Callable[[Array, Array, int], None]
    tanh_gradient: Callable[[Array, Array, Array, int], None]
    gelu: Callable[[Array, Array, int], None]
    gelu_gradient: Callable[[Array, Array, Array, int], None]
    swish: Callable[[Array, float, Array, int], None]
    swish_gradient: Callable[[Array, Array, float, Array, int], float]
    softmax: Callable[[Array, Array, int, int], None]
    softmax_gradient: Callable[[Array, Array, Array, int, int], None]
    squared_error: Callable[[Array, Array, int], float]
    scaled_difference: Callable[[Array, Array, float, Array, int], None]
    cross_entropy: Callable[[Array, Array, int, int], float]
    cross_entropy_gradient: Callable[[Array, Array, Array, int, int], None]

    @classmethod
    def of(cls, source: Any) -> KernelSet:
        """The set whose kernels are attributes of `source`."""
        return cls(*(getattr(source, name) for name in cls._fields))


def cpu() -> Any:
    """The module that knows the processor.

    Raises
    ------
    ImportError
        It is missing or broken.
    """
    module = _import("_cpu")
    for name in ("levels", "compiler", "has_openmp", "default_threads", "address"):
        _function(module, name)
    return module


def load(level: str) -> dict[str, KernelSet]:
    """The kernels compiled for `level`, by dtype character ("f" and "d").

    Raises
    ------
    ImportError
        A module is missing or broken.
    """
    suffix = level.replace("-", "_")
    sets = {}
    for char, real in (("f", "float32"), ("d", "float64")):
        found = {}
        for family, names in _FAMILIES.items():
            module = _import(f"{family}_{suffix}_{real}")
            found.update({name: _function(module, name) for name in names})
        sets[char] = KernelSet(**found)
    return sets


def probe(level: str, real: str) -> Any:
    """The module of `pyx/probe.pyx`, for "float32" or "float64": no layer uses it, so `load` does not.

    Raises
    ------
    ImportError
        It is missing or broken.
    """
    module = _import(f"probe_{level.replace('-', '_')}_{real}")
    for name in ("multiply_adds", "copy"):
        _function(module, name)
    return module


def _import(name: str) -> Any:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise _broken(name, error) from error


def _function(module: Any, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError as error:  # left over from another version
        raise _broken(module.__name__.rpartition(".")[2], error) from error


def _broken(name: str, why: Exception) -> ImportError:
    return ImportError(
        f"fastconv's compiled module {name} is missing or broken ({why}); reinstall fastconv, "
        "or set FASTCONV_BACKEND=pure to run without compiled kernels"
    )
