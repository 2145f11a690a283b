"""The measured parts of a Markdown page, made again in place.

A part stands between ``<!-- bench:NAME -->`` and ``<!-- /bench -->``; NAME is a suite, "machine" or
"accuracy".
"""

from __future__ import annotations

import re
from pathlib import Path

from . import BenchError, accuracy, plots, report
from .results import Report
from .suites import SUITES

_PART = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


_OTHERS = ("machine", "accuracy")


def suites_in(path: str) -> list[str]:
    """The suites that a page shows.

    Raises
    ------
    BenchError
        The page cannot be read, or has no part to fill.
    """
    names = [name for _, name, _ in _PART.findall(_read(path))]
    for name in names:
        if name not in (*SUITES, *_OTHERS):
            wanted = ", ".join((*SUITES, *_OTHERS))
            raise BenchError(f"{path}: unknown part bench:{name}, wanted one of {wanted}")
    suites = [name for name in SUITES if name in names]
    if not suites:
        raise BenchError(f"{path} has no part between <!-- bench:SUITE --> and <!-- /bench -->")
    return suites


def fill(path: str, found: Report) -> None:
    """Write the report's tables into a page, and the growth plot to ``PAGE/growth.png`` beside it."""
    text = _read(path)
    measured = {r.suite for r in found.rows} | {"machine"}

    def part(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        if name == "accuracy":
            return f"{start}{accuracy.markdown()}\n{end}"
        return f"{start}{report.markdown(found, name)}\n{end}" if name in measured else match[0]

    if "growth" in measured:
        folder = Path(path).with_suffix("")
        folder.mkdir(exist_ok=True)
        plots.growth_panels(found, str(folder / "growth.png"))
    Path(path).write_text(_PART.sub(part, text))


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from None
