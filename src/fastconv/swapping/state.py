"""The state of a user's layer, taken over by a compiled one. Arrays are shared, never copied.

A compiled layer's state is that of a fresh one of the same sizes, with everything the user's object
has put over it: parameters, gradients and statistics by the names of the course, and whatever else
the user's constructor sets. What is there under a known name but means something else, an array of
another shape, a stride that nobody asked for, is a reason to leave the object alone (`Refused`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import models, nn
from ..nn import Layer
from ..nn.conv import ConvOuter, ConvStride1
from .catalogue import LAYERS, OLDER_GRADIENTS, names_of, own_parameters
from .recognise import Refused

State = dict[str, Any]
Sizes = dict[str, Any]

# The layers that each of these is made of; their constructors' arguments are not needed again.
_PARTS: dict[type[Layer], tuple[str, ...]] = {
    nn.ConvBlock: ("layers",),
    nn.ResBlock: ("convolution_layers", "residual_connection", "final_activation"),
    models.MLP: ("layers",),
    models.CNN_SimpleScanningMLP: ("layers",),
    models.CNN_DistributedScanningMLP: ("layers",),
    models.CNN: ("convolutional_layers", "activations", "flatten", "linear_layer", "criterion"),
}
# How many there must be, and whether they are told of evaluation.
_COUNTS = {(nn.ConvBlock, "layers"): 2, (nn.ResBlock, "convolution_layers"): 3}
_EVALUATED = {
    (nn.ConvBlock, "layers"): (1,),
    (nn.ResBlock, "convolution_layers"): (0, 2),
    (nn.ResBlock, "residual_connection"): (0,),
}


def is_made_of_layers(fast: type[Layer]) -> bool:
    """Whether it computes by calling layers that are the program's own."""
    return fast in _PARTS


class Unwritten(Exception):
    """The user's constructor has not made what the layer needs."""


def attributes(obj: Any) -> State:
    """All that an object holds: in its ``__dict__``, and in slots."""
    found = dict(getattr(obj, "__dict__", {}))
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(obj, name):
                found[name] = getattr(obj, name)
    return found


def taken_over(
    fast: type[Layer], theirs: Mapping[str, Any], sizes: Sizes, older: bool = False,
    properties: frozenset[str] = frozenset(),
) -> State:
    """The state of a compiled layer that takes over from a user's object with these attributes.

    `older` says that its gradients are called dW and db; so they are in what is returned.
    `properties` of the user's class go on answering for what they have.

    Raises
    ------
    Refused
        The attributes are not those of a layer of these sizes.
    Unwritten
        The layer's parameters or parts are not there at all.
    """
    if fast in _PARTS:
        return _with_parts(fast, theirs)
    try:
        blank = fast(**{**sizes, **_no_draws(fast)})
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None
    state = vars(blank)
    theirs = {OLDER_GRADIENTS.get(name, name): value for name, value in theirs.items()} if older else theirs
    holds = not isinstance(blank, ConvOuter) or _nothing(theirs.get(blank._inner))
    if holds and properties - {"W", "b"}:
        raise Refused("its gradients are properties")
    if isinstance(blank, ConvOuter):
        _take_inner(blank, theirs)
    elif missing := [name for name in blank.parameter_names[:2] if _nothing(theirs.get(name))]:
        if any(isinstance(value, np.ndarray) for value in theirs.values()):
            raise Refused(f"it has no {' and no '.join(missing)}")
        raise Unwritten
    _overlay(fast, state, theirs)
    for name in [name for name, part in state.items() if isinstance(part, Layer) and name not in theirs]:
        del state[name]  # the user's object has no layers inside
    for name in properties:
        state.pop(name, None)
    if older:
        state |= {name: state.pop(ours) for name, ours in OLDER_GRADIENTS.items() if ours in state}
    return state


def _no_draws(fast: type[Layer]) -> dict[str, Callable[..., Any]]:
    """Arguments that keep a constructor from drawing weights, which the user's have been drawn."""
    names = {"weight_init_fn", "bias_init_fn"} & own_parameters(fast).keys()
    return dict.fromkeys(names, _zeros)


def _zeros(*shape: int) -> Any:
    return np.zeros(shape)


def _nothing(value: Any) -> bool:
    return value is None or value is NotImplemented


def _overlay(fast: type[Layer], state: State, theirs: Mapping[str, Any]) -> None:
    for name, value in theirs.items():
        ours = inspect.getattr_static(fast, name, None)
        if hasattr(type(ours), "__set__"):
            state[name] = value  # ours is computed; this is for when the object is the user's again
        elif callable(ours):
            raise Refused(f"its constructor sets {name}")
        elif not (name.startswith("_") and name in state):
            state[name] = _fitting(name, state.get(name, ours), value)


def _fitting(name: str, ours: Any, value: Any) -> Any:
    """What an attribute becomes: the user's value, if it is of the kind of `ours`."""
    if ours is None or _nothing(value):
        return ours if _nothing(value) else value
    if isinstance(ours, np.ndarray):
        if name.rpartition(".")[2].startswith("dLd") and np.ndim(value) == 0:
            return ours  # a number, before there is a gradient
        if not isinstance(value, np.ndarray) or value.shape != ours.shape:
            raise Refused(f"its {name} is {_described(value)}, not an array {ours.shape}")
        return value
    if isinstance(ours, Layer):
        if not is_known_part(name, value):
            raise Refused(f"its {name} is {_described(value)}, not a {type(ours).__name__}")
        for size in ("kernel", "downsampling_factor", "upsampling_factor"):
            if hasattr(ours, size) and getattr(value, size, None) not in (None, getattr(ours, size)):
                raise Refused(f"its {name} has {size} {getattr(value, size)}, not {getattr(ours, size)}")
        return value
    if isinstance(ours, float):
        if not isinstance(value, (int, float, np.integer, np.floating)):
            raise Refused(f"its {name} is {_described(value)}, not a number")
        return value
    if isinstance(ours, (int, tuple)) and not isinstance(ours, bool):
        if _pair(value) != _pair(ours):
            raise Refused(f"its {name} is {_described(value)}, not {ours}")
        return ours
    return value


def _pair(size: Any) -> Any:
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)


def is_known_part(name: str, part: Any) -> bool:
    """Whether a part of a layer is of the class that goes by its name, with its own forward."""
    return (
        type(part).__name__.lower() == name
        and type(part).__name__ in LAYERS
        and "forward" not in vars(part)
        and "backward" not in vars(part)
    )


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape}"
    plain = isinstance(value, (str, int, float, tuple, list, type(None), np.generic))
    return f"{value!r:.40}" if plain else f"a {type(value).__name__}"


def _take_inner(blank: ConvOuter, theirs: Mapping[str, Any]) -> None:
    """The parameters of a strided, padded or transposed convolution are its inner layer's."""
    inner = theirs.get(blank._inner)
    owned = {name: theirs[name] for name in ConvStride1.parameter_names if not _nothing(theirs.get(name))}
    if not _nothing(inner):
        ours = blank.inner
        _fitting(blank._inner, ours, inner)
        for name in ConvStride1.parameter_names:
            if not hasattr(inner, name):
                raise Refused(f"its {blank._inner} has no {name}")
            _fitting(f"{blank._inner}.{name}", getattr(ours, name), getattr(inner, name))
        setattr(blank, blank._inner, inner)
    elif {"W", "b"} <= owned.keys():
        for name, value in owned.items():
            vars(blank)[name] = _fitting(name, getattr(blank.inner, name), value)
    elif any(isinstance(value, np.ndarray) for value in theirs.values()):
        raise Refused(f"it has neither {blank._inner} nor W and b")
    else:
        raise Unwritten


def _with_parts(fast: type[Layer], theirs: Mapping[str, Any]) -> State:
    if all(_nothing(value) for value in theirs.values()):
        raise Unwritten
    for name in _PARTS[fast]:
        part: Any = theirs.get(name)
        layers: list[Any] = list(part) if isinstance(part, (list, tuple)) else [part]
        wanted = _COUNTS.get((fast, name), len(layers))
        if len(layers) != wanted:
            raise Refused(f"its {name} has {len(layers)} entries, not {wanted}")
        for layer in layers:
            if not (hasattr(layer, "forward") and hasattr(layer, "backward")):
                raise Refused(f"its {name} is {_described(layer)}, not a layer")
        for i in _EVALUATED.get((fast, name), ()):
            if "eval" not in inspect.signature(layers[i].forward).parameters:
                raise Refused(f"the forward of its {name} takes no eval")
    state = dict(theirs)
    if fast is models.CNN and _nothing(state.get("layers")):
        pairs = zip(state["convolutional_layers"], state["activations"], strict=True)
        state["layers"] = [layer for pair in pairs for layer in pair]
        state["layers"] += [state["flatten"], state["linear_layer"]]
    return state


# ---- sizes of a live layer -----------------------------------------------------------------------


def sizes_of(fast: type[Layer], theirs: Mapping[str, Any]) -> Sizes:
    """The arguments that make a layer like this one, read from its attributes. Raises `Refused`."""
    if fast in _PARTS:
        return {}
    found: Sizes = {}
    holder: Any = theirs
    if issubclass(fast, ConvOuter) and not _nothing(theirs.get(fast._inner)):
        holder = attributes(theirs[fast._inner])
    if issubclass(fast, (ConvStride1, ConvOuter, nn.Linear)):
        found |= _of_weights(fast, holder.get("W"))
    if issubclass(fast, nn.BatchNorm2d):
        found["num_features"] = np.size(theirs.get("BW", 0.0))
    for name, parameter in own_parameters(fast).items():
        if name in found or name.endswith("_init_fn"):
            continue
        value = _first(theirs, names_of(name))
        if _nothing(value) and name == "stride":
            parts = [part for key, part in theirs.items() if key.startswith("downsample")]
            value = _first(attributes(parts[0]), names_of("downsampling_factor")) if parts else None
        if not _nothing(value):
            found[name] = value
        elif parameter.default is parameter.empty:
            raise Refused(f"it has no {name}")
    return found


def _of_weights(fast: type[Layer], W: Any) -> Sizes:
    if not isinstance(W, np.ndarray) or W.ndim < 2:
        raise Refused("it has no array W")
    if issubclass(fast, nn.Linear):
        return {"out_features": W.shape[0], "in_features": W.shape[1]}
    kernel = W.shape[2:]
    return {
        "out_channels": W.shape[0], "in_channels": W.shape[1],
        "kernel_size": kernel[0] if len(set(kernel)) == 1 else kernel,
    }


def _first(theirs: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((theirs[name] for name in names if not _nothing(theirs.get(name))), None)
