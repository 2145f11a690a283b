"""Processes that multiprocessing starts: a forked one has everything; a spawned one is told.

A spawned process, or one of the fork server, unpickles what `get_preparation_data` gave before it
prepares anything else. `_Installed` is put among that, and unpickling it installs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import Options


class Children:
    """Has the same options installed in every child process."""

    def __init__(self, options: Options) -> None:
        self.options: Options | None = options

    def start(self) -> None:
        from multiprocessing import spawn

        before = spawn.get_preparation_data

        def get_preparation_data(name: str) -> dict[str, Any]:
            data = before(name)
            return data if self.options is None else {**data, "fastconv": _Installed(self.options)}

        self.module, self.before, self.hook = spawn, before, get_preparation_data
        spawn.get_preparation_data = get_preparation_data

    def stop(self) -> None:
        self.options = None
        if self.module.get_preparation_data is self.hook:
            self.module.get_preparation_data = self.before


class _Installed:
    def __init__(self, options: Options) -> None:
        self.options = options

    def __reduce__(self) -> Any:
        return _install, (self.options,)


def _install(options: Options) -> None:
    from . import start

    start(options)
