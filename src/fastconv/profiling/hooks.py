"""While something records, `forward` and `backward` of the layers' classes note their calls.

The methods are exchanged in the classes when the first recorder starts, and put back when the last one
stops: a program that records nothing runs what it always ran. Exchanged are those of all subclasses of
`Layer` and of the program's own classes that have both methods, there already or made meanwhile.

A call is noted in a list of its thread. What it means (paths, operations, bytes) is worked out after the
recording.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from types import FunctionType
from typing import Any, NamedTuple

from ..backend import get_backend
from ..nn import Layer
from ..swapping import building, standin
from ..swapping.recognise import file_of
from ..swapping.source import NOTING
from .graph import walk
from .places import PROGRAM, Place, Places

METHODS = ("forward", "backward")
# Called with each result as soon as it is there, outside of what is timed.
Tap = Callable[[Place, bool, Any, Any], None]


class Call(NamedTuple):
    """One call of a layer.

    Attributes
    ----------
    place : Place
    backward : bool
    start, end : int
        Nanoseconds of `time.perf_counter_ns`.
    took : int
        From start to end, without the recorder's own work on layers that were new.
    inner : int
        Of `took`, the part spent in calls of other layers.
    around : list or None
        Of the call that this one came from: [place, backward, ...].
    given, result : tuple or None
        Shapes of the first argument and of the result, if these are arrays.
    dtype : numpy.dtype or None
        Of the result.
    backend : str
    done, same : bool
        It did not raise; it returned its first argument itself.
    """

    place: Place
    backward: bool
    start: int
    end: int
    took: int
    inner: int
    around: list[Any] | None
    given: tuple[int, ...] | None
    result: tuple[int, ...] | None
    dtype: Any
    backend: str
    done: bool
    same: bool


class Log:
    """The calls of one thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        # The fields of each `Call`, one call after the other: a tuple for each call would be more work for
        # the collector of garbage than noting it.
        self.calls: list[Any] = []
        self.stack: list[list[Any]] = []
        self.lost = 0  # nanoseconds that the recorder took for itself


class Session:
    """All that is noted between the start of the first recorder and the stop of the last."""

    def __init__(self) -> None:
        self.here = threading.local()
        self.logs: list[Log] = []
        self.places = Places()
        self.tap: Tap | None = None
        self.exchanged: list[tuple[type, str, Any, Any]] = []
        self.on = True

    def enter_thread(self) -> Log:
        log = self.here.log = Log(threading.current_thread().name)
        self.logs.append(log)
        return log

    def start(self) -> None:
        for cls in _present():
            self.meet(cls)
        session = self

        def made(cls: type[Layer], /, **kwargs: Any) -> None:
            super(Layer, cls).__init_subclass__(**kwargs)
            session.exchange(cls)

        Layer.__init_subclass__ = classmethod(made)  # type: ignore[assignment]
        standin.watchers.append(self.exchange)
        building.listen(self.built)

    def add_root(self, model: Any) -> None:
        """A model to look for layers in; the classes of what it holds count, wherever they come from."""
        self.places.roots.append(model)
        for _, item in walk(model):
            for cls in type(item).__mro__:
                if isinstance(vars(cls).get("forward"), FunctionType) and cls is not Layer:
                    self.exchange(cls)

    def stop(self) -> None:
        self.on = False
        building.unlisten(self.built)
        standin.watchers.remove(self.exchange)
        del Layer.__init_subclass__
        for cls, name, original, noting in reversed(self.exchanged):
            if vars(cls).get(name) is noting:  # else the program has put another one there
                type.__setattr__(cls, name, original)

    def built(self, cls: type, body: Any, frame: Any) -> type:
        self.meet(cls)
        return cls

    def meet(self, cls: type) -> None:
        """Exchange the methods of a class that counts."""
        if issubclass(cls, Layer) or (_both(cls) and PROGRAM.owns(cls.__module__, file_of(cls))):
            self.exchange(cls)

    def exchange(self, cls: type) -> None:
        for name in METHODS:
            original = vars(cls).get(name)
            if isinstance(original, FunctionType) and getattr(original, NOTING, None) is not self:
                noting = self.noting(original, name == "backward")
                type.__setattr__(cls, name, noting)
                self.exchanged.append((cls, name, original, noting))

    def noting(self, original: Callable[..., Any], backward: bool) -> Callable[..., Any]:
        """`original`, with a note of each call: on the path of every call, so it counts nanoseconds."""
        here, known, session = self.here, self.places.known, self
        clock, backend = perf_counter_ns, get_backend

        @functools.wraps(original)
        def method(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if not session.on:  # somebody has kept the method
                return original(layer, *args, **kwargs)
            try:
                log = here.log
            except AttributeError:
                log = session.enter_thread()
            stack = log.stack
            place, reference = known.get(id(layer), _UNKNOWN)
            if place is None or reference() is not layer:
                began = clock()
                place = session.places.meet(layer, stack, sys._getframe(1))
                log.lost += clock() - began
            around = stack[-1] if stack else None
            if around is not None and around[3] is layer and around[1] is backward:
                return original(layer, *args, **kwargs)  # super().forward(...): the same call
            frame = [place, backward, 0, layer]
            stack.append(frame)
            done, result, lost, start = False, None, log.lost, clock()
            try:
                result = original(layer, *args, **kwargs)
                done = True
                return result
            finally:
                end = clock()
                took = end - start - log.lost + lost
                stack.pop()
                frame[3] = None  # the note must not keep the layer alive
                if around is not None:
                    around[2] += took
                log.calls.extend((
                    place, backward, start, end, took, frame[2], around,
                    getattr(args[0], "shape", None) if args else None,
                    getattr(result, "shape", None), getattr(result, "dtype", None), backend(), done,
                    bool(args) and result is args[0],
                ))  # fmt: skip
                if session.tap is not None:
                    began = clock()
                    session.tap(place, backward, layer, result if done else None)
                    log.lost += clock() - began

        setattr(method, NOTING, self)
        return method


_UNKNOWN: tuple[Any, Any] = (None, None)
_lock = threading.RLock()
_session: Session | None = None
_recorders = 0


def start() -> Session:
    """A recorder begins; all that record at a time share one session."""
    global _session, _recorders
    with _lock:
        if _session is None:
            _session = Session()
            _session.start()
        _recorders += 1
        return _session


def stop() -> None:
    global _session, _recorders
    with _lock:
        _recorders -= 1
        if _recorders == 0 and _session is not None:
            _session.stop()
            _session = None


def _present() -> Iterator[type]:
    """All classes of the process that define one of the methods, also those that no module names."""
    waiting, seen = [object], {id(object)}
    while waiting:
        for cls in type.__subclasses__(waiting.pop()):
            if id(cls) not in seen:
                seen.add(id(cls))
                waiting.append(cls)
                if not type.__getattribute__(cls, "__dict__").keys().isdisjoint(METHODS):
                    yield cls


def _both(cls: type) -> bool:
    return all(isinstance(getattr(cls, name, None), FunctionType) for name in METHODS)
