"""From calls to rows: each layer's forward and backward, with times, rates and limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import backend
from ..bench.machine import Machine
from .counts import Work, work
from .hooks import METHODS, Call
from .limits import limit


@dataclass
class Times:
    """Seconds of one row on one backend.

    Attributes
    ----------
    calls : int
        In a recording all, in a comparison those of one step.
    total, own : float
        Of all these calls, with and without the layers called inside. (Comparison: medians.)
    median, low, high : float
        And quartiles, of `samples` times: of a call in a recording, of a step's calls in a comparison.
    samples : int
    """

    calls: int
    total: float
    own: float
    median: float
    low: float
    high: float
    samples: int

@dataclass
class Row:
    """One layer, forward or backward.

    Attributes
    ----------
    path, layer : str
        Where it is, and its class.
    pass_ : "forward" or "backward"
    parent : int or None
        Index of the row inside which it was called.
    depth : int
        Of the tree of calls.
    time : Times
        In a comparison, of the compiled kernels.
    share : float
        Of `time.own` in the own times of all rows: they add up to 1.
    backend, isa : str or None
    dtype : str or None
        Of the results.
    given, result : list of int or None
        Shapes of the first argument and of the result, where most calls had them.
    shapes : int
        How many different ones there were.
    operations, bytes : int or None
        Of all calls, with the layers inside. None where a layer is not known (see `counts.py`).
    gflops, gbs, intensity : float or None
        Operations and bytes a second in 1e9, of median calls, and operations a byte.
    bound : "arithmetic", "memory" or None
        Which limit of the machine is nearer at this intensity; for layers made of others None.
    limit : float or None
        How much of that limit was reached: the shortest time possible over the time taken.
    file, line : str, int
        Of the method that ran.
    problem : str or None
        What ``fastconv bench --problem`` takes to measure it alone.
    pure : Times or None
        Comparison: of the pure kernels; None if their time ran out before.
    speedup : float or None
    differences : dict of name to [float, float]
        Comparison: between the results of both, absolute and over the largest number of the pure one:
        "output" or "dLdA", and gradients of parameters by name.
    """

    path: str
    layer: str
    pass_: str
    parent: int | None
    depth: int
    time: Times
    share: float
    backend: str
    isa: str | None
    dtype: str | None
    given: list[int] | None
    result: list[int] | None
    shapes: int
    file: str = "~"
    line: int = 0
    operations: int | None = None
    bytes: int | None = None
    gflops: float | None = None
    gbs: float | None = None
    intensity: float | None = None
    bound: str | None = None
    limit: float | None = None
    problem: str | None = None
    pure: Times | None = None
    speedup: float | None = None
    differences: dict[str, list[float]] = field(default_factory=dict)

    @property
    def difference(self) -> float | None:
        """The largest of `differences` in proportion to the largest number."""
        return max((relative for _, relative in self.differences.values()), default=None)


Key = tuple[Any, ...]


def key_of(call: Call) -> Key:
    """What the calls of one row have in common."""
    return call.place, call.backward, *(call.around[:2] if call.around else (None, None))


@dataclass
class Rows:
    """Rows in the order of the first calls, a row before those inside it, and the key of each."""

    rows: list[Row]
    index: dict[Key, int]


def rows_of(
    runs: Sequence[Sequence[Call]], machine: Machine, threads: int, steps: bool = False, name: str = ""
) -> Rows:
    """Rows of the calls of some runs, in order; with `steps` each run is one sample, else each call is."""
    groups: dict[Key, list[tuple[int, Call]]] = {}
    for run, calls in enumerate(runs):
        for call in calls:
            groups.setdefault((name or call.backend, *key_of(call)), []).append((run, call))
    index = {key: i for i, key in enumerate(groups)}
    inside = {key[:3]: i for key, i in reversed(index.items())}
    rows: list[Row] = []
    ideals: list[float | None] = []
    for key, members in groups.items():
        calls = [call for _, call in members]
        parent = inside.get((key[0], *key[3:]))
        depth = 0 if parent is None or parent >= len(rows) else rows[parent].depth + 1
        time = _step_times(members) if steps else _call_times(calls)
        rows.append(_row(calls, key[0], parent if depth else None, depth, time))
        ideals.append(_count(rows[-1], calls, machine, threads, len(members) / time.calls))
    _add_up(rows, ideals, steps)
    total = sum(row.time.own for row in rows)
    for row in rows:
        row.share = row.time.own / total if total else 0.0
    return Rows(rows, {key[1:] if steps else key: i for key, i in index.items()})


def _call_times(calls: Sequence[Call]) -> Times:
    taken = np.array([call.took for call in calls]) / 1e9
    own = sum(call.took - call.inner for call in calls) / 1e9
    return _times(len(calls), float(taken.sum()), own, taken)


def _step_times(members: Sequence[tuple[int, Call]]) -> Times:
    total: Counter[int] = Counter()
    own: Counter[int] = Counter()
    for run, call in members:
        total[run] += call.took
        own[run] += call.took - call.inner
    taken = np.array(list(total.values())) / 1e9
    return _times(
        len(members) // len(total), float(np.median(taken)), float(np.median(list(own.values()))) / 1e9, taken
    )


def _times(calls: int, total: float, own: float, samples: Any) -> Times:
    low, median, high = np.percentile(samples, (25, 50, 75))
    return Times(calls, total, own, float(median), float(low), float(high), len(samples))


def _row(calls: Sequence[Call], name: str, parent: int | None, depth: int, time: Times) -> Row:
    place, backward = calls[0].place, calls[0].backward
    shapes = Counter((call.given, call.result, call.dtype) for call in calls if call.done)
    given, result, dtype = shapes.most_common(1)[0][0] if shapes else (None, None, None)
    return Row(
        place.path, place.layer, METHODS[backward], parent, depth, time, 0.0, name,
        backend.ISA if name == "compiled" else None,
        None if dtype is None else str(dtype), _sizes(given), _sizes(result), len(shapes),
        *place.source[METHODS[backward]],
    )  # fmt: skip


def _sizes(shape: Any) -> list[int] | None:
    return [int(n) for n in shape] if isinstance(shape, tuple) else None


def _count(row: Row, calls: Sequence[Call], machine: Machine, threads: int, times: float) -> float | None:
    """Fill in what can be counted of a layer; returns the shortest time for all calls of the row."""
    operations = moved = 0
    shortest = {"arithmetic": 0.0, "memory": 0.0}
    done: Work | None = None
    for call in calls:
        done = _work(call)
        if done is None:
            return None
        operations, moved = operations + done.operations, moved + done.bytes
        nearer = limit(machine, str(call.dtype), threads, done.operations, done.bytes)
        shortest[nearer.by] += nearer.seconds
    row.operations, row.bytes = round(operations / times), round(moved / times)
    row.problem = done.problem if done is not None and row.shapes == 1 else None
    if moved:
        row.bound = max(shortest, key=lambda name: shortest[name])
    return sum(shortest.values()) / times


def _work(call: Call) -> Work | None:
    if call.place.kind is None or not call.done:
        return None
    if call.same:  # dropout in evaluation, say
        return Work(0, 0, None)
    dtype = call.dtype
    if str(dtype) not in ("float32", "float64"):
        return None
    return work(call.place.kind, call.backward, call.given or (), call.result or (), dtype.itemsize)


def _add_up(rows: list[Row], ideals: list[float | None], steps: bool) -> None:
    """Layers made of others: what these count. Then rates."""
    inner: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if row.parent is not None:
            inner.setdefault(row.parent, []).append(i)
    for i in reversed(range(len(rows))):
        row, members = rows[i], inner.get(i, [])
        parts = [ideals[m] for m in members]
        if row.operations is None and members and None not in parts:
            ideals[i] = sum(part for part in parts if part is not None)
            row.operations = sum(rows[m].operations or 0 for m in members)
            row.bytes = sum(rows[m].bytes or 0 for m in members)
        ideal, seconds = ideals[i], row.time.total
        if not steps and row.shapes == 1:  # calls that waited for memory or for another process do not count
            seconds = row.time.median * row.time.calls
        if row.bytes and seconds and ideal is not None:
            row.gflops = (row.operations or 0) / seconds / 1e9
            row.gbs = row.bytes / seconds / 1e9
            row.intensity = (row.operations or 0) / row.bytes
            row.limit = ideal / seconds
