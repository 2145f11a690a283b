"""What the command does: choose rows and contenders, measure, show."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from .. import backend
from ..config import config
from ..extras import need
from . import BenchError, machine, pages, plots, report, results
from .contenders import Contender, choose
from .contenders.torch import Torch
from .measure import Settings, measure
from .problems import parse
from .suites import PASSES, SUITES, Row, rows_for, rows_of

_DTYPES = ("float32", "float64")


def run(options: argparse.Namespace) -> int:
    """Run ``fastconv bench``; `options` are those of the command line (`cli.py`).

    Raises
    ------
    BenchError
        An option asks for what cannot be.
    MissingExtra
        A package of the extra `bench` is not installed.
    """
    out = report.console(sys.stdout)
    if options.compare:
        before, after = map(results.load, options.compare)
        changes, mean = results.compare(before, after)
        report.show_comparison(out, changes, mean)
        return 0
    need("threadpoolctl", "bench")
    if options.plot or options.markdown:
        need("matplotlib", "bench")
    rows = _rows(options)
    dtypes = _checked("dtype", options.dtype, _DTYPES)
    contenders, missing = choose(options.contenders or _default_contenders())
    if options.against not in (None, *contenders):
        extra, absent = choose([options.against])
        contenders |= extra
        missing += absent
    if not contenders:
        raise BenchError(f"none of the contenders is installed: {', '.join(missing)}")
    if missing:
        print(f"fastconv bench: not installed, left out: {', '.join(missing)}", file=sys.stderr)
    settings = Settings(options.time, options.statistic, _reference(options.against, contenders))
    found = _measure(rows, dtypes, options.threads, contenders, settings)
    # Files first: they are there even if the reader of the table has gone.
    if options.json:
        found.save(options.json)
    if options.plot:
        growth_alone = all(r.suite == "growth" for r in found.rows)
        (plots.growth_panels if growth_alone else plots.bars)(found, options.plot)
    if options.markdown:
        pages.fill(options.markdown, found)
    report.show_machine(out, found)
    report.show(out, found)
    return 0


def _rows(options: argparse.Namespace) -> list[Row]:
    if options.problem:
        rows = [row for text in options.problem for row in rows_for("problem", parse(text))]
        if options.suites:
            raise BenchError("either suites or --problem, not both")
    else:
        suites = options.suites or (pages.suites_in(options.markdown) if options.markdown else ["conv"])
        if suites == ["all"]:
            suites = SUITES
        rows = [row for suite in dict.fromkeys(suites) for row in rows_of(suite)]
    passes = _checked("pass", options.passes, PASSES) if options.passes else PASSES
    try:
        pattern = re.compile(options.filter or "")
    except re.error as error:
        raise BenchError(f"--filter {options.filter!r} is no regular expression: {error}") from None
    chosen = [row for row in rows if row.pass_ in passes and pattern.search(str(row))]
    if not chosen:
        raise BenchError(f"no row is left of {len(rows)}: see --filter and --passes")
    return chosen


def _checked(what: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    for value in given:
        if value not in known:
            raise BenchError(f"unknown {what} {value!r}, wanted some of {', '.join(known)}")
    return list(dict.fromkeys(given))


def _default_contenders() -> list[str]:
    """Those of a short run: the compiled kernels and the peer that tells most."""
    ours = "compiled" if backend.ISA is not None else "pure"
    return [ours, "torch" if Torch.installed() else "numpy"]


def _reference(asked: str | None, contenders: dict[str, Contender]) -> str:
    """The one asked for; else the first there is of PyTorch, NumPy, whoever comes last."""
    if asked in contenders:
        return str(asked)
    for name in ("torch", "numpy"):
        if name in contenders:
            return name
    return list(contenders)[-1]


def _measure(
    rows: Sequence[Row], dtypes: Sequence[str], threads: Sequence[int], contenders: dict[str, Contender],
    settings: Settings,
) -> results.Report:
    found = []
    with _compiled_kernels(), _progress(len(rows) * len(dtypes) * len(threads)) as step:
        step("probing the machine", 0)
        limits = machine.measure(dtypes, threads)
        for count in threads:
            for contender in contenders.values():
                contender.set_threads(count)
            for dtype in dtypes:
                for row in rows:
                    step(f"{row.problem} {row.pass_} {dtype}", 0)
                    once = row.pass_ == "import"
                    if not once or (count == threads[0] and dtype == dtypes[0]):
                        found += measure(row, dtype, count, contenders, limits, settings)
                    step("", 1)
        running = config()
    return results.Report(
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        fastconv=running,
        machine=limits,
        contenders={name: contender.version() for name, contender in contenders.items()},
        settings={
            "seconds": settings.seconds, "statistic": settings.statistic, "reference": settings.reference
        },
        rows=found,
    )


@contextmanager
def _compiled_kernels() -> Iterator[None]:
    """The compiled kernels, whatever FASTCONV_BACKEND says, and afterwards what was there before."""
    name, threads = backend.get_backend(), backend.get_num_threads()
    if backend.ISA is not None:
        backend.set_backend("compiled")
    try:
        yield
    finally:
        backend.set_backend(name)
        backend.set_num_threads(threads)


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar on stderr where that is a terminal; gives the function that moves it."""
    rich = need("rich.progress", "bench")
    bar = rich.Progress(
        rich.BarColumn(bar_width=24), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(), rich.TextColumn("{task.description}"),
        console=(console := report.console(sys.stderr)), transient=True, disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda text, steps: bar.update(task, advance=steps, description=text or None)
