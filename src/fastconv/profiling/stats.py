"""A recording as `pstats` keeps profiles, so that ``python -m pstats FILE`` and its viewers read it."""

from __future__ import annotations

import marshal
from typing import Any

from .report import Report

Function = tuple[str, int, str]


def dump(report: Report) -> bytes:
    """Functions are named by the layers' paths; their file and line are those of the layer's method.

    Of a comparison, the compiled step.
    """
    functions: list[Function] = []
    for row in report.rows:
        name = f"{row.path}.{row.pass_}"
        functions.append((row.file, row.line, name if row.layer in row.path else f"{name} {row.layer}"))
    table: dict[Function, list[Any]] = {}
    for row, function in zip(report.rows, functions):
        calls, own, total = row.time.calls, row.time.own, row.time.total
        entry = table.setdefault(function, [0, 0, 0.0, 0.0, {}])
        _add(entry, calls, own, total)
        if row.parent is not None:
            _add(entry[4].setdefault(functions[row.parent], [0, 0, 0.0, 0.0]), calls, own, total)
    return marshal.dumps({
        function: (*counts, {caller: tuple(shares) for caller, shares in callers.items()})
        for function, (*counts, callers) in table.items()
    })  # fmt: skip


def _add(entry: list[Any], calls: int, own: float, total: float) -> None:
    """pstats has: calls that were not recursive, all calls, own time, cumulative time."""
    for i, value in enumerate((calls, calls, own, total)):
        entry[i] += value
