"""The report as one HTML file that needs nothing else: `page.html` with the figures put in."""

from __future__ import annotations

import html
import json
from importlib.resources import files

from .report import Report

# Calls that the page's timeline draws: a few steps of a recording, of a comparison its one step. The whole
# is in the trace.
MOST_CALLS = {"recording": 400, "comparison": 6000}


def page(report: Report) -> str:
    """The page's text."""
    content = report.as_json()
    shown = _last(report)
    content["calls"] = [content["calls"][i] for i in shown]
    content["names"] = [report.short(row.path) for row in report.rows]
    content["calls_left_out"] = len(report.calls) - len(shown)
    # No "<" can end the script element, and JSON allows it to be written like this.
    figures = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("{title}", html.escape(report.title), 1).replace("{figures}", figures, 1)


def _last(report: Report) -> list[int]:
    """The calls to draw: of each thread and backend the last whole outermost ones that fit."""
    lanes: dict[tuple[int, str], list[int]] = {}
    for i, (_, _, _, thread, backend) in enumerate(report.calls):
        lanes.setdefault((thread, backend), []).append(i)
    chosen: list[int] = []
    for lane in lanes.values():
        room = max(1, MOST_CALLS[report.kind] // len(lanes))
        starts = [k for k, i in enumerate(lane) if report.rows[report.calls[i][0]].depth == 0]
        fitting = [k for k in starts if len(lane) - k <= room]
        first = fitting[0] if fitting else (starts or [0])[-1]
        chosen += lane[first : first + room]
    return sorted(chosen)
