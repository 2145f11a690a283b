"""``fastconv.profile``: a model on the compiled and on the pure kernels, from equal state, in turn."""

from __future__ import annotations

import gc
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import backend
from .._check import Array
from ..config import config
from ..extras import MissingExtra, need
from .graph import kept
from .hooks import Call
from .limits import machine
from .places import Place
from .recorder import dtypes_of, in_microseconds, now, record
from .report import Report, Shown
from .rows import key_of, rows_of

# Rounds of both; each has one pure step, and of compiled ones as many as a quarter of its time allows.
MOST_ROUNDS, MOST_COMPILED, FEWEST_COMPILED = 20, 5, 3
# What a forward and a backward return, by the names of the report.
_RESULTS = ("output", "dLdA")
Step = Callable[[], Any]


class Comparison(Shown):
    """What `profile` returns: ``print`` it, or write it with `to_html`, `to_json` and so on."""

    def __init__(self, report: Report) -> None:
        self._report = report

    @property
    def report(self) -> Report:
        return self._report


class _OutOfTime(Exception):
    pass


def profile(
    model: Any, x: Any, dLdZ: Any = None, *, train: bool = True, budget: float = 20.0,
    progress: bool = True, title: str | None = None,
) -> Comparison:
    """Run a model on both sets of kernels, in turn, and compare each layer's times and results.

    Every run starts from the same state, and in the end the model and NumPy's global stream are as they
    were: parameters, gradients, statistics, cached inputs.

    Parameters
    ----------
    model : object with `forward`, and `backward` if `train`
        A layer or model of this package, or any object that has such layers in it.
    x : array_like
        What `forward` takes.
    dLdZ : optional
        What `backward` takes: the gradient of the output, or for a model like `CNN` the labels. By
        default standard normal numbers in the shape of the output, always the same.
    train : bool
        Forward and backward; else the forward alone, with ``eval=True`` where the model takes it.
    budget : float
        Seconds for all of it. The pure run, which comes after one compiled run, stops between two
        layers when they are over; layers that it did not reach have no pure time then.
    progress : bool
        A bar on stderr, where that is a terminal and rich is installed.
    title : str, optional

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        The model calls no layer that runs on kernels of this package.
    ImportError
        There are no compiled kernels.
    """
    if not budget > 0:
        raise ValueError(f"budget must be positive, not {budget!r}")
    backend.check_present("compiled")
    end = time.perf_counter() + budget
    with kept(model) as state, _bar(budget, progress) as say, record(model) as recording:
        step = _Step(model, x, dLdZ, train)
        check = _Check(end, say)
        say("compiled: results")
        compiled = [_run("compiled", step, state, recording, check)]
        say("pure: results")
        check.begin_comparison()
        pure = [_run("pure", step, state, recording, check)]
        compiled[:], pure[:] = _rounds(step, state, recording, pure[0], end, say)
    threads = backend.get_num_threads()
    limits = machine(dtypes_of(compiled), threads)
    found = rows_of(compiled, limits, threads, steps=True, name="compiled")
    if not any(call.place.kind for call in compiled[0]):
        raise ValueError(
            f"{type(model).__name__} calls no layer of fastconv, so there is nothing to compare; "
            "fastconv.swap(model) puts compiled layers in the place of your own"
        )
    slow = rows_of([[c for c in run if c.done] for run in pure], limits, threads, steps=True, name="pure")
    for key, i in found.index.items():
        row = found.rows[i]
        row.differences = check.differences.get(key[:2], {})
        if key in slow.index:
            row.pure = slow.rows[slow.index[key]].time
            row.speedup = row.pure.median / row.time.median
    seconds = float(np.median([_seconds(run) for run in compiled]))
    pure_seconds = float(np.median([_seconds(run) for run in pure])) if check.complete else None
    return Comparison(
        Report(
            kind="comparison",
            title=title or f"{type(model).__name__}, input {' x '.join(map(str, np.shape(x)))}",
            date=now(),
            fastconv=config(),
            machine=limits,
            threads=threads,
            seconds=seconds,
            rows=found.rows,
            calls=[
                (found.index[key_of(call)], *in_microseconds(call, run[0].start), 0, name)
                for name, run in (("compiled", compiled[-1]), ("pure", pure[-1]))
                for call in run
                if key_of(call) in found.index
            ],
            threads_seen=["step"],
            others=recording.others,
            pure_seconds=pure_seconds,
            speedup=pure_seconds / seconds if pure_seconds is not None else None,
            settings={
                "train": train, "budget": budget, "compiled steps": len(compiled), "pure steps": len(pure),
                "pure complete": check.complete,
            },
        )
    )  # fmt: skip


class _Step:
    """Forward, and backward if wanted, of a model."""

    def __init__(self, model: Any, x: Any, dLdZ: Any, train: bool) -> None:
        self.model, self.x, self.dLdZ, self.train = model, x, dLdZ, train
        evaluates = not train and "eval" in inspect.signature(model.forward).parameters
        self.keywords = {"eval": True} if evaluates else {}

    def __call__(self) -> None:
        Z = self.model.forward(self.x, **self.keywords)
        if self.train:
            if self.dLdZ is None:
                self.dLdZ = np.random.default_rng(0).standard_normal(np.shape(Z)).astype(np.result_type(Z))
            self.model.backward(self.dLdZ)


class _Check:
    """Compares the results of the layers in the first run of either backend."""

    def __init__(self, end: float, say: Callable[[str], None]) -> None:
        self.end, self.say = end, say
        self.results: dict[tuple[Place, bool], list[dict[str, Array]]] = {}
        self.differences: dict[tuple[Place, bool], dict[str, list[float]]] = {}
        self.comparing, self.complete = False, True
        self.expected = self.reached = 0

    def begin_comparison(self) -> None:
        self.comparing, self.expected = True, sum(map(len, self.results.values()))

    def __call__(self, place: Place, backward: bool, layer: Any, result: Any) -> None:
        key, arrays = (place, backward), _results(layer, backward, result)
        if not self.comparing:
            self.results.setdefault(key, []).append({name: a.copy() for name, a in arrays.items()})
            return
        self.reached += 1
        if self.results.get(key):
            largest = self.differences.setdefault(key, {})
            for name, found in _differences(self.results[key].pop(0), arrays).items():
                largest[name] = list(map(max, largest.get(name, found), found))
        if time.perf_counter() > self.end and self.reached < self.expected:
            raise _OutOfTime
        self.say(f"pure: results, {self.reached} of {self.expected} calls")


def _results(layer: Any, backward: bool, result: Any) -> dict[str, Array]:
    """What a call gave: its result and, after a backward, the gradients of parameters."""
    found = {_RESULTS[backward]: result}
    if backward:
        names = {name for name in vars(layer) if name.startswith("dLd")} | {"dLdW", "dLdb"}
        found |= {name: getattr(layer, name, None) for name in sorted(names)}
    return {name: np.asarray(a) for name, a in found.items() if isinstance(a, (np.ndarray, np.floating))}


def _differences(compiled: dict[str, Array], pure: dict[str, Array]) -> dict[str, list[float]]:
    """The largest of each result, absolute, and over the largest number that the pure one has.

    Gradients of parameters are held against the largest number in all of them: that of a bias before a
    batch norm is nothing but rounding errors.
    """
    sizes = {name: _size(array) for name, array in pure.items()}
    parameters = max((size for name, size in sizes.items() if name not in _RESULTS), default=0.0)
    found = {}
    for name in compiled.keys() & pure.keys():
        apart = _apart(compiled[name], pure[name])
        size = sizes[name] if name in _RESULTS else parameters
        found[name] = [apart, apart / size if size else apart]
    return dict(sorted(found.items()))


def _size(array: Array) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _apart(a: Array, b: Array) -> float:
    """The largest difference; what is equal, or NaN in both, does not differ."""
    if a.shape != b.shape:
        return np.inf
    with np.errstate(all="ignore"):
        apart = np.abs(np.subtract(a, b, dtype=np.float64))
    apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, apart)
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _run(
    name: str, step: Step, state: kept, recording: record, check: _Check | None = None
) -> list[Call]:
    """One step from the kept state. The collector of garbage waits, as in the benchmark."""
    state.restore()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with backend.use_backend(name), record() as one:
            recording.tap = check
            step()
    except _OutOfTime:
        assert check is not None
        check.complete = False
    finally:
        recording.tap = None
        if collecting:
            gc.enable()
    return sorted((call for _, calls in one.logs for call in calls), key=lambda call: call.start)


def _rounds(
    step: Step, state: kept, recording: record, first: list[Call], end: float, say: Callable[[str], None]
) -> tuple[list[list[Call]], list[list[Call]]]:
    """Steps of both in turn, until the time is over; a pure step that took all of it counts itself."""
    compiled: list[list[Call]] = []
    pure: list[list[Call]] = []
    slow = _seconds(first)
    while len(pure) < MOST_ROUNDS:
        began = time.perf_counter()
        order = ["compiled", "pure"] if len(pure) % 2 == 0 else ["pure", "compiled"]
        if began + slow > end:
            order = ["compiled"]
        for name in order:
            say(f"round {len(pure) + 1}: {name}")
            if name == "pure":
                pure.append(_run("pure", step, state, recording))
                continue
            for turn in range(MOST_COMPILED):
                if turn and time.perf_counter() - began > slow / 4 and len(compiled) >= FEWEST_COMPILED:
                    break
                compiled.append(_run("compiled", step, state, recording))
        if order == ["compiled"]:
            break
    return compiled, pure or [first]


def _seconds(run: Sequence[Call]) -> float:
    """Of one step: its outermost calls."""
    return sum(call.took for call in run if call.around is None) / 1e9


@contextmanager
def _bar(budget: float, wanted: bool) -> Iterator[Callable[[str], None]]:
    """A bar on stderr that fills with time; gives the function that moves it.

    It is drawn between runs only: a thread that draws would take its time from them.
    """
    try:
        rich = need("rich.progress", "profile") if wanted and sys.stderr.isatty() else None
    except MissingExtra:
        rich = None
    if rich is None:
        yield lambda text: None
        return
    console = need("rich.console", "profile").Console(stderr=True)
    bar = rich.Progress(
        rich.BarColumn(bar_width=24), rich.TimeElapsedColumn(), rich.TextColumn("{task.description}"),
        console=console, transient=True, auto_refresh=False,
    )
    with bar:
        task, start = bar.add_task("", total=budget), time.perf_counter()
        drawn = start

        def say(text: str) -> None:
            nonlocal drawn
            if time.perf_counter() - drawn > 0.1:
                drawn = time.perf_counter()
                bar.update(task, completed=min(budget, drawn - start), description=text, refresh=True)

        yield say
