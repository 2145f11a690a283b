"""The first calls of a layer, run on the user's own class as well, and compared.

Both get equal state, equal arguments (copies) and the same random stream; both must leave the stream
in the same place, which is thus drawn from once. What is compared is what a program can see: outputs,
input gradients, parameter gradients and running statistics.

Two sums of the same products in another order differ by rounding alone. It is allowed to be
`TOLERANCE` times the larger of the result and of what went in: far above what rounding makes of
sums at the sizes of such models, far below what any other formula would.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .methods import Method
from .replace import Replacement, become, keep_parts
from .report import Entry
from .standin import replacement_of

CALLS = 2  # forwards, each with its backward, of every object
ENOUGH = 8  # such calls, after which further objects like these are taken for right
TOLERANCE = {8: 1e-9, 4: 1e-3, 2: 1e-2}  # by the bytes of the narrowest floating dtype in a call

_COMPARED = ("dLdW", "dLdb", "dW", "db", "dLdBW", "dLdBb", "running_M", "running_V")


class Mismatch(Exception):
    """The two computed different things; the message has the numbers."""


def different(replacement: Replacement, mismatch: Mismatch) -> str:
    return (
        f"{replacement.module}.{replacement.name} computes something else than "
        f"fastconv.{replacement.fast.__name__}, and stays as it is: {mismatch}"
    )


class Check:
    """What is still to be verified of one object.

    Parameters
    ----------
    entry : of the report, where the differences found are noted
    failed : told about a mismatch; the object has become the user's by then
    """

    enough: float = ENOUGH

    def __init__(
        self, replacement: Replacement, entry: Entry,
        failed: Callable[[Replacement, Mismatch], Any],
    ) -> None:
        self.replacement, self.entry, self.failed = replacement, entry, failed
        self.evaluates = "eval" in inspect.signature(replacement.fast.forward).parameters
        self.left = {False: CALLS, True: CALLS if self.evaluates else 0}  # training, evaluating
        self.twin: Any = None  # has seen the last forward, and waits for its backward
        self.input: Any = None
        self.kind: Any = None  # of the last forward: objects, and calls, that are alike in all but numbers

    def forward(self, layer: Any, method: Method, unchecked: Method, args: Any, kwargs: Any) -> Any:
        evaluating = self.evaluates and bool(kwargs.get("eval", args[1] if len(args) > 1 else False))
        waiting = self.twin if evaluating else None
        if not evaluating:
            self.twin = None
        if self.left[evaluating] == 0:
            if not any(self.left.values()):
                self._end(layer)
            return unchecked(layer, *args, **kwargs)
        self.left[evaluating] -= 1
        self.kind = evaluating, _kind(layer), _kind((args, kwargs))
        if self.replacement.agreed[self.kind] >= self.enough:
            return unchecked(layer, *args, **kwargs)
        self.twin = self.replacement.twin(layer) if waiting is None else copy.deepcopy(waiting)
        _own_arrays(self.twin)
        if not evaluating:
            self.input = next(iter((*args, *kwargs.values())), None)
        try:
            return self._both(layer, "forward", method, args, kwargs)
        finally:
            if evaluating:
                self.twin = waiting

    def backward(self, layer: Any, method: Method, unchecked: Method, args: Any, kwargs: Any) -> Any:
        if self.twin is None:
            return unchecked(layer, *args, **kwargs)
        _follow(self.twin, layer)
        return self._both(layer, "backward", method, args, kwargs)

    def _end(self, layer: Any) -> None:
        self.replacement.checks.pop(id(layer), None)

    def _both(self, layer: Any, name: str, method: Method, args: Any, kwargs: Any) -> Any:
        """Run a method on both. The result is the compiled one's, or the user's where they differ."""
        theirs = [_copied(value) for value in args]
        before = _stream()
        try:
            with self.replacement.own_name():
                wanted = getattr(self.twin, name)(*theirs, **kwargs)
        except NotImplementedError:
            wanted = None
        except Exception as error:
            self._errors_too(layer, name, method, args, kwargs, before, error)
            raise
        after = _stream()
        _set_stream(before)
        if wanted is None or wanted is NotImplemented:
            self.entry.note(f"not verified, {name} is unwritten")
            self._end(layer)
            return method(layer, *args, **kwargs)
        try:
            found = method(layer, *args, **kwargs)
            self._compare(layer, name, args, theirs, wanted, found)
            if _stream_text(_stream()) != _stream_text(after):
                raise Mismatch(f"{name} draws other random numbers")
        except Exception as error:
            _set_stream(after)
            if isinstance(error, TypeError) and self.replacement.own_class(layer) is not None:
                self._leave(layer, error)  # a dtype that the compiled layer will not take
            elif isinstance(error, Mismatch):
                self._give_up(layer, error)
            else:
                self._give_up(layer, Mismatch(f"{name} of the compiled layer: {error}"))
            return _as_called_with(args, theirs, wanted)
        self.entry.calls = (self.entry.calls or 0) + 1
        if name == "backward" or self.kind[0]:
            self.replacement.agreed[self.kind] += 1
        return found

    def _errors_too(
        self, layer: Any, name: str, method: Method, args: Any, kwargs: Any, before: Any,
        error: Exception,
    ) -> None:
        """Where the user's own raises an error, so must the compiled one, whatever its message."""
        after = _stream()
        _set_stream(before)
        try:
            method(layer, *args, **kwargs)
        except Exception:
            self.twin = None
            return
        finally:
            _set_stream(after)
        self._give_up(layer, Mismatch(f"{name} raises {type(error).__name__}, the compiled one does not"))

    def _give_up(self, layer: Any, mismatch: Mismatch) -> None:
        """The object becomes the user's own, as it is after the call."""
        if self.replacement.own_class(layer) is None:  # and about to be derived from the user's own again
            self.failed(self.replacement, mismatch)
            self._become_own(layer)
        else:
            self._become_own(layer)
            self.failed(self.replacement, mismatch)

    def _leave(self, layer: Any, error: Exception) -> None:
        """The object alone becomes the user's own, as it would without verification."""
        self._become_own(layer)
        if self.replacement.refused is None:
            self.entry.note(f"not verified: {error}")
        else:
            self.replacement.refused(self.replacement, str(error))

    def _become_own(self, layer: Any) -> None:
        self._end(layer)
        keep_parts(layer, self.twin)
        become(layer, self.replacement.own_class(layer) or type(layer), vars(self.twin))
        self.twin = None

    def _compare(self, layer: Any, name: str, args: Any, theirs: Any, wanted: Any, found: Any) -> None:
        for given, seen in zip(args, theirs):
            if _changed(given, seen):
                raise Mismatch(f"{name} changes its argument in place")
        scale = _scale(*args)
        if name == "backward":
            scale *= max(1.0, _scale(self.input))
        tolerance = _tolerance(*args, self.input, wanted, found)
        self._close(f"{name}'s result", wanted, found, scale, tolerance)
        for what, a, b in _pairs(self.twin, layer):
            self._close(what, a, b, scale, tolerance)

    def _close(self, what: str, wanted: Any, found: Any, scale: float, tolerance: float) -> None:
        wanted, found = np.asarray(wanted), np.asarray(found)
        if wanted.shape != found.shape:
            raise Mismatch(f"{what} has shape {wanted.shape}, compiled {found.shape}")
        if wanted.dtype.kind not in "biuf":
            raise Mismatch(f"{what} is of dtype {wanted.dtype}, compiled {found.dtype}")
        with np.errstate(all="ignore"):
            same = (wanted == found) | ((wanted != wanted) & (found != found))
            off = np.where(same, 0.0, np.abs(np.subtract(wanted, found, dtype=float)))
        allowed = tolerance * max(scale, _scale(wanted))
        largest = float(off.max(initial=0.0))
        if not largest <= allowed:  # NaN, too
            raise Mismatch(f"{what} differs by up to {largest:.2g}, {allowed:.1g} is allowed")
        share = largest / allowed if allowed else 0.0
        self.entry.differences[what] = max(share, self.entry.differences.get(what, 0.0))


def _pairs(twin: Any, layer: Any, seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, Any, Any]]:
    """What backward and forward leave behind, in both, here and in the layers inside."""
    seen |= {id(layer)}
    for name in _COMPARED:
        a = vars(twin).get(name)
        if isinstance(a, np.ndarray):
            yield name, a, getattr(layer, name)
    for name, value, other in _inside(layer, twin, seen):
        yield from ((f"{name}.{what}", a, b) for what, a, b in _pairs(other, value, seen))


def _inside(layer: Any, twin: Any, seen: frozenset[int]) -> Iterator[tuple[str, Any, Any]]:
    """The layers with gradients inside of one, with those inside of its twin."""
    for name, value in vars(layer).items():
        other = vars(twin).get(name)
        if (
            id(value) not in seen and other is not value and hasattr(other, "__dict__")
            and (replacement_of(type(value)) is not None or hasattr(other, "dLdW"))
        ):
            yield name, value, other


def _own_arrays(twin: Any, seen: frozenset[int] = frozenset()) -> None:
    """Gradients and statistics of its own, for user code writes into them."""
    seen |= {id(twin)}
    for name, value in vars(twin).items():
        if name in _COMPARED and isinstance(value, np.ndarray):
            vars(twin)[name] = value.copy()
        elif hasattr(value, "dLdW") and hasattr(value, "__dict__") and id(value) not in seen:
            _own_arrays(value, seen)


def _follow(twin: Any, layer: Any, seen: frozenset[int] = frozenset()) -> None:
    """Bring a twin up to parameters and gradients that were assigned since the forward."""
    seen |= {id(layer)}
    for name in ("W", "b", "BW", "Bb", *_COMPARED):
        value = getattr(layer, name, None) if name in vars(twin) else None
        if isinstance(value, np.ndarray):
            vars(twin)[name] = value.copy() if name in _COMPARED else value
    for _, value, other in _inside(layer, twin, seen):
        _follow(other, value, seen)


def _kind(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """All of an object but the numbers in its arrays, hashable."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str
    if value is None or isinstance(value, (int, float, str)):
        return value
    if id(value) in seen:
        return None
    seen |= {id(value)}
    if isinstance(value, (tuple, list)):
        return tuple(_kind(item, seen) for item in value)
    items = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return type(value), *((name, _kind(item, seen)) for name, item in items.items())


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _as_called_with(args: Any, copies: Any, result: Any) -> Any:
    """Do to the arguments what was done to their copies; the result may be one of them."""
    for given, copied in zip(args, copies):
        if _changed(given, copied):
            np.copyto(given, copied)
        if result is copied:
            result = given
    return result


def _changed(given: Any, copied: Any) -> bool:
    return isinstance(given, np.ndarray) and given.tobytes() != copied.tobytes()


def _tolerance(*arrays: Any) -> float:
    floats = [a.dtype.itemsize for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    return TOLERANCE[min([*floats, 8])]


def _scale(*arrays: Any) -> float:
    largest = 0.0
    for a in arrays:
        if isinstance(a, np.ndarray) and a.dtype.kind in "biuf" and a.size:
            finite = np.abs(a[np.isfinite(a)].astype(float))
            largest = max(largest, float(finite.max(initial=0.0)))
    return largest


def _stream() -> Any:
    return np.random.get_state(), random.getstate()


def _set_stream(state: Any) -> None:
    np.random.set_state(state[0])
    random.setstate(state[1])


def _stream_text(state: Any) -> Any:
    numpy, python = state
    return numpy[0], numpy[1].tobytes(), numpy[2:], python
