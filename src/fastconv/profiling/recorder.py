"""``with fastconv.record() as prof``: every call of a layer in the block."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from time import perf_counter_ns
from types import TracebackType
from typing import Any

from .. import backend
from ..config import config
from . import hooks
from .hooks import Call, Tap
from .limits import machine
from .others import others, usage
from .report import Report, Shown
from .rows import key_of, rows_of


class record(Shown):
    """Record every call of a layer while the block runs, in all threads::

        with fastconv.record() as prof:
            for images, labels in batches:
                step(images, labels)
        print(prof)
        prof.to_html("profile.html")

    Layers of this package count, those swapped in, and the program's own classes with `forward` and
    `backward`; of the latter only times are known. Recordings may be nested, and overlap in threads:
    each has the calls that began and ended within it.

    Parameters
    ----------
    model : optional
        Whose layers' paths should begin at it. Without it they begin at the outermost layer that calls
        them, or at the object or variable that holds it.

    Attributes
    ----------
    rows : list of Row
        Once the block has ended.
    report : Report
        All of it. The first access measures the machine, for 0.3 s.
    logs : list of (str, list of Call)
        What it is made of: the calls of each thread.
    others : float or None
        How many processors other programs took from this one's threads.
    """

    def __init__(self, model: Any = None, title: str = "recording") -> None:
        self.model, self.title = model, title
        self._report: Report | None = None

    def __enter__(self) -> record:
        self._session = hooks.start()
        if self.model is not None:
            self._session.add_root(self.model)
        self._threads = backend.get_num_threads()
        self._report = None
        self._usage = usage()
        self._start = perf_counter_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = perf_counter_ns()
        hooks.stop()
        self.logs = [(log.name, self._within(log.calls.copy())) for log in self._session.logs]
        del self._session
        self.others = others(self._usage, usage(), self._threads)

    def _within(self, notes: list[Any]) -> list[Call]:
        """Of a thread's notes those of this recording: nested ones share the notes of the outermost."""
        calls: list[Call] = []
        size = len(Call._fields)
        for at in range(len(notes) - size, -1, -size):  # they are in the order of their ends
            call = Call._make(notes[at : at + size])
            if call.end < self._start:
                break
            if call.start >= self._start and call.end <= self._stop:
                calls.append(call)
        return sorted(calls, key=lambda call: call.start)

    @property
    def tap(self) -> Tap | None:
        """A function that gets every result while this and others record."""
        return self._session.tap

    @tap.setter
    def tap(self, tap: Tap | None) -> None:
        self._session.tap = tap

    @property
    def report(self) -> Report:
        if self._report is None:
            self._report = self._made()
        return self._report

    def _made(self) -> Report:
        if not hasattr(self, "logs"):
            raise RuntimeError("the recording has not ended: its results are there after the with block")
        logs = [(name, calls) for name, calls in self.logs if calls]
        runs = [calls for _, calls in logs]
        limits = machine(dtypes_of(runs), self._threads)
        found = rows_of(runs, limits, self._threads)
        first = min((call.start for calls in runs for call in calls), default=0)
        return Report(
            kind="recording",
            title=self.title,
            date=now(),
            fastconv=config(),
            machine=limits,
            threads=self._threads,
            seconds=(self._stop - self._start) / 1e9,
            rows=found.rows,
            calls=[
                (found.index[(call.backend, *key_of(call))], *in_microseconds(call, first), i, call.backend)
                for i, calls in enumerate(runs)
                for call in calls
            ],
            threads_seen=[name for name, _ in logs],
            others=self.others,
        )


def in_microseconds(call: Call, first: int) -> tuple[float, float]:
    """Start, counted from a first one, and duration."""
    return (call.start - first) / 1e3, (call.end - call.start) / 1e3


def dtypes_of(runs: Sequence[Sequence[Call]]) -> tuple[str, ...]:
    """The dtypes that limits are wanted for."""
    seen = {str(call.dtype) for calls in runs for call in calls}
    return tuple(sorted(seen & {"float32", "float64"})) or ("float64",)


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


