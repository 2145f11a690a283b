"""Where a layer is in its model: found when it is first called, from who holds it and who calls it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ..swapping.usercode import UserCode
from .counts import Kind, kind_of
from .graph import walk

# Whose classes count besides the layers, and whose variables name them.
PROGRAM = UserCode()
_CONTAINERS = (list, tuple, dict)
_FRAMES = 8
# Parts of a variable that are looked at in search of a layer.
_MOST = 10_000


class Place:
    """A layer that was called.

    Attributes
    ----------
    path : str
        ``CNN.layers[2]``, ``conv1``; a class and a number where nobody tells.
    layer : str
        Its class.
    kind : Kind or None
        For counting operations; None where they are not known.
    source : dict
        File and line of each method, by name.
    """

    __slots__ = ("kind", "layer", "path", "source")

    def __init__(self, path: str, layer: Any) -> None:
        self.path = path
        self.layer = type(layer).__name__
        self.kind: Kind | None = kind_of(layer)
        self.source = _source(type(layer))


class Places:
    """The places of a session. It keeps no layer alive; layers that are gone share a place by their path."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Place, Any]] = {}
        self.by_path: dict[tuple[str, str], tuple[Place, Any]] = {}
        self.held: tuple[Any, dict[int, tuple[Any, str]]] = (None, {})
        self.roots: list[Any] = []
        self.lock = threading.Lock()

    def meet(self, layer: Any, stack: list[list[Any]], caller: FrameType) -> Place:
        """The place of a layer that is called for the first time."""
        with self.lock:
            try:
                path = self._path(layer, stack, caller)
            except Exception:  # objects of the program that cannot be looked at must not stop it
                path = type(layer).__name__
            return self._place(path, layer)

    def _place(self, path: str, layer: Any) -> Place:
        cls, reference, number = type(layer).__name__, _reference(layer), 1
        while True:
            name = path if number == 1 else f"{path}#{number}"
            known = self.by_path.get((name, cls))
            if known is None or known[1]() is None:
                break
            number += 1
        place = known[0] if known is not None else Place(name, layer)
        self.by_path[name, cls] = place, reference
        self.known[id(layer)] = place, reference
        return place

    def _path(self, layer: Any, stack: list[list[Any]], caller: FrameType) -> str:
        for root in self.roots:
            if layer is root:
                return type(root).__name__
            found = self._in(root, layer)
            if found is not None:
                return type(root).__name__ + found
        for around, _, _, holder in reversed(stack):
            found = self._in(holder, layer)
            if found is not None:
                return str(around.path) + found
        for holder, name in _around(caller):
            if holder is layer:
                return name
            found = self._in(holder, layer)
            if found is not None:
                return name + found
        return type(layer).__name__

    def _in(self, holder: Any, layer: Any) -> str | None:
        """The path from a holder to a layer in it."""
        if self.held[0] is None or self.held[0]() is not holder or id(layer) not in self.held[1]:
            found = {}
            for path, item in walk(holder, _MOST):
                if hasattr(item, "forward"):
                    found[id(item)] = _reference(item), path
            self.held = None if isinstance(holder, _CONTAINERS) else _reference(holder), found
        else:
            found = self.held[1]
        reference, path = found.get(id(layer), (None, ""))
        return path if reference is not None and reference() is layer else None


def _reference(item: Any) -> Any:
    """A weak reference; to what cannot have one, a strong one."""
    try:
        return weakref.ref(item)
    except TypeError:
        return lambda: item


def _around(frame: FrameType | None) -> Iterator[tuple[Any, str]]:
    """What may hold a layer that is called here, with its name: `self`, then variables, frame by frame."""
    for _ in range(_FRAMES):
        while frame is not None and not PROGRAM.owns(
            str(frame.f_globals.get("__name__")), frame.f_code.co_filename
        ):
            frame = frame.f_back
        if frame is None:
            return
        variables = {k: v for k, v in frame.f_locals.items() if not k.startswith("_")}
        if "self" in variables:
            holder = variables.pop("self")
            yield holder, type(holder).__name__
        yield from ((v, k) for k, v in variables.items() if isinstance(v, _CONTAINERS))
        yield from ((v, k) for k, v in variables.items() if not isinstance(v, _CONTAINERS))
        frame = frame.f_back


def _source(cls: type) -> dict[str, tuple[str, int]]:
    found = {}
    for name in ("forward", "backward"):
        method = getattr(cls, name, None)
        code = getattr(getattr(method, "__wrapped__", method), "__code__", None)
        found[name] = (code.co_filename, code.co_firstlineno) if code is not None else ("~", 0)
    return found
