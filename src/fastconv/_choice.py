"""A setting of the process that a `with` block may override."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Choice:
    """One of some names; for the whole process, or for one thread and context (see `contextvars`)."""

    def __init__(self, what: str, names: tuple[str, ...], value: str) -> None:
        self.what, self.names = what, names
        self.value = value
        self.override: ContextVar[str | None] = ContextVar(what, default=None)

    def check(self, name: object) -> str:
        """`name`, or ValueError if it is none of the names."""
        if not isinstance(name, str) or name not in self.names:
            *most, last = map(repr, self.names)
            raise ValueError(f"{self.what} must be {', '.join(most)} or {last}, not {name!r:.40}")
        return name

    def get(self) -> str:
        return self.override.get() or self.value

    def set(self, name: str) -> None:
        self.value = self.check(name)

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        token = self.override.set(self.check(name))
        try:
            yield
        finally:
            self.override.reset(token)
