"""A plot of a report, written as PNG without a display: bars of the layers, and the roofline."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bench.plots import COLOURS, new_figure, save_png
from ..bench.report import time_text
from .report import Report
from .rows import Row
from .table import factor_text

_MOST_BARS, _NAMED = 24, 6
_BLUE, _RED, _GREEN, _, _PURPLE = COLOURS[:5]
_MARKS = {"forward": "o", "backward": "^"}


def plot(report: Report, path: str) -> None:
    """Write the PNG.

    Raises
    ------
    OSError
        The file cannot be written.
    MissingExtra
        matplotlib is not installed.
    """
    rows = [row for row in report.sorted_rows("time") if row.time.own > 0][:_MOST_BARS]
    height = 1 + 0.2 * len(rows) * (2 if report.kind == "comparison" else 1)
    drawn = new_figure(11, height + 5.5, "profile")
    bars, roof = drawn.subplots(2, 1, gridspec_kw={"height_ratios": [height, 5]})
    _bars(bars, report, rows)
    _roofline(roof, report)
    drawn.suptitle("\n".join((report.title, *report.sentences[:1])), fontsize=9, wrap=True)
    save_png(drawn, path)


def _bars(ax: Any, report: Report, rows: list[Row]) -> None:
    compared = report.kind == "comparison"
    for i, row in enumerate(rows):
        own = 1e3 * row.time.own
        ax.barh(i - 0.2 * compared, own, height=0.4 if compared else 0.8, color=_BLUE, label="compiled")
        ends = [own]
        if row.pure is not None:
            ends.append(1e3 * row.pure.own)
            ax.barh(i + 0.2, ends[1], height=0.4, color=_RED, label="pure", hatch="//", edgecolor="white")
        note = " and ".join(time_text(end / 1e3) for end in ends)
        note += f", {factor_text(ends[1] / own)}" if row.pure is not None else f", {row.share:.0%}"
        ax.annotate(note, (max(ends), i), (4, 0), textcoords="offset points", va="center", fontsize=7)
    names = [f"{report.short(row.path)} {row.pass_}" for row in rows]
    texts = [name if len(name) < 60 else f"...{name[-57:]}" for name in names]
    ax.set_yticks(range(len(rows)), texts, fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.margins(x=0.2)
    if rows:
        ax.set_xscale("log")
    ax.set_xlabel(f"ms in the layer itself, {'a step' if compared else 'all calls'}; logarithmic")
    if compared:
        ax.legend(*_once(ax), fontsize=8, loc="lower right")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _once(ax: Any) -> tuple[list[Any], list[str]]:
    """The legend's entries without the repetitions."""
    found = {label: handle for handle, label in zip(*ax.get_legend_handles_labels())}
    return list(found.values()), list(found)


def _roofline(ax: Any, report: Report) -> None:
    rows = [row for row in report.rows if row.bound and row.gflops and row.intensity]
    dtypes = sorted({row.dtype for row in rows if row.dtype}) or ["float64"]
    span = np.array([row.intensity for row in rows] or [1.0])
    x = np.geomspace(min(0.05, span.min() / 2), max(100.0, span.max() * 2), 200)
    peak = max(report.machine.peak(dtype, report.threads) for dtype in dtypes)
    slowest = min(report.machine.copy, key=lambda level: level["gbs"], default=None)
    for level in report.machine.copy:
        ax.plot(x, np.minimum(level["gbs"] * x, peak), color="grey", linewidth=1)
        name, side = f"{level['level']} {level['gbs']:.0f} GB/s", "top" if level is slowest else "bottom"
        ax.annotate(name, (x[2], level["gbs"] * x[2]), fontsize=7, va=side)
    ax.annotate(f"peak {peak:.0f} GFLOP/s", (x[-1], peak), ha="right", va="bottom", fontsize=7)
    for row in rows:
        colour = _PURPLE if row.bound == "memory" else _GREEN
        size = 3 + 18 * row.share**0.5
        ax.plot(row.intensity, row.gflops, _MARKS[row.pass_], color=colour, markersize=size)
    lines = []
    for i, row in enumerate(sorted(rows, key=lambda row: -row.share)[:_NAMED], 1):
        beside = 6 + 6 * (i % 2), -3  # of points close together not on each other
        ax.annotate(str(i), (row.intensity, row.gflops), beside, textcoords="offset points", fontsize=8)
        lines.append(f"{i}  {report.short(row.path)} {row.pass_}: {row.limit:.0%} of its limit, {row.bound}")
    ax.text(0.99, 0.03, "\n".join(lines), transform=ax.transAxes, ha="right", va="bottom", fontsize=7)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("operations a byte (green: bound by arithmetic, purple: by memory; triangles: backward)")
    ax.set_ylabel("GFLOP/s")
