"""`install` and `uninstall`: while it lasts, users' layer classes are replaced as they come to be."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..backend import get_backend, set_backend
from .building import ClassStatements
from .importing import Imports
from .processes import Children
from .recognise import Choice, Refused, named_like_a_layer, recognise
from .replace import Replacement
from .report import Entry, SwapReport
from .state import is_made_of_layers
from .usercode import UserCode
from .verify import Check, Mismatch, different


@dataclass(frozen=True)
class Options:
    """What is replaced, and how: the arguments of `install`. Picklable, for child processes."""

    choice: Choice
    include: tuple[str, ...] = ()
    verify: bool = False
    pure: bool = False


class Session:
    """Users' classes replaced in this process, and all that must be undone at its end."""

    def __init__(self, options: Options, undo: Callable[[], None]) -> None:
        self.options = options
        self.users = UserCode(options.include)
        self.report = SwapReport(undo)
        self.replacements: dict[type, Replacement] = {}
        self.entries: dict[type, Entry] = {}
        self.considered: set[type] = set()
        self.waiting: set[str] = set()  # modules with a class that was not yet bound to its name
        self.hooks = (ClassStatements(self), Imports(self), Children(options))
        self.backend = get_backend()

    def start(self) -> None:
        if self.options.pure:
            set_backend("pure")
        for hook in self.hooks:
            hook.start()
        for module in self.modules():
            self.scan(module)

    def stop(self) -> None:
        for hook in reversed(self.hooks):
            hook.stop()
        if self.options.pure:
            set_backend(self.backend)
        self._unbind(list(self.replacements.values()))

    # ---- a class ---------------------------------------------------------------------------------

    def replaced(self, cls: type, file: str | None) -> type:
        """What a class of the user is to be: the compiled one in its place, or itself."""
        if not named_like_a_layer(cls) or not self.users.owns(cls.__module__, file):
            return cls
        known = self.replacements.get(cls)
        if known is not None:
            found: type = cls if known.retired else known.cls
            return found
        if cls in self.considered:
            return cls
        self.considered.add(cls)
        entry = Entry(cls.__name__, cls.__module__, file or "")
        try:
            self.options.choice.check(cls.__name__)
            made = Replacement(
                recognised := recognise(cls, self.users), refused=self._left_an_object,
                check=self._check if self.options.verify else None,
            )
        except Refused as reason:
            entry.reason = str(reason)
            self.report.kept.append(entry)
            return cls
        self.replacements[cls], self.entries[cls] = made, entry
        entry.by = f"fastconv.{made.fast.__name__}"
        # A block or model is not verified: two runs of it would be two runs of the layers inside.
        entry.calls = 0 if self.options.verify and not is_made_of_layers(made.fast) else None
        if recognised.remark:
            entry.note(recognised.remark)
        self.report.swapped.append(entry)
        if type(cls) is not type or any("__init_subclass__" in vars(base) for base in cls.__mro__[1:-1]):
            rebind({cls: made.cls}, self.holders())  # they may have put it into a table
        return made.cls

    def meant(self, base: Any) -> Any:
        """What the name of a base of a class statement means, now that `scan_waiting` has been there."""
        found = self.replacements.get(base) if isinstance(base, type) else None
        return base if found is None or found.retired else found.cls

    def _left_an_object(self, replacement: Replacement, reason: str) -> None:
        """An object could not be made a compiled one. If it was the first, the class is left alone."""
        entry = self.entries[replacement.original]
        if not replacement.objects and replacement.in_place and not replacement.retired:
            replacement.retired = reason
            self.report.put_back(entry, reason)
            self._unbind([replacement])
        elif "stay as they are" not in entry.reason:
            entry.note(f"some objects stay as they are: {reason}")

    # ---- verification ----------------------------------------------------------------------------

    def _check(self, replacement: Replacement) -> Check | None:
        if replacement.retired or is_made_of_layers(replacement.fast):
            return None
        if not replacement.in_place:
            self.entries[replacement.original].note("an extension type, which cannot be verified")
            return None
        return Check(replacement, self.entries[replacement.original], self._mismatch)

    def _mismatch(self, replacement: Replacement, mismatch: Mismatch) -> None:
        """Put a class back that computes something else."""
        if replacement.retired:
            return
        replacement.retired = str(mismatch)
        self.report.put_back(self.entries[replacement.original], f"verification: {mismatch}")
        self._unbind([replacement])
        print(f"fastconv: {different(replacement, mismatch)}", file=sys.stderr, flush=True)

    def _unbind(self, replacements: list[Replacement]) -> None:
        for replacement in replacements:
            replacement.retired = replacement.retired or "uninstalled"
        own = {r.cls: r.original for r in replacements}
        rebind(own, [*sys.modules.values(), *self.holders()])
        for replacement in replacements:
            replacement.rebase()

    # ---- a module --------------------------------------------------------------------------------

    def modules(self) -> Iterator[types.ModuleType]:
        """The user's modules that have been imported."""
        for name, module in list(sys.modules.items()):
            if isinstance(module, types.ModuleType) and self.users.owns(name, file_of(module)):
                yield module

    def holders(self) -> Iterator[Any]:
        """All that may have a name for a class, or a table of them: these modules, and their classes."""
        for module in self.modules():
            yield module
            yield from (
                value for value in list(vars(module).values())
                if isinstance(value, type) and value.__module__ == module.__name__
            )  # fmt: skip

    def scan(self, module: types.ModuleType) -> None:
        """Replace the classes that a module has defined, wherever they have got to."""
        found: dict[Any, Any] = {}
        for value in list(vars(module).values()):
            if named_like_a_layer(value) and value.__module__ == module.__name__:
                new = self.replaced(value, file_of(module))
                if new is not value:
                    found[value] = new
        if found:
            rebind(found, [module, *self.holders()])

    def scan_later(self, module: str) -> None:
        self.waiting.add(module)

    def scan_waiting(self) -> None:
        while self.waiting:
            module = sys.modules.get(self.waiting.pop())
            if module is not None:
                self.scan(module)


_TABLE = 1000  # entries of what may be a table of layer classes


def rebind(new: dict[Any, Any], holders: Iterable[Any]) -> None:
    """Let every name in these modules that means one object mean another, in lists and dicts there too.

    Of classes among the holders, it is the lists and dicts alone.
    """
    by_id = {id(old): value for old, value in new.items()}

    def rebind_in(table: Any) -> None:
        for key, value in list(table.items() if isinstance(table, dict) else enumerate(table)):
            if id(value) in by_id:
                table[key] = by_id[id(value)]

    for holder in holders:
        names = getattr(holder, "__dict__", None)
        if isinstance(names, dict) and "__name__" in names:
            rebind_in(names)
        elif not isinstance(holder, type):
            continue
        for value in list(vars(holder).values()):
            if type(value) in (dict, list) and len(value) <= _TABLE:
                rebind_in(value)


def file_of(module: Any) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) else None
