"""A user's class and the one in its place (`standin`): objects made, taken over and given back.

Constructing one runs the user's own constructor, which draws the same random numbers as ever, and
takes over what it has made. An object can at any time become one of the user's own class again, in
place: nobody who refers to it needs to be told.
"""

from __future__ import annotations

import inspect
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..nn.conv import ConvOuter, ConvStride1
from .catalogue import OLDER_GRADIENTS, own_parameters
from .methods import catch_up
from .pending import add_pending
from .recognise import Recognised, Refused
from .source import plain
from .standin import DERIVED, OF_INNER, empty, how_to_keep, make_class, private_names, replacement_of
from .state import Sizes, State, Unwritten, attributes, sizes_of, taken_over

# Functions of ours that may be called while the name of a class means the user's own again.
_names_lock = threading.RLock()


class Replacement:
    """A user's class and the compiled one in its place.

    Parameters
    ----------
    recognised : what `recognise` found
    check : makes what verifies an object's first calls, or None
    refused : told when an object is left to the user's class, and why

    Attributes
    ----------
    original, fast, cls : the user's class, ours, and the one in its place
    methods : forward and backward of `cls`
    objects : how many have been made compiled
    checks : what verifies an object's calls, by its id
    answers : which attributes of a layer inside the user's objects have themselves
    retired : the reason why the user's own class is used again, or None
    """

    def __init__(
        self, recognised: Recognised, *,
        check: Callable[[Replacement], Any] | None = None,
        refused: Callable[[Replacement, str], None] | None = None,
    ) -> None:
        self.recognised = recognised
        self.original, self.fast = recognised.original, recognised.fast
        self.check, self.refused = check, refused
        self.objects = 0
        self.checks: dict[int, Any] = {}
        self.answers: frozenset[str] = frozenset(OF_INNER)
        self.methods: dict[str, Callable[..., Any]] = {}
        self.retired: str | None = None
        # Objects of classes that users derive from `cls`, by id: they need not be hashable.
        self.derived = weakref.WeakValueDictionary[int, Any]()
        self.cls: type[Any] = make_class(self)
        self.in_place = _exchangeable(self.cls, self.original)
        self._signature = inspect.signature(self.fast if recognised.parameters is None else self.original)
        self._by_own_name = _mentions_itself(self.original)

    @property
    def name(self) -> str:
        return self.original.__name__

    @property
    def module(self) -> str:
        return self.original.__module__

    # ---- making objects --------------------------------------------------------------------------

    def construct(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What the constructor of the class does."""
        made = self._users_own(layer, args, kwargs) if self.in_place else None
        if self.retired and made is layer:  # somebody has kept the class
            return
        try:
            sizes, functions = self._arguments(args, kwargs)
            self._fill(layer, {} if made is None else attributes(made), sizes, functions)
        except Refused as reason:
            self._leave(layer, made, str(reason))
            return
        self.objects += 1
        if self.check is not None:
            self.watch(layer, self.check(self))
        if type(layer) is not self.cls:
            self.derived[id(layer)] = layer

    def _users_own(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The object, made by the user's class; or None if its constructor is unwritten.

        For a class that is derived from ours it is another object: there, ours is in the way.
        """
        stream = np.random.get_state()
        constructor: Any = self.original.__init__  # type: ignore[misc]
        try:
            with self.own_name():
                if type(layer) is not self.cls:
                    return self.original(*args, **kwargs)
                change_class(layer, self.original)
                constructor(layer, *args, **kwargs)
                return layer
        except NotImplementedError:
            np.random.set_state(stream)
            layer.__dict__.clear()
            if type(layer) is self.original:
                change_class(layer, self.cls)
            return None

    def _fill(self, layer: Any, theirs: State, sizes: Sizes, functions: Sizes) -> None:
        try:
            state = taken_over(self.fast, theirs, sizes, self.recognised.older_gradients)
        except Unwritten:
            try:
                state = vars(self.fast(**sizes, **functions))
            except (TypeError, ValueError) as error:
                raise Refused(str(error)) from None
            state |= {k: v for k, v in theirs.items() if k not in state and not hasattr(self.fast, k)}
            self.answers = frozenset(OF_INNER)
        else:
            self.answers = self.answered(theirs)
        if type(layer) is self.original:
            change_class(layer, self.cls)
        layer.__dict__.clear()
        layer.__dict__.update(state)

    def answered(self, theirs: State) -> frozenset[str]:
        return frozenset(name for name in OF_INNER if name in theirs or hasattr(self.original, name))

    def watch(self, layer: Any, check: Any) -> None:
        """Have an object's calls verified."""
        if check is not None:
            self.checks[id(layer)] = check
            weakref.finalize(layer, self.checks.pop, id(layer), None).atexit = False

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Sizes, Sizes]:
        """A call's arguments by our names: sizes, and init functions. Raises `Refused`."""
        parameters = self.recognised.parameters
        try:
            call = self._signature.bind(*args, **kwargs)
        except (TypeError, ValueError) as error:
            raise Refused(f"its constructor was called in a way that is not the course's: {error}") from None
        if parameters is None:
            names = own_parameters(self.fast).keys() & call.arguments.keys()
            given = {name: call.arguments[name] for name in names}
        else:
            call.apply_defaults()
            given = {}
            for p in parameters:
                value = call.arguments[p.name]
                if p.meaning is not None:
                    given[p.meaning] = value
                elif value is not p.default and value != p.default:
                    raise Refused(f"{p.name}={value!r:.40} was asked for, which the compiled layer has not")
        functions = {name: given.pop(name) for name in list(given) if name.endswith("_init_fn")}
        return given, functions

    def _leave(self, layer: Any, made: Any, reason: str) -> None:
        """Let an object that cannot be compiled be one of the user's own class."""
        if self.refused is not None:
            self.refused(self, reason)
        if made is None or not self.in_place:
            raise TypeError(
                f"fastconv cannot make {self.module}.{self.name}: {reason}. {how_to_keep(self)}"
            )
        if made is not layer:
            self.rebase()
        if made is not layer:
            become(layer, type(layer), attributes(made))

    def take_over(self, layer: Any) -> str | None:
        """Make a live object of the user's class a compiled one, in place. Returns what is lost.

        Raises `Refused`, and then has changed nothing.
        """
        if not self.in_place:
            raise Refused("objects of its class cannot change their class")
        theirs = attributes(layer)
        try:
            older = self.recognised.older_gradients
            state = taken_over(self.fast, theirs, sizes_of(self.fast, theirs), older)
            lost = add_pending(self.fast, state, theirs)
        except Unwritten:
            raise Refused("its constructor is unwritten") from None
        self.answers = self.answered(theirs)
        cls = self.cls if type(layer) is self.original else self._derived_class(type(layer))
        become(layer, cls, state)
        return lost

    def _derived_class(self, theirs: type) -> type:
        """For a user's class that is itself derived from the original one."""
        namespace = {"__module__": theirs.__module__, "__qualname__": theirs.__qualname__, DERIVED: theirs}
        return types.new_class(theirs.__name__, (theirs, self.cls), exec_body=lambda ns: ns.update(namespace))

    def instead(self, layer: Any, name: str, args: Any, kwargs: Any, error: Exception) -> Any:
        """The user's own method, where the compiled one has raised an error.

        If it raises one, too, that is what the program gets. If not, the object is the user's own
        from here on.
        """
        if type(layer) is not self.cls or self.recognised.unwritten:
            raise error
        own = empty(self.original)
        own.__dict__.update(
            self._given_back(layer) if name == "backward" else vars(self.twin(layer, deep=False))
        )
        with self.own_name():
            result = getattr(own, name)(*args, **kwargs)
        become(layer, self.original, vars(own))
        if self.refused is not None:
            self.refused(self, str(error))
        return result

    # ---- back to the user's own ------------------------------------------------------------------

    def twin(self, layer: Any, deep: bool = True, memo: dict[int, Any] | None = None) -> Any:
        """An object of the user's own class in the state of a compiled one, sharing its arrays.

        Compiled layers inside are twins, too, or with ``deep=False`` the layers themselves.
        """
        memo = {} if memo is None else memo
        if id(layer) in memo:
            return memo[id(layer)]
        twin = memo[id(layer)] = empty(self.original)
        catch_up(layer)
        private = private_names(self.fast) | {"forward", "backward"}
        for name, value in vars(layer).items():
            if name not in private:
                part = replacement_of(type(value)) if deep else None
                whole = part is not None and type(value) is part.cls
                vars(twin)[name] = part.twin(value, memo=memo) if part is not None and whole else value
        if issubclass(self.fast, ConvOuter) and type(layer.inner).__module__.startswith("fastconv."):
            # The user's class has no inner layer: it holds the parameters itself.
            vars(twin).update({name: getattr(layer.inner, name) for name in ConvStride1.parameter_names})
        if self.recognised.older_gradients:
            for older, name in OLDER_GRADIENTS.items():
                vars(twin)[older] = getattr(layer, older)
                vars(twin).pop(name, None)
        return twin

    def rebase(self) -> None:
        """Classes derived from the compiled class are derived from the user's own again."""
        derived = [cls for cls in self.cls.__subclasses__() if DERIVED not in vars(cls)]
        objects = [layer for layer in self.derived.values() if isinstance(layer, tuple(derived))]
        states = [self._given_back(layer) for layer in objects]
        for cls in derived:
            cls.__bases__ = tuple(self.original if base is self.cls else base for base in cls.__bases__)
        for layer, state in zip(objects, states):
            become(layer, type(layer), state)

    def own_class(self, layer: Any) -> type | None:
        """The user's class of an object, or None if it is derived from the compiled one."""
        cls = type(layer)
        derived: type | None = vars(cls).get(DERIVED)
        return self.original if cls is self.cls else derived

    def give_back(self, layer: Any) -> None:
        """Make a compiled object one of the user's own class, in place, ready for its backward."""
        cls = self.own_class(layer)
        if cls is not None:
            become(layer, cls, self._given_back(layer))

    def _given_back(self, layer: Any) -> State:
        """The user's state of an object, after its forward has seen the same input again."""
        twin = self.twin(layer, deep=False)
        seen = _seen(layer)
        if seen is None or self.recognised.unwritten:
            return dict(vars(twin))
        kept = {k: np.copy(v) for k, v in vars(twin).items() if k in ("running_M", "running_V")}
        stream = np.random.get_state()
        with self.own_name():
            twin.forward(seen)
        np.random.set_state(stream)
        vars(twin).update(kept)
        drawn = vars(twin).get("mask")
        if isinstance(drawn, np.ndarray) and vars(layer).get("mask") is not None:
            scale = drawn.max(initial=1)  # some revisions keep the mask scaled
            twin.mask = np.broadcast_to(layer.mask, drawn.shape) * scale
        state: State = vars(twin)
        return state

    @contextmanager
    def own_name(self) -> Iterator[None]:
        """For ``super(Conv2d, self)`` in the user's class: the name means that class here."""
        module = _module_globals(self.original) if self._by_own_name else None
        if module is None or module.get(self.name) is not self.cls:
            yield
            return
        with _names_lock:
            module[self.name] = self.original
            try:
                yield
            finally:
                module[self.name] = self.cls


def become(layer: Any, cls: type, state: State) -> None:
    patched = {name: vars(layer)[name] for name in ("forward", "backward") if name in vars(layer)}
    change_class(layer, cls)
    layer.__dict__.clear()
    layer.__dict__.update(state, **patched)


def change_class(layer: Any, cls: type) -> None:
    """Past a ``__setattr__`` that the user's class may have."""
    object.__setattr__(layer, "__class__", cls)


def _seen(layer: Any) -> Any:
    """The input of a layer's last forward, or one of its shape."""
    state = vars(layer)
    for name in ("A", "Z"):
        if state.get(name) is not None:
            return state[name]
    shape = state.get("_shape") or state.get("A_shape")
    return None if shape is None or shape[0] is None else np.broadcast_to(0.0, shape)


def keep_parts(layer: Any, twin: Any) -> None:
    """Objects inside a layer stay the same objects, in the state of those inside the twin."""
    for name, value in vars(layer).items():
        part = replacement_of(type(value))
        other = vars(twin).get(name)
        if other is twin:
            vars(twin)[name] = layer
        elif part is not None and type(other) is part.original and type(value) is part.cls:
            keep_parts(value, other)
            become(value, part.original, vars(other))
            vars(twin)[name] = value


def _exchangeable(cls: type, original: type) -> bool:
    """Whether an object of one class can become one of the other."""
    if not issubclass(cls, original):
        return False
    try:
        object.__new__(cls).__class__ = original
    except TypeError:
        return False
    return True


def _mentions_itself(original: type) -> bool:
    """Whether a method names its own class, as ``super(Conv2d, self)`` does."""
    codes = [getattr(plain(value), "__code__", None) for value in vars(original).values()]
    return any(
        code is not None and original.__name__ in code.co_names and "super" in code.co_names for code in codes
    )


def _module_globals(original: type) -> dict[str, Any] | None:
    function = next((f for f in vars(original).values() if hasattr(f, "__globals__")), None)
    return None if function is None else function.__globals__
