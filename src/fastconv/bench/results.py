"""What a run found, as JSON and back, and two of them compared.

The file that ``--json`` writes is one object:

    schema        1
    date          when it was run, ISO 8601 with the offset from UTC
    fastconv      `fastconv.config()`
    machine       `machine.Machine`: processor, environment, peaks of multiply-adds, speeds of copying
    contenders    name to version, of those that ran
    settings      seconds for each contender of a row, statistic, reference
    rows          list of `Result`: seconds, ratios, rates of one contender in one row
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import STATISTICS, BenchError
from .machine import Machine
from .problems import parse
from .timing import geometric_mean

SCHEMA = 1
_LARGEST = 1 << 26  # characters of a file


@dataclass(frozen=True)
class Result:
    """One contender in one row.

    Attributes
    ----------
    suite, problem, op, pass_, dtype, threads, contender
    min, median : float
        Seconds of a call.
    samples : int
    ratio : float or None
        The reference's time over this one's; None where the reference did not run.
    interval : (float, float) or None
        Of the ratio, 95%.
    gflops, gbs : float or None
        Of the statistic that was asked for. Operations as of direct convolution; every array moved once.
    percent : float or None
        Of the machine's peak: of multiply-adds where operations are counted, else of copying.
    """

    suite: str
    problem: str
    op: str
    pass_: str
    dtype: str
    threads: int
    contender: str
    min: float
    median: float
    samples: int
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    gflops: float | None = None
    gbs: float | None = None
    percent: float | None = None

    @property
    def row(self) -> tuple[str, str, str, int]:
        """What tells one row from another, whoever ran it."""
        return self.problem, self.pass_, self.dtype, self.threads


@dataclass(frozen=True)
class Report:
    """A whole run; the module's first lines say what is in it."""

    date: str
    fastconv: dict[str, Any]
    machine: Machine
    contenders: dict[str, str]
    settings: dict[str, Any]
    rows: list[Result]

    def of(self, **wanted: Any) -> list[Result]:
        """The results whose attributes are those given."""
        return [r for r in self.rows if all(getattr(r, name) == value for name, value in wanted.items())]

    def seconds(self, result: Result) -> float:
        """Of the statistic that the run was asked for."""
        return float(getattr(result, self.settings["statistic"]))

    def time_of(self, dtype: str, threads: int) -> Callable[[str, str, str], float | None]:
        """A look-up of seconds by problem, pass and contender."""
        times = {
            (r.problem, r.pass_, r.contender): self.seconds(r) for r in self.of(dtype=dtype, threads=threads)
        }
        return lambda problem, pass_, contender: times.get((problem, pass_, contender))

    def save(self, path: str) -> None:
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)
        try:
            Path(path).write_text(text + "\n")
        except OSError as error:
            raise BenchError(f"cannot write {path}: {error.strerror}") from None


def load(path: str) -> Report:
    """Read what `Report.save` wrote.

    Raises
    ------
    BenchError
        The file cannot be read or is no such file.
    """
    try:
        with open(path) as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise BenchError(f"{path} is larger than any report")
        content = json.loads(text)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BenchError(f"{path} is no JSON file") from None
    schema = content.pop("schema", None) if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise BenchError(f"{path} has schema {schema!r}, wanted {SCHEMA}")
    try:
        rows = [_row(row) for row in content.pop("rows")]
        report = Report(machine=Machine(**content.pop("machine")), rows=rows, **content)
        if report.settings["statistic"] not in STATISTICS:
            raise ValueError(f"statistic is {report.settings['statistic']!r:.40}")
    except KeyError as error:
        raise BenchError(f"{path} is not complete: {error}") from None
    except (BenchError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is no report: {error}") from None
    return report


def _row(row: dict[str, Any]) -> Result:
    """A row, in which all is what it must be that a comparison computes with or shows."""
    result = Result(**{**row, "interval": _pair(row["interval"])})
    for name in ("problem", "pass_", "dtype", "contender"):
        value = getattr(result, name)
        if not isinstance(value, str) or (name != "problem" and not re.fullmatch(r"[\w ]+", value)):
            raise ValueError(f"{name.strip('_')} is {value!r:.40}")
    parse(result.problem)
    if type(result.threads) is not int:
        raise ValueError(f"threads is {result.threads!r:.40}")
    for seconds in (result.min, result.median):
        if not isinstance(seconds, float) or not 0 < seconds < float("inf"):
            raise ValueError(f"a time is {seconds!r:.40}")
    return result


def _pair(value: Sequence[float] | None) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = value
    return low, high


def thread_text(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


@dataclass(frozen=True)
class Change:
    """One row in two runs: seconds before and after, and how many times faster it became."""

    row: tuple[str, str, str, int]
    before: float
    after: float

    @property
    def speedup(self) -> float:
        return self.before / self.after


def compare(before: Report, after: Report, contender: str = "compiled") -> tuple[list[Change], float]:
    """Each row that a contender has in both, the most slowed down first, and the geometric mean.

    Raises
    ------
    BenchError
        They have no row in common.
    """
    earlier = {r.row: before.seconds(r) for r in before.of(contender=contender)}
    changes = [
        Change(r.row, earlier[r.row], after.seconds(r))
        for r in after.of(contender=contender)
        if r.row in earlier
    ]
    if not changes:
        raise BenchError(f"the two files have no row of {contender!r} in common")
    changes.sort(key=lambda change: change.speedup)
    return changes, geometric_mean([change.speedup for change in changes])
