"""`swap`: the layers inside a live model."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from .. import _check as check
from ..nn import Layer
from .catalogue import KNOWN, check_names
from .recognise import Choice, Refused, file_of, recognise
from .replace import Replacement
from .report import Entry, SwapReport
from .state import attributes, is_made_of_layers
from .usercode import UserCode
from .verify import Check, Mismatch, different

# Nothing is looked for in these; in objects of these, and of the user's classes, it is.
_PLAIN = (str, bytes, int, float, complex, type(None), np.ndarray, np.generic, type, ModuleType, FunctionType)
_HOLDERS = (Layer, SimpleNamespace)
# What a layer of the user's own holds that another dtype is for.
_PARAMETERS = (
    "W", "b", "dLdW", "dLdb", "BW", "Bb", "dLdBW", "dLdBb", "M", "V", "running_M", "running_V",
)


def swap(
    model: Any, *, verify: Any = None, dtype: Any = None, only: Iterable[str] = (),
    exclude: Iterable[str] = (), include: Iterable[str] = (), all: bool = False,
) -> SwapReport:
    """Make the layers inside a model compiled ones, in place.

    Layers are found in attributes, lists, tuples, dicts and models inside, and stay the same objects:
    whoever refers to one, an optimizer say, refers to the compiled layer then. Parameters,
    gradients, running statistics, dropout probability and what a forward has kept for its
    backward are carried over; arrays are shared, not copied.

    Parameters
    ----------
    model : object
        A layer, or anything that holds layers.
    verify : array_like or tuple of arguments, optional
        An input of the model. Every swapped layer that it reaches is run on the user's own class as
        well, forward and backward, in a copy of the model; a class that differs is put back.
    dtype : {"float32", "float64"}, optional
        Convert the parameters of the model, of layers that are kept as well.
    only, exclude, include, all
        As of `install`.

    Returns
    -------
    SwapReport
        ``swapped`` and ``kept``, an entry for each layer with its path and the reason; ``undo()``.

    Raises
    ------
    TypeError, ValueError
        Another dtype; a name that is no layer's.
    """
    wanted = None if dtype is None else check.parameter_dtype(dtype)
    users = UserCode(include)
    choice = Choice(check_names(only), check_names(exclude), all)
    swapping = _Swapping(choice, users, verifying=verify is not None)
    found = list(_objects(model, users))
    for path, layer in found:
        swapping.visit(path, layer)
    if verify is not None:
        swapping.verify(model, verify if isinstance(verify, tuple) else (verify,))
    if wanted is not None:
        swapping.converted = _convert([layer for _, layer in found], wanted)
    return swapping.report


def convert(model: Any, dtype: Any, include: Iterable[str] = ()) -> None:
    """Convert the parameters of all layers in a model, as `swap` does, and swap none."""
    _convert([layer for _, layer in _objects(model, UserCode(include))], check.parameter_dtype(dtype))


def _convert(layers: Iterable[Any], dtype: np.dtype[Any]) -> list[tuple[Any, str, np.dtype[Any]]]:
    """Give parameters, gradients and statistics a dtype; returns whose they are, and what dtype they had."""
    converted = []
    for layer in layers:
        held = attributes(layer)
        own = layer.parameter_names if isinstance(layer, Layer) else ()
        for name in {*_PARAMETERS, *own}:
            value = held.get(name)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype != dtype:
                converted.append((layer, name, value.dtype))
                setattr(layer, name, value.astype(dtype))
    return converted


class _Swapping:
    """One call of `swap`."""

    def __init__(self, choice: Choice, users: UserCode, verifying: bool) -> None:
        self.choice, self.users, self.verifying = choice, users, verifying
        self.replacements: dict[type, Replacement | Refused] = {}
        self.report = SwapReport(self.undo)
        self.done: list[tuple[Any, Replacement, Entry]] = []
        self.converted: list[tuple[Any, str, np.dtype[Any]]] = []

    def visit(self, path: str, layer: Any) -> None:
        original = self._known(type(layer))
        if original is None:
            return
        entry = Entry(type(layer).__name__, type(layer).__module__, path)
        try:
            self.choice.check(original.__name__)
            replacement = self._replacement(original)
            lost = replacement.take_over(layer)
        except Refused as reason:
            entry.reason = str(reason)
            self.report.kept.append(entry)
            return
        entry.by = f"fastconv.{replacement.fast.__name__}"
        entry.calls = 0 if self.verifying and not is_made_of_layers(replacement.fast) else None
        for remark in (replacement.recognised.remark, lost):
            if remark:
                entry.note(remark)
        self.report.swapped.append(entry)
        self.done.append((layer, replacement, entry))

    def _known(self, cls: type) -> type | None:
        """The class of a known name that an object's class is, or is derived from."""
        if issubclass(cls, Layer):
            return None
        for base in cls.__mro__:
            if base.__name__ in KNOWN and self.users.owns(base.__module__, file_of(base)):
                return base
        return None

    def _replacement(self, original: type) -> Replacement:
        if original not in self.replacements:
            try:
                check = _none_yet if self.verifying else None
                self.replacements[original] = Replacement(recognise(original, self.users), check=check)
            except Refused as reason:
                self.replacements[original] = reason
        found = self.replacements[original]
        if isinstance(found, Refused):
            raise Refused(str(found))
        return found

    # ---- verification ----------------------------------------------------------------------------

    def verify(self, model: Any, inputs: tuple[Any, ...]) -> None:
        """Run a copy of the model, with every layer in it checked on the way."""
        try:
            memo: dict[int, Any] = {}
            twin = copy.deepcopy(model, memo)
        except Exception as error:
            self.undo()
            raise TypeError(f"verify needs a copy of the model, and it cannot be copied: {error}") from error
        failed: dict[Replacement, Mismatch] = {}
        stream = np.random.get_state()
        for layer, replacement, entry in self.done:
            if id(layer) in memo and not is_made_of_layers(replacement.fast):
                replacement.watch(memo[id(layer)], _CheckAtOnce(replacement, entry, failed.setdefault))
        try:
            getattr(twin, "forward", twin)(*inputs)
        finally:
            np.random.set_state(stream)
        for replacement, mismatch in failed.items():
            self._put_back(replacement, mismatch)

    def _put_back(self, replacement: Replacement, mismatch: Mismatch) -> None:
        for layer, _, entry in [item for item in self.done if item[1] is replacement]:
            replacement.give_back(layer)
            self.report.put_back(entry, f"verification: {mismatch}")
        self.done = [item for item in self.done if item[1] is not replacement]
        warnings.warn(different(replacement, mismatch), RuntimeWarning, stacklevel=4)

    def undo(self) -> None:
        for layer, name, dtype in self.converted:
            array = attributes(layer).get(name)
            if isinstance(array, np.ndarray):
                setattr(layer, name, array.astype(dtype))
        for layer, replacement, _ in reversed(self.done):
            replacement.give_back(layer)
        self.converted.clear()
        self.done.clear()


class _CheckAtOnce(Check):
    """Verifies the backward right after the forward, with a gradient of its own.

    How a model's own backward wants to be called is not known.
    """

    def forward(self, layer: Any, method: Any, unchecked: Any, args: Any, kwargs: Any) -> Any:
        Z = super().forward(layer, method, unchecked, args, kwargs)
        if self.twin is not None and isinstance(Z, np.ndarray):
            noise: Any = np.random.default_rng(0).standard_normal(Z.shape)
            self.replacement.cls.backward(layer, noise.astype(Z.dtype))
        return Z


def _none_yet(replacement: Replacement) -> None:
    """Methods are to be verified, but no object yet."""


def _objects(root: Any, users: UserCode) -> Iterator[tuple[str, Any]]:
    """Every object of the user's classes, and of ours, that can be reached, with its path."""
    waiting: deque[tuple[str, Any]] = deque([("model", root)])
    seen: set[int] = set()
    while waiting:
        path, value = waiting.popleft()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting.extend((f"{path}[{key!r}]", item) for key, item in value.items())
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            waiting.extend((f"{path}[{i}]", item) for i, item in enumerate(value))
        cls = type(value)
        if value is root or issubclass(cls, _HOLDERS) or users.owns(cls.__module__, file_of(cls)):
            yield path, value
            waiting.extend((f"{path}.{name}", item) for name, item in attributes(value).items())
