"""What a recording or a comparison found, and the forms that it can be given.

The JSON form, which the page has inside as well, is one object:

    schema      1
    kind        "recording" or "comparison"
    title       what was run
    date        ISO 8601 with the offset from UTC
    fastconv    `fastconv.config()`
    machine     `fastconv.bench.machine.Machine`: processor, peaks in GFLOP/s, speeds of copying in GB/s
    threads     of the compiled kernels; limits are those of so many
    seconds     of the recording from start to stop; of a comparison's step, the median
    pure_seconds, speedup
                of a comparison's step; null if the pure run did not end within its budget
    others      how many processors other programs took from this one's threads meanwhile, on average; null
                where that is not known
    settings    of a comparison: how it was run
    sentences   what the figures say, most important first
    rows        list of `Row` (`rows.py`): times in seconds, bytes, shapes
    calls       list of [row, start, microseconds, thread, backend]; start in microseconds from the first
                one's. Of a comparison: one step of each backend.
    threads_seen
                names of the threads that `calls` number
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..bench.machine import Machine
from .rows import Row

SCHEMA = 1
SORTS = ("time", "total", "calls", "limit", "speedup", "difference", "path", "order")


@dataclass
class Report:
    """Everything that was found; the module's first lines say what is in it."""

    kind: str
    title: str
    date: str
    fastconv: dict[str, Any]
    machine: Machine
    threads: int
    seconds: float
    rows: list[Row]
    calls: list[tuple[int, float, float, int, str]]
    threads_seen: list[str]
    pure_seconds: float | None = None
    speedup: float | None = None
    others: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def sentences(self) -> list[str]:
        from .verdict import sentences

        return sentences(self)

    def short(self, path: str) -> str:
        """A path without what all paths begin with, the model's own name say."""
        roots = {row.path.partition(".")[0] for row in self.rows}
        return path.removeprefix(f"{roots.pop()}.") if len(roots) == 1 else path

    def sorted_rows(self, sort: str = "time", most: int | None = None) -> list[Row]:
        """The rows, largest first, by one of `SORTS`: "time" is that spent in the layer itself.

        "path" goes by name, "order" is the order of the calls.
        """
        if sort not in SORTS:
            raise ValueError(f"sort must be one of {', '.join(SORTS)}, not {sort!r}")
        keys: dict[str, Any] = {
            "time": lambda r: -r.time.own,
            "total": lambda r: -r.time.total,
            "calls": lambda r: -r.time.calls,
            "limit": lambda r: -(r.limit or 0),
            "speedup": lambda r: -(r.speedup or 0),
            "difference": lambda r: -(r.difference or 0),
            "path": lambda r: (r.path, r.pass_ != "forward"),
            "order": lambda r: 0,
        }
        return sorted(self.rows, key=keys[sort])[:most]

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; the module's first lines describe them."""
        content: dict[str, Any] = _finite({"schema": SCHEMA, "sentences": self.sentences, **asdict(self)})
        return content


def _finite(value: Any) -> Any:
    """JSON has no infinity: a difference that is one becomes null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Shown:
    """The forms of a report. `to_...` write files and raise OSError where they cannot."""

    @property
    def report(self) -> Report:
        raise NotImplementedError

    @property
    def rows(self) -> Sequence[Row]:
        """Forward and backward of each layer, in the order of the first calls."""
        return self.report.rows

    def table(self, sort: str = "time", most: int | None = 40) -> str:
        """A table in text of at most 100 columns, of the `most` first rows by `Report.sorted_rows`."""
        from .table import text

        return text(self.report, sort, most)

    def show(self, sort: str = "time", most: int | None = 40) -> None:
        """Print the table, in colour on a terminal."""
        import sys

        from .table import show

        show(self.report, sys.stdout, sort, most)

    def __str__(self) -> str:
        return self.table()

    def to_json(self, path: str) -> None:
        """Write all of it; `fastconv.profiling.report` describes the file."""
        Path(path).write_text(json.dumps(self.report.as_json(), indent=1, allow_nan=False) + "\n")

    def to_html(self, path: str) -> None:
        """Write a page that needs nothing else."""
        from .page import page

        Path(path).write_text(page(self.report), encoding="utf-8")

    def to_trace(self, path: str) -> None:
        """Write the calls in the Trace Event Format, for https://ui.perfetto.dev or chrome://tracing."""
        from .trace import trace

        Path(path).write_text(json.dumps(trace(self.report)) + "\n")

    def to_pstats(self, path: str) -> None:
        """Write what `pstats`, and viewers of its files such as snakeviz, read."""
        from .stats import dump

        Path(path).write_bytes(dump(self.report))

    def to_plot(self, path: str) -> None:
        """Write a PNG: bars of the layers, and the roofline. Needs the extra `profile`."""
        from .plot import plot

        plot(self.report, path)
