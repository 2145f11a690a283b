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
from typing import TYPE_CHECKING, Any

from .catalogue import KNOWN

if TYPE_CHECKING:
    from .session import Session


class ClassStatements:
    """Replaces ``builtins.__build_class__``."""

    def __init__(self, session: Session) -> None:
        self.session: Session | None = session
        self.before: Any = None

    def start(self) -> None:
        before = self.before = builtins.__build_class__

        def __build_class__(function: Any, name: str, /, *bases: Any, **kwargs: Any) -> Any:
            session = self.session
            if session is None:
                return before(function, name, *bases, **kwargs)
            session.scan_waiting()
            cls = before(function, name, *map(session.meant, bases), **kwargs)
            session.scan_waiting()  # a class inside it
            if name not in KNOWN or not isinstance(cls, type):
                return cls
            if _bound_next(_statement(sys._getframe(1))):
                return session.replaced(cls, function.__code__.co_filename)
            session.scan_later(cls.__module__)
            return cls

        self.hook = builtins.__build_class__ = __build_class__

    def stop(self) -> None:
        """Where something else has been put over the hook meanwhile, it stays, and does nothing."""
        self.session = None
        if builtins.__build_class__ is self.hook:
            builtins.__build_class__ = self.before


_NOTHING = {dis.opmap[name] for name in ("CACHE", "EXTENDED_ARG", "NOP") if name in dis.opmap}
_BINDING = {dis.opmap[name] for name in ("STORE_NAME", "STORE_GLOBAL")}


def _statement(frame: types.FrameType) -> types.FrameType:
    """The frame of the class statement: under the hook of a recording that has been put over this one."""
    while str(frame.f_globals.get("__name__")).startswith("fastconv.") and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _bound_next(frame: types.FrameType) -> bool:
    """Whether the new class is bound to its name as it is: no decorator gets it first."""
    code = frame.f_code.co_code
    following = (code[at] for at in range(frame.f_lasti + 2, len(code), 2))
    return next((op for op in following if op not in _NOTHING), None) in _BINDING
