"""What a layer has kept from a forward for the backward to come, found in a user's object.

Swapped between the two, the compiled layer goes on to the backward. What it needs is there under
the names of the course, or can be computed again from the saved input; where neither is so, the
backward is the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import functional as F
from .. import nn
from ..nn import Layer
from ..nn.conv import ConvOuter, ConvStride1
from ..nn.pool import _Pool2d
from ..nn.resampling import _Downsample
from .catalogue import OLDER_GRADIENTS
from .state import State, attributes

_INPUTS = ("A", "x", "X", "input", "inputs")


def add_pending(fast: type[Layer], state: State, theirs: Mapping[str, Any]) -> str | None:
    """Add it to the state of a compiled layer. Returns what is lost, or None."""
    if issubclass(fast, ConvOuter):
        state["A"] = _outer_input(fast, state, theirs)
    elif issubclass(fast, ConvStride1):
        state["A"] = _input(theirs, theirs["W"].ndim)
    elif issubclass(fast, _Pool2d):
        state["A"] = _input(theirs, 4, fallback="pool2d_stride1")
        if state["A"] is not None:
            state["_workspace"] = fast._forward(state["A"], state["kernel"], state.get("stride", 1))[1]
    elif issubclass(fast, nn.BatchNorm2d):
        _add_statistics(state)
    elif issubclass(fast, nn.Dropout2d):
        _add_mask(state)
    elif issubclass(fast, nn.Flatten):
        state["A_shape"] = state["A_shape"] or _saved_shape(theirs)
    elif issubclass(fast, _Downsample):
        state["_shape"], state["_dtype"] = _downsampled_shape(fast, theirs), np.dtype(np.float64)
    return _lost(fast, state, theirs)


def _lost(fast: type[Layer], state: State, theirs: Mapping[str, Any]) -> str | None:
    """Something was saved by a forward, but nothing that a compiled backward can go on from."""
    needed = {
        ConvOuter: "A", ConvStride1: "A", _Pool2d: "_workspace", nn.BatchNorm2d: "_workspace",
        nn.Dropout2d: "mask", nn.Flatten: "A_shape", _Downsample: "_shape",
    }
    name = next((name for kind, name in needed.items() if issubclass(fast, kind)), None)
    ours = vars(fast).keys() | state.keys() - theirs.keys()
    parameters = {*fast.parameter_names, *ConvStride1.parameter_names, *OLDER_GRADIENTS}
    saved = {key for key, value in theirs.items() if isinstance(value, np.ndarray)}
    if name is None or state.get(name) is not None or not saved - ours - parameters:
        return None
    return "its last input was not found: a backward before the next forward makes it your own class again"


def _input(theirs: Mapping[str, Any], ndim: int, fallback: str = "") -> Any:
    for name in _INPUTS:
        held = theirs.get(name)
        if isinstance(held, np.ndarray) and held.ndim == ndim:
            return held
    for name, part in theirs.items():
        if fallback and name.endswith(fallback) and part is not None:
            return _input(attributes(part), ndim)
    return None


def _outer_input(fast: type[ConvOuter], state: State, theirs: Mapping[str, Any]) -> Any:
    """The inner layer has kept the input as it was padded or upsampled: a view undoes that."""
    inner = theirs.get(fast._inner)
    if inner is None:
        return _input(theirs, np.ndim(theirs["W"]))
    held = _input(attributes(inner), np.ndim(inner.W))
    if held is None:
        return _input(theirs, np.ndim(inner.W))
    pad, factor = state.get("pad", 0), state.get("upsampling_factor", 1)
    cut = slice(pad, -pad if pad else None, factor)
    return held[(..., *[cut] * (held.ndim - 2))]


def _add_statistics(state: State) -> None:
    if np.ndim(state["Z"]) == 4 and state["M"] is not None:
        state["_workspace"] = F.batchnorm2d_forward(state["Z"], state["BW"], state["Bb"], state["eps"])[1]


def _add_mask(state: State) -> None:
    """Some revisions keep the mask as large as x, or scaled."""
    mask = state["mask"]
    if np.ndim(mask) == 4:
        if mask.shape[2:] != (1, 1):
            state["_shape"], state["_dtype"] = mask.shape, np.dtype(np.float64)
        state["mask"] = (mask[:, :, :1, :1] != 0).astype(int)
    elif mask is not None:
        state["mask"] = None


def _saved_shape(theirs: Mapping[str, Any]) -> Any:
    held = next((theirs[name] for name in _INPUTS if isinstance(theirs.get(name), np.ndarray)), None)
    if held is not None:
        return held.shape
    shapes = (value for value in theirs.values() if isinstance(value, tuple) and len(value) > 1)
    return next((shape for shape in shapes if all(isinstance(n, int) for n in shape)), None)


def _downsampled_shape(fast: type[_Downsample], theirs: Mapping[str, Any]) -> Any:
    """The input's shape; its batch and channels are those of dLdZ if only the widths were kept."""
    held = _input(theirs, fast._axes + 2)
    if held is not None:
        return np.shape(held)
    sides = [theirs.get(name) for name in ("input_width", "input_height")[: fast._axes]]
    return None if None in sides else (None, None, *sides)
