"""Is this class of a user one that a compiled layer can stand in for? If not, why not?"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..nn import Dropout2d, Layer
from .catalogue import KNOWN, LAYERS, NEUTRAL, OLDER_GRADIENTS, Parameter, meaning_of, own_parameters
from .source import draws_otherwise, gradients_kept, plain, unwritten
from .usercode import UserCode


class Refused(Exception):
    """The class, or an object of it, is left alone; the message is the reason."""


class Choice(NamedTuple):
    """Which of the known classes a user wants replaced."""

    only: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    all: bool = False

    def check(self, name: str) -> None:
        """Raises `Refused` if classes of that name are not to be replaced."""
        if self.only:
            if name not in self.only:
                raise Refused("not among those asked for")
        elif name in self.exclude:
            raise Refused("excepted")
        elif name not in LAYERS and not self.all:
            raise Refused("revisions scale these differently, so they stay as they are (--all swaps them)")


class Recognised(NamedTuple):
    """A user's class that can be replaced."""

    original: type
    fast: type[Layer]
    parameters: tuple[Parameter, ...] | None  # of its constructor; None: take those of `fast`
    unwritten: tuple[str, ...] = ()  # methods that are still to be written
    gradients: Mapping[str, str] = {}  # what its backward does with them, if it does not set them anew
    older_gradients: bool = False  # they are called dW and db

    @property
    def remark(self) -> str:
        return f"{' and '.join(self.unwritten)} still unwritten" if self.unwritten else ""


def named_like_a_layer(cls: object) -> bool:
    """The quick test that comes before all others."""
    return (
        isinstance(cls, type)
        and cls.__name__ in KNOWN
        and cls.__qualname__ == cls.__name__
        and not issubclass(cls, Layer)
    )


def recognise(cls: type, users: UserCode) -> Recognised:
    """Look at a class of a known name. Raises `Refused` with the reason why it must be left alone."""
    fast = KNOWN[cls.__name__]
    _check_bases(cls, users)
    if fast is Dropout2d and draws_otherwise(cls.__dict__.get("forward")):
        raise Refused("it does not draw by np.random.binomial")
    if hasattr(cls, "derivative"):  # an older revision's activation, which goes by other attributes
        raise Refused("it has a derivative besides forward and backward")
    methods = ("forward", "backward")
    for name in methods:
        _check_method(cls, fast, name)
    parameters = _constructor(cls, fast)
    missing = tuple(name for name in methods if unwritten(getattr(cls, name)))
    older = hasattr(fast, "dLdW") or "dLdW" in fast.parameter_names
    older = older and OLDER_GRADIENTS.keys() <= _names_in(cls)
    backward: Any = getattr(cls, "backward")  # noqa: B009
    return Recognised(cls, fast, parameters, missing, gradients_kept(backward), older)


def _names_in(cls: type) -> set[str]:
    """The names that a class's constructor uses."""
    return set(getattr(getattr(cls.__init__, "__code__", None), "co_names", ()))  # type: ignore[misc]


def _check_bases(cls: type, users: UserCode) -> None:
    for base in cls.__mro__[:-1]:
        top = base.__module__.partition(".")[0]
        if vars(base).get("__slots__"):
            raise Refused("its objects have slots")
        if top not in sys.stdlib_module_names and not users.owns(base.__module__, file_of(base)):
            raise Refused(f"it is derived from {base.__module__}.{base.__qualname__}")


def file_of(cls: type) -> str | None:
    """The file that a class is defined in, as far as that is known."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if isinstance(file, str):
        return file
    codes = (getattr(plain(value), "__code__", None) for value in vars(cls).values())
    return next((str(code.co_filename) for code in codes if code is not None), None)


def _check_method(cls: type, fast: type[Layer], name: str) -> None:
    method = inspect.getattr_static(cls, name, None)
    if method is None:
        raise Refused(f"it has no {name}")
    if isinstance(method, (staticmethod, classmethod)) or not callable(method):
        raise Refused(f"its {name} is not a method of objects")
    theirs, ours = _arguments(method), _arguments(inspect.getattr_static(fast, name))
    if theirs is None or ours is None:  # compiled, or (*args)
        return
    needed = [p.name for p in theirs.values() if p.default is p.empty]
    wanted = [p.name for p in ours.values() if p.default is p.empty]
    if len(theirs) < len(wanted) or len(needed) > len(ours):
        raise Refused(f"its {name} takes ({', '.join(theirs)}), not ({', '.join(ours)})")
    if "eval" in ours and "eval" not in theirs and cls.__name__ not in LAYERS:
        raise Refused(f"its {name} takes no eval")  # which a block passes on
    # The first arguments are data, whatever they are called; later ones are known by their names.
    unknown = [p for p in list(theirs)[max(len(wanted), 1) :] if p not in ours]
    if unknown:
        raise Refused(f"its {name} takes {', '.join(unknown)}, which the compiled layer does not know")


def _arguments(method: Any) -> Mapping[str, inspect.Parameter] | None:
    """Of a method without its self; None where they are not known."""
    try:
        parameters = list(inspect.signature(method).parameters.values())[1:]
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}


def first_argument(method: Any) -> str | None:
    found = _arguments(method)
    return next(iter(found), None) if found else None


def _constructor(cls: type, fast: type[Layer]) -> tuple[Parameter, ...] | None:
    ours = own_parameters(fast)
    try:
        theirs = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):  # compiled without a signature: the course's is taken for granted
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in theirs):
        return None
    found = []
    for p in theirs:
        if p.kind is p.VAR_KEYWORD:
            continue
        meaning = meaning_of(p.name, ours)
        if meaning is None:
            if p.default is p.empty:
                raise Refused(f"its constructor needs {p.name}, which the compiled layer does not know")
            if p.name in NEUTRAL and p.default != NEUTRAL[p.name]:
                raise Refused(f"its constructor has {p.name}={p.default!r}, which the compiled layer has not")
        found.append(Parameter(p.name, meaning, p.default))
    given = {p.meaning for p in found}
    lacking = [name for name, p in ours.items() if p.default is p.empty and name not in given]
    if lacking and found:
        raise Refused(f"its constructor takes no {' and no '.join(lacking)}")
    # Without any parameter it is as good as unwritten.
    return tuple(found) if found or not lacking else None
