"""The class that stands in for a user's: a compiled layer under the user's name.

It is derived from both, the compiled layer first::

    class Conv2d(fastconv.Conv2d, mytorch.nn.Conv2d): ...

so that forward and backward, and what they compute, are compiled, and whatever else the user's class
has (methods, base classes, ``isinstance``) is still there.
"""

from __future__ import annotations

import builtins
import copy
import copyreg
import inspect
import sys
import types
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from ..nn import Layer
from ..nn.conv import ConvOuter, ConvStride1
from .catalogue import OLDER_GRADIENTS
from .methods import catch_up, method_of
from .pending import add_pending
from .recognise import Refused
from .state import State, Unwritten, sizes_of, taken_over

if TYPE_CHECKING:
    from .replace import Replacement

DERIVED = "_fastconv_derived_from"  # the user's class, itself derived, that a class is for


def replacement_of(cls: type) -> Replacement | None:
    """The replacement that a class is, or is derived from."""
    return getattr(cls, "_fastconv_replacement", None)


def private_names(fast: type[Layer]) -> set[str]:
    """Attributes that are ours alone."""
    ours = {"_workspace", "_shape", "_dtype"}
    return ours | {"A"} if issubclass(fast, ConvOuter) else ours


def make_class(replacement: Replacement) -> type[Any]:
    original, fast = replacement.original, replacement.fast
    namespace = _users_own(original, fast)
    namespace |= {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__init__": _constructor(replacement),
        "__getattr__": _missing_attribute(replacement),
        "__reduce_ex__": _reduce,
        "__setstate__": _set_state,
        "__deepcopy__": _deepcopy,
        "__copy__": _copy,
        "_fastconv_replacement": replacement,
    }
    if issubclass(fast, ConvOuter):
        namespace |= {name: _OfUsers(replacement, name) for name in OF_INNER}
    if replacement.recognised.older_gradients:
        namespace |= {older: _alias(name) for older, name in OLDER_GRADIENTS.items()}
    try:
        return _new_class(replacement, (fast, original), namespace)
    except TypeError:  # an extension type, whose objects no other class can share
        return _new_class(replacement, (fast,), namespace)


def _new_class(
    replacement: Replacement, bases: tuple[type, ...], namespace: dict[str, Any]
) -> type[Any]:
    replacement.methods = {
        name: method_of(replacement, name, inherits=replacement.original in bases)
        for name in ("forward", "backward")
    }
    everything = {**namespace, **replacement.methods}
    bases = (_Unannounced, *bases)
    return types.new_class(replacement.name, bases, exec_body=lambda names: names.update(everything))


# Called with each class that is made; a recording wants to see them.
watchers: list[Callable[[type], None]] = []


class _Unannounced:
    """A user's ``__init_subclass__``, of a registry say, has seen the user's class, and sees not ours."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "_fastconv_replacement" not in vars(cls) and DERIVED not in vars(cls):
            super().__init_subclass__(**kwargs)
        for watch in watchers:
            watch(cls)


def how_to_keep(replacement: Replacement) -> str:
    name = replacement.name
    return f"To keep your own class: fastconv run --except {name}, or exclude=[{name!r}] in Python"


def empty(cls: type) -> Any:
    """An object without a constructor having run."""
    make: Any = cls.__new__
    return make(cls)


def _users_own(original: type, fast: type[Layer]) -> dict[str, Any]:
    """Methods that both have, other than those that compute: the user's stay the user's."""
    ours = {name for name in dir(fast) if not name.startswith("_") and callable(getattr(fast, name))}
    names = (ours - {"forward", "backward"}) | {"__call__"}
    bases = [cls for cls in original.__mro__ if cls is not object]
    return {name: vars(cls)[name] for cls in reversed(bases) for name in names if name in vars(cls)}


def _constructor(replacement: Replacement) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        replacement.construct(self, args, kwargs)

    theirs = replacement.original.__init__  # type: ignore[misc]
    if theirs is object.__init__:
        return __init__
    return wraps(theirs)(__init__)


# What our outer layers answer for the one inside.
OF_INNER = ("in_channels", "out_channels", "kernel_size", *ConvStride1.parameter_names)


class _OfUsers:
    """Such an attribute, as far as the user's objects have it: whoever looks for weights finds them once."""

    def __init__(self, replacement: Replacement, name: str) -> None:
        self.replacement, self.name = replacement, name
        self.ours: Any = inspect.getattr_static(replacement.fast, name)

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        if layer is None:
            return self
        if self.name in self.replacement.answers:
            return self.ours.__get__(layer, owner)
        try:
            return vars(layer)[self.name]
        except KeyError:
            raise AttributeError(self.name) from None  # and __getattr__ says more

    def __set__(self, layer: Any, value: Any) -> None:
        if self.name in self.replacement.answers:
            self.ours.__set__(layer, value)
        else:
            vars(layer)[self.name] = value


def _alias(name: str) -> property:
    def holder(layer: Any) -> Any:
        return layer.inner if isinstance(layer, ConvOuter) else layer

    return property(
        lambda self: getattr(holder(self), name), lambda self, value: setattr(holder(self), name, value)
    )


def _missing_attribute(replacement: Replacement) -> Callable[[Any, str], Any]:
    hidden = OF_INNER if issubclass(replacement.fast, ConvOuter) else ()
    users, name_of = getattr(replacement.original, "__getattr__", None), replacement.name

    def __getattr__(self: Any, name: str) -> Any:
        if name in ("A", "_workspace") and "A" not in vars(self):
            catch_up(self)
            if name in vars(self):
                return vars(self)[name]
        if hasattr(type(self), name) and name not in hidden:  # a property said so
            return object.__getattribute__(self, name)
        if users is not None:
            return users(self, name)
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        if not name.startswith("__"):
            message += (
                f": fastconv has put a compiled layer in the place of {replacement.module}.{name_of}, "
                f"which keeps other things. {how_to_keep(replacement)}"
            )
        raise AttributeError(message, name=name, obj=self)

    return __getattr__


# ---- copies and pickles --------------------------------------------------------------------------


def _reduce(self: Any, protocol: Any) -> Any:
    """A pickle holds what the user's class would keep, under the name of that class."""
    cls: type = type(self)
    replacement = replacement_of(cls)
    assert replacement is not None
    catch_up(self)
    if cls is replacement.cls:
        cls = _named_now(replacement)
    state = {k: getattr(self, k, v) for k, v in vars(self).items() if k != "_workspace"}
    make: Any = copyreg._reconstructor  # type: ignore[attr-defined]  # __newobj__ is for the very class
    return make, (vars(cls).get(DERIVED, cls), object, None), state


def _named_now(replacement: Replacement) -> type:
    """The class that the user's name means: where pickle looks for it."""
    named = vars(sys.modules.get(replacement.module, builtins)).get(replacement.name)
    found = replacement_of(named) if isinstance(named, type) else None
    return replacement.original if found is None or found.original is not replacement.original else found.cls


def _set_state(self: Any, state: State) -> None:
    replacement = replacement_of(type(self))
    assert replacement is not None
    try:
        full = taken_over(replacement.fast, state, sizes_of(replacement.fast, state))
        add_pending(replacement.fast, full, state)
    except (Refused, Unwritten):
        self.__dict__.update(state)
        if replacement.in_place and type(self) is replacement.cls:
            object.__setattr__(self, "__class__", replacement.original)
        return
    replacement.answers = replacement.answered(state)
    full |= {k: v for k, v in state.items() if k in private_names(replacement.fast) and v is not None}
    self.__dict__.update(full)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    new = empty(type(self))
    memo[id(self)] = new
    new.__dict__.update(copy.deepcopy(_copied(self), memo))
    return new


def _copy(self: Any) -> Any:
    new = empty(type(self))
    new.__dict__.update(_copied(self))
    return new


def _copied(self: Any) -> State:
    catch_up(self)
    return dict(vars(self))
