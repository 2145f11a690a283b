"""The terminal table: what a framework's profiler shows, in at most 100 columns."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from ..bench.report import console, time_text
from ..extras import need
from .report import Report
from .rows import Row

_LEAST_NAME = 12
_RECORDED = ("pass", "calls", "own", "share", "total", "rate", "limit", "bound by")
_COMPARED = ("pass", "compiled", "+-", "pure", "faster", "share", "limit", "differ")


def text(report: Report, sort: str = "time", most: int | None = None) -> str:
    """The table as plain text."""
    stream = io.StringIO()
    show(report, stream, sort, most)
    return stream.getvalue()


def show(report: Report, stream: Any, sort: str = "time", most: int | None = None) -> None:
    """Print what the figures say, then the table; plain where the stream is no terminal."""
    out = console(stream, "profile")
    out.print(f"{report.title}: {_circumstances(report)}", style="dim", soft_wrap=False)
    for sentence in report.sentences:
        out.print(sentence, style="bold" if sentence is report.sentences[0] else None)
    if report.rows:
        rows = report.sorted_rows(sort, most)
        out.print()
        out.print(_table(report, rows, tree=sort == "order", width=out.width))
        if len(rows) < len(report.rows):
            out.print(f"... and {len(report.rows) - len(rows)} more rows", style="dim")
        out.print(_footnote(report), style="dim")


def _circumstances(report: Report) -> str:
    parts = [f"{report.threads} threads" if report.threads > 1 else "1 thread"]
    isa = report.fastconv["instruction set"]
    if isa:
        parts.append(isa)
    parts += sorted({row.dtype for row in report.rows if row.dtype in ("float32", "float64")})
    if report.kind == "recording":
        parts.append(f"{time_text(report.seconds)} recorded")
    else:
        steps = report.settings
        parts.append(f"{steps['compiled steps']} compiled and {steps['pure steps']} pure steps")
    return ", ".join(parts)


def _table(report: Report, rows: Sequence[Row], tree: bool, width: int) -> Any:
    compared = report.kind == "comparison"
    heads = _COMPARED if compared else _RECORDED
    texts_of = _compared if compared else _recorded
    mixed = len({row.backend for row in report.rows}) > 1
    cells = [(_pass(row, mixed), *texts_of(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells)]
    room = max(_LEAST_NAME, width - sum(widths) - len(widths))  # and a space between two columns
    table = need("rich.table", "profile").Table(
        box=need("rich.box", "profile").SIMPLE_HEAD, padding=0, show_edge=False
    )
    table.add_column("layer", no_wrap=True, width=room)
    for head, column in zip(heads, widths):
        left = head in ("pass", "bound by")
        table.add_column(head, justify="left" if left else "right", no_wrap=True, width=column)
    for row, texts in zip(rows, cells):
        name = _name(row, report.short(row.path), tree, room)
        table.add_row(need("rich.text", "profile").Text(name), *texts)
    return table


def _pass(row: Row, mixed: bool) -> str:
    return ("fwd" if row.pass_ == "forward" else "bwd") + (f" {row.backend}" if mixed else "")


def _name(row: Row, path: str, tree: bool, width: int) -> str:
    """Path and class. In the tree the last part of the path; of one too long, words cut short with a ~."""
    layer = row.layer
    if tree and row.depth:
        path = "  " * row.depth + path.rpartition(".")[2]
    elif path.partition("#")[0] == layer:
        layer = ""
    room = width - len(layer) - 1
    short = path
    for letters in (10, 6, 4, 2, 1):
        if len(short) > room:
            short = re.sub(rf"([A-Za-z_]{{{letters}}})\w\w+", r"\1~", path)
    return f"{short[-room:]} {layer}".rstrip()


def _recorded(row: Row) -> tuple[str, ...]:
    return (
        str(row.time.calls), time_text(row.time.own), f"{row.share:.1%}", time_text(row.time.total),
        rate_text(row), _percent(row.limit), row.bound or "",
    )  # fmt: skip


def _compared(row: Row) -> tuple[str, ...]:
    spread = (row.time.high - row.time.low) / 2 / row.time.median if row.time.median else 0.0
    return (
        time_text(row.time.median), f"{spread:.0%}",
        time_text(row.pure.median) if row.pure else "",
        factor_text(row.speedup) if row.speedup is not None else "",
        f"{row.share:.1%}", _limit_and_bound(row),
        "" if row.difference is None else f"{row.difference:.0e}" if row.difference else "0",
    )  # fmt: skip


def _limit_and_bound(row: Row) -> str:
    return f"{_percent(row.limit)} {row.bound[:3]}" if row.bound else _percent(row.limit)


def _percent(value: float | None) -> str:
    return "" if value is None else "<1%" if 0 < value < 0.005 else f"{value:.0%}"


def factor_text(value: float) -> str:
    return f"{_number(value)}x"


def rate_text(row: Row) -> str:
    """GFLOP/s of what arithmetic bounds, GB/s of what memory does."""
    if row.gflops is not None and row.bound != "memory":
        return f"{_number(row.gflops)} GF/s"
    return "" if row.gbs is None else f"{_number(row.gbs)} GB/s"


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def _footnote(report: Report) -> str:
    if report.kind == "recording":
        return (
            "own: time in the layer itself, total: with the layers inside, of all calls; share: of own. "
            "limit: of what this machine can do, which for each layer is arithmetic or memory (roofline). "
            "Winograd's algorithm, and arrays still in a cache, can exceed 100%."
        )
    return (
        "Medians of a step's calls; +-: half the distance of the quartiles. share: of the compiled step, in "
        "the layer itself. limit: of what this machine can do, ari(thmetic) or mem(ory). differ: between "
        "compiled and pure results, over the largest number."
    )
