"""Results as tables that fit 100 columns, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..extras import need
from . import growth
from .results import Change, Report, Result, thread_text
from .timing import geometric_mean

WIDTH = 100
FOOTNOTE = (
    "Ratio: time of {reference} over time of the contender, {statistic} of the rounds, with a 95% "
    "bootstrap interval; above 1 is faster than {reference}. GF: 1e9 operations, counted as direct "
    "convolution does them, so Winograd's algorithm can exceed 100% of the peak; where none are counted, "
    "the percentage is of copying in the cache that holds the arrays. JAX keeps its own number of threads. "
    "'layer bwd' of PyTorch is its gradient operator without the overhead of autograd."
)


def console(stream: Any, extra: str = "bench") -> Any:
    """A rich console of at most 100 columns on a stream; plain text where that is no terminal."""
    made = need("rich.console", extra).Console(file=stream, highlight=False)
    made.width = min(made.width, WIDTH) if made.is_terminal else WIDTH
    return made


def show(out: Any, report: Report) -> None:
    """Print a table for each suite, dtype and number of threads, then the means."""
    for suite, dtype, threads in _groups(report.rows):
        rows = report.of(suite=suite, dtype=dtype, threads=threads)
        out.print(_table(f"{suite}, {dtype}, {thread_text(threads)}", rows))
    for line in summary(report):
        out.print(line)
    if any(result.suite == "growth" for result in report.rows):
        for line in growth_lines(report):
            out.print(line)
    out.print(FOOTNOTE.format(**report.settings), style="dim")


def _groups(rows: Sequence[Result]) -> list[tuple[str, str, int]]:
    return list(dict.fromkeys((r.suite, r.dtype, r.threads) for r in rows))


def _table(title: str, rows: Sequence[Result]) -> Any:
    box = need("rich.box", "bench").SIMPLE_HEAD
    table = need("rich.table", "bench").Table(
        title=title, title_justify="left", box=box, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )
    table.add_column("problem", overflow="fold")
    table.add_column("pass", no_wrap=True)
    table.add_column("contender", no_wrap=True)
    for name in ("median", "min", "ratio", "interval", "rate", "peak"):
        table.add_column(name, justify="right", no_wrap=True)
    problem = row = None
    for r in rows:
        table.add_row(
            r.problem if r.problem != problem else "", r.pass_ if r.row != row else "", r.contender,
            time_text(r.median), time_text(r.min),
            "" if r.ratio is None else f"{r.ratio:.2f}",
            "" if r.interval is None else f"{r.interval[0]:.2f}-{r.interval[1]:.2f}",
            _rate(r),
            "" if r.percent is None else f"{r.percent:.0f}%",
        )
        problem, row = r.problem, r.row
    return table


def _rate(r: Result) -> str:
    if r.gflops is not None:
        return f"{r.gflops:.1f} GF/s"
    return "" if r.gbs is None else f"{r.gbs:.1f} GB/s"


def time_text(seconds: float) -> str:
    """Three digits and a unit: 2.35 us, 41.2 ms."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            value = seconds / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{seconds:.2f} s"


def summary(report: Report) -> Iterator[str]:
    """For each contender, dtype and number of threads: the geometric mean of a suite's ratios, by pass."""
    reference = report.settings["reference"]
    for suite, dtype, threads in _groups(report.rows):
        for contender in report.contenders:
            rows = report.of(suite=suite, dtype=dtype, threads=threads, contender=contender)
            rated = [r for r in rows if r.ratio is not None]
            if contender == reference or not rated:
                continue
            passes = dict.fromkeys(r.pass_ for r in rated)
            means = ", ".join(f"{p} {_mean(r for r in rated if r.pass_ == p):.2f}" for p in passes)
            worst = min(rated, key=lambda r: r.ratio or 0)
            yield (
                f"{suite}, {dtype}, {thread_text(threads)}: {contender} against {reference}, geometric mean "
                f"{_mean(rated):.2f} ({means}); worst {worst.ratio:.2f}, {worst.problem} {worst.pass_}"
            )


def _mean(rows: Any) -> float:
    return geometric_mean([r.ratio for r in rows])


def growth_lines(report: Report) -> Iterator[str]:
    """The exponents of every sweep that was measured."""
    for dtype, threads in dict.fromkeys((r.dtype, r.threads) for r in report.of(suite="growth")):
        yield f"growth, {dtype}, {thread_text(threads)}: exponents of time (operations grow with the last)"
        for sweep, pass_, fitted in _exponents(report, dtype, threads):
            values = ", ".join(f"{name} {value:.2f}" for name, value in fitted.items())
            yield f"  {sweep.name:11} {pass_:4} {values} ({sweep.expected})"


def _exponents(report: Report, dtype: str, threads: int) -> list[tuple[growth.Sweep, str, dict[str, float]]]:
    return growth.exponents(report.time_of(dtype, threads), ("fwd", "dX", "dW"), tuple(report.contenders))


def show_machine(out: Any, report: Report) -> None:
    out.print("; ".join(machine_lines(report)), style="dim")


def machine_lines(report: Report) -> list[str]:
    """The machine, its limits, and what ran on it."""
    m = report.machine
    peaks = ", ".join(f"{name} {value:.0f}" for name, value in m.gflops.items())
    copies = ", ".join(f"{c['level']} x {c['threads']} {c['gbs']:.0f}" for c in m.copy)
    versions = ", ".join(f"{name} {version}" for name, version in report.contenders.items())
    lines = [
        f"{m.cpu}, {m.cores} cores, instruction set {report.fastconv['instruction set']}",
        f"multiply-adds, GFLOP/s by threads: {peaks}",
        f"copying, GB/s by threads: {copies}",
        f"contenders: {versions}, on numpy {report.fastconv['numpy']}",
    ]
    if m.environment:  # it may hold a library back
        lines.append("environment: " + ", ".join(f"{k}={v}" for k, v in m.environment.items()))
    return lines


def show_comparison(out: Any, changes: Sequence[Change], mean: float) -> None:
    """Print what `results.compare` found."""
    table = need("rich.table", "bench").Table(
        box=need("rich.box", "bench").SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )
    table.add_column("problem", overflow="fold")
    for name in ("pass", "dtype"):
        table.add_column(name, no_wrap=True)
    for name in ("threads", "before", "after", "speed-up"):
        table.add_column(name, justify="right", no_wrap=True)
    for c in changes:
        problem, pass_, dtype, threads = c.row
        table.add_row(
            problem, pass_, dtype, str(threads), time_text(c.before), time_text(c.after), f"{c.speedup:.2f}"
        )
    out.print(table)
    out.print(f"{len(changes)} rows, geometric mean of the speed-ups {mean:.3f}")


def markdown(report: Report, suite: str) -> str:
    """A suite's results for docs/performance.md: compiled times, and the reference's over them."""
    if suite == "machine":
        return "\n".join(f"- {line}" for line in machine_lines(report))
    lines: list[str] = []
    for _, dtype, threads in (group for group in _groups(report.rows) if group[0] == suite):
        rows = report.of(suite=suite, dtype=dtype, threads=threads)
        lines += ["", f"**{dtype}, {thread_text(threads)}**", ""]
        lines += _growth_table(report, dtype, threads) if suite == "growth" else _pass_table(report, rows)
    means = [line for line in summary(report) if line.startswith(f"{suite},")]
    return "\n".join([*lines, "", *(f"- {line}" for line in means)]).strip()


def _pass_table(report: Report, rows: Sequence[Result]) -> list[str]:
    reference = report.settings["reference"]
    ours = [r for r in rows if r.contender == "compiled"]
    passes = list(dict.fromkeys(r.pass_ for r in ours))
    cells = {(r.problem, r.pass_): r for r in ours}
    columns = ["", f"x {reference}"]
    if any((r.percent or 0) >= 1 for r in ours):  # nothing tiny comes near a peak
        columns.append("peak")
    lines = [
        f"| problem | {' | '.join(c or p for p in passes for c in columns)} |",
        f"| --- |{' ---: |' * (len(columns) * len(passes))}",
    ]
    for problem in dict.fromkeys(r.problem for r in ours):
        found = [cell for p in passes for cell in _cells(cells.get((problem, p)))[: len(columns)]]
        lines.append(f"| `{problem}` | {' | '.join(found)} |")
    return lines


def _cells(r: Result | None) -> tuple[str, str, str]:
    if r is None:
        return "", "", ""
    interval = "" if r.interval is None else f" ({r.interval[0]:.2f}-{r.interval[1]:.2f})"
    ratio = "" if r.ratio is None else f"**{r.ratio:.2f}**{interval}"
    return time_text(r.median), ratio, "" if r.percent is None else f"{r.percent:.0f}%"


def _growth_table(report: Report, dtype: str, threads: int) -> list[str]:
    names = list(report.contenders)
    lines = [
        f"| exponent of time in | pass | operations | {' | '.join(names)} |",
        f"| --- | --- | ---: |{' ---: |' * len(names)}",
    ]
    for sweep, pass_, fitted in _exponents(report, dtype, threads):
        values = " | ".join(f"{fitted[n]:.2f}" if n in fitted else "" for n in names)
        lines.append(f"| {sweep.name} | {pass_} | {sweep.expected} | {values} |")
    return lines
