"""What every layer shares."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np

from .. import _check as check
from .._check import Array

Self = TypeVar("Self", bound="Layer")


class Layer:
    """Base of all layers, blocks and models: callable, and convertible to another dtype.

    A layer is not safe to share between threads; distinct layers are, and so is `functional`.
    """

    # Names of the attributes that `astype` converts.
    parameter_names: ClassVar[tuple[str, ...]] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def astype(self: Self, dtype: Any) -> Self:
        """Convert all parameters, gradients and statistics, here and in layers inside, in place.

        Parameters
        ----------
        dtype : {"float32", "float64"} or numpy equivalent

        Returns
        -------
        The layer itself.

        Raises
        ------
        TypeError
            Any other dtype.
        """
        wanted = check.parameter_dtype(dtype)
        converted = [
            (layer, name, np.asarray(check.array(path, value), dtype=wanted))
            for path, layer, name, value in self.named_parameters()
        ]
        for layer, name, value in converted:
            setattr(layer, name, value)
        return self

    def sublayers(self) -> Iterator[Layer]:
        """Layers held in attributes, directly or in lists, in order, each once."""
        return (layer for _, layer in self._named_sublayers())

    def named_parameters(self) -> Iterator[tuple[str, Layer, str, Any]]:
        """Of each parameter, gradient and statistic: its path, say "layers.0.W", and layer, name and value.

        Those of layers inside come too, each layer once, and in the order of their attributes. What is
        None, as the bias of a convolution may be, is left out.
        """
        seen: set[int] = set()
        waiting: list[tuple[str, Layer]] = [("", self)]
        while waiting:
            path, layer = waiting.pop()
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            for name in layer.parameter_names:
                value = getattr(layer, name)
                if value is not None:
                    yield path + name, layer, name, value
            inside = [(f"{path}{name}.", inner) for name, inner in layer._named_sublayers()]
            waiting += reversed(inside)

    def _named_sublayers(self) -> Iterator[tuple[str, Layer]]:
        seen: set[int] = set()
        for name, value in vars(self).items():
            if isinstance(value, (list, tuple)):
                items = [(f"{name}.{i}", item) for i, item in enumerate(value)]
            else:
                items = [(name, value)]
            for path, item in items:
                if isinstance(item, Layer) and id(item) not in seen:
                    seen.add(id(item))
                    yield path, item


class state_kept:
    """While it lasts, the state of a layer and of those inside is not lost: a failure brings it back.

    Layers rebind their attributes and never write into the arrays, so the attributes are all there
    is to bring back. With ``always=True`` they come back in any case, for an evaluation between a
    training forward and its backward. Within a model, that of the model cares for its blocks.
    """

    def __init__(self, layer: Layer, always: bool = False) -> None:
        self.layer, self.always = layer, always

    def __enter__(self) -> None:
        self.saved: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.around = getattr(_innermost, "keeper", None)
        if (
            self.around is not None
            and (self.around.always or not self.always)
            and id(self.layer) in self.around.saved
        ):
            return
        # `sublayers` written out: models of many layers come here at every call.
        waiting: list[Any] = [self.layer]
        while waiting:
            layer = waiting.pop()
            if not isinstance(layer, Layer) or id(layer) in self.saved:
                continue
            state = vars(layer)
            self.saved[id(layer)] = state, state.copy()
            for value in state.values():
                if isinstance(value, Layer):
                    waiting.append(value)
                elif isinstance(value, (list, tuple)):
                    waiting.extend(value)
        _innermost.keeper = self

    def __exit__(self, error: object, *_: object) -> None:
        if not self.saved:
            return
        _innermost.keeper = self.around
        if self.always or error is not None:
            for state, before in self.saved.values():
                state.clear()
                state.update(before)


_innermost = threading.local()


def initial(
    name: str, init_fn: Any, default: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    """A parameter's first value: from the user's init function, called as the course does, or the default."""
    if init_fn is not None and not callable(init_fn):
        raise TypeError(f"{name} must be a function or None, not {init_fn!r:.40}")
    value = default(shape) if init_fn is None else init_fn(*shape)
    values = check.array(f"what {name} returned", value)
    if values.shape != shape:
        raise ValueError(f"{name} returned shape {values.shape}, not {shape}")
    return np.array(values, dtype=dtype)


def standard_normal(shape: tuple[int, ...]) -> Array:
    """The course's default weights, from NumPy's global stream."""
    return np.random.normal(0, 1.0, shape)
