"""Modules as they are imported: compiled ones are looked through when they have run.

Their classes are built without a class statement, so `building` does not see them. The finders that
there are find a module, and its own loader loads it; only the end of that is noted. A module of
Python code is left to `building`, so that no frame of ours is in the traceback of an error in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import Session


class Imports:
    """A finder that asks the others."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def start(self) -> None:
        sys.meta_path.insert(0, self)

    def stop(self) -> None:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        self.session.scan_waiting()
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                origin = spec.origin or ""
                if origin.endswith(tuple(EXTENSION_SUFFIXES)) and self.session.users.owns(name, origin):
                    self._watch(spec)
                return spec
        return None

    def _watch(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        assert loader is not None
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the loader is as it was
            execute(module)
            self.session.scan(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
