"""Classes as they are built: a layer class is replaced before anything can see it.

Python calls ``builtins.__build_class__`` for every class statement, wherever the code is: a module
imported in any way, the script itself, a notebook's cell. So what is replaced here needs no import
hook to be found, and a class that the module uses itself, or derives another from, is the compiled
one, too.
"""

from __future__ import annotations

import builtins
import dis
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .catalogue import KNOWN

if TYPE_CHECKING:
    from .session import Session

# Gets a class just built, its body, and the frame of its statement; returns it, or another in its place.
Listener = Callable[[Any, types.FunctionType, types.FrameType], Any]
_listeners: list[Listener] = []
_hook: Any = None
_before: Any = None


def listen(listener: Listener) -> None:
    """Have a listener called for every class statement. One hook is there for all, while any listens."""
    global _hook, _before
    _listeners.append(listener)
    if _hook is not None:
        return
    before = builtins.__build_class__

    def __build_class__(function: Any, name: str, /, *bases: Any, **kwargs: Any) -> Any:
        cls = before(function, name, *bases, **kwargs)
        if _hook is __build_class__ and isinstance(cls, type):
            for each in tuple(_listeners):
                cls = each(cls, function, sys._getframe(1))
        return cls

    _hook = builtins.__build_class__ = __build_class__
    _before = before


def unlisten(listener: Listener) -> None:
    """Where something else has been put over the hook meanwhile, it stays, and does nothing."""
    global _hook, _before
    _listeners.remove(listener)
    if not _listeners:
        if builtins.__build_class__ is _hook:
            builtins.__build_class__ = _before
        _hook = _before = None


class ClassStatements:
    """Has each class that is built replaced in a session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def start(self) -> None:
        listen(self.built)

    def stop(self) -> None:
        unlisten(self.built)

    def built(self, cls: Any, function: types.FunctionType, frame: types.FrameType) -> Any:
        self.session.scan_waiting()
        if function.__name__ not in KNOWN:
            return cls
        if _bound_next(frame):
            return self.session.replaced(cls, function.__code__.co_filename)
        self.session.scan_later(cls.__module__)
        return cls


_NOTHING = {dis.opmap[name] for name in ("CACHE", "EXTENDED_ARG", "NOP") if name in dis.opmap}
_BINDING = {dis.opmap[name] for name in ("STORE_NAME", "STORE_GLOBAL")}


def _bound_next(frame: types.FrameType) -> bool:
    """Whether the new class is bound to its name as it is: no decorator gets it first."""
    code = frame.f_code.co_code
    following = (code[at] for at in range(frame.f_lasti + 2, len(code), 2))
    return next((op for op in following if op not in _NOTHING), None) in _BINDING
