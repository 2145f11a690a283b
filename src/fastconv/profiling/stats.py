"""A recording as `pstats` keeps profiles, so that ``python -m pstats FILE`` and its viewers read it."""

from __future__ import annotations

import marshal
from typing import Any

from .report import Report

Function = tuple[str, int, str]


def dump(report: Report) -> bytes:
    """Functions are named by the layers' paths; their file and line are those of the layer's method.

    All are called from one of the report's name, for viewers begin at one function. Its own time is that
    outside of layers. Of a comparison, the compiled step.
    """
    root: Function = ("~", 0, report.title)
    functions: list[Function] = []
    for row in report.rows:
        name = f"{row.path}.{row.pass_}"
        functions.append((row.file, row.line, name if row.layer in row.path else f"{name} {row.layer}"))
    table: dict[Function, list[Any]] = {}
    for row, function in zip(report.rows, functions):
        calls, own, total = row.time.calls, row.time.own, row.time.total
        entry = table.setdefault(function, [0, 0, 0.0, 0.0, {}])
        _add(entry, calls, own, total)
        caller = root if row.parent is None else functions[row.parent]
        _add(entry[4].setdefault(caller, [0, 0, 0.0, 0.0]), calls, own, total)
    within = sum(row.time.total for row in report.rows if row.parent is None)  # in threads more than passed
    table[root] = [1, 1, max(0.0, report.seconds - within), max(report.seconds, within), {}]
    return marshal.dumps({
        function: (*counts, {caller: tuple(shares) for caller, shares in callers.items()})
        for function, (*counts, callers) in table.items()
    })  # fmt: skip


def _add(entry: list[Any], calls: int, own: float, total: float) -> None:
    """pstats has: calls that were not recursive, all calls, own time, cumulative time."""
    for i, value in enumerate((calls, calls, own, total)):
        entry[i] += value
