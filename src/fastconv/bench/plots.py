"""Plots of a report, written as PNG without a display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..extras import need
from . import BenchError, growth
from .results import Report, Result, thread_text

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
_STYLES = {"fwd": "-", "dX": "--", "dW": ":"}
_DPI = 130


def bars(report: Report, path: str) -> None:
    """A bar for each row: how many times faster compiled is than the reference, or its rate alone."""
    ours = report.of(contender="compiled")
    rated = [r for r in ours if r.ratio is not None]
    compared = bool(rated) and report.settings["reference"] != "compiled"
    rows = rated if compared else [r for r in ours if r.gflops is not None or r.gbs is not None]
    if not rows:
        raise BenchError("--plot: no row of 'compiled' has anything to plot")
    groups = list(dict.fromkeys((r.suite, r.dtype, r.threads) for r in rows))
    members = [[r for r in rows if (r.suite, r.dtype, r.threads) == group] for group in groups]
    figure = new_figure(8.5, sum(1.0 + 0.19 * len(m) for m in members))
    axes = figure.subplots(
        len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": [3 + len(m) for m in members]}
    )
    for (suite, dtype, threads), chosen, ax in zip(groups, members, axes[:, 0]):
        _draw_bars(ax, chosen, compared, report.settings["reference"])
        ax.set_title(f"{suite}, {dtype}, {thread_text(threads)}", loc="left", fontsize=10)
    _save(figure, path)


def _draw_bars(ax: Any, rows: Sequence[Result], compared: bool, reference: str) -> None:
    passes = list(dict.fromkeys(r.pass_ for r in rows))
    for i, r in enumerate(rows):
        value = float((r.ratio if compared else r.gflops or r.gbs) or 0)
        ax.barh(i, value, color=COLOURS[passes.index(r.pass_)], height=0.8)
        if compared and r.interval is not None:
            ax.plot(r.interval, (i, i), color="black", linewidth=1)
        end = max(value, *(r.interval or (0, 0))) if compared else value
        ax.annotate(
            f"{value:.3g}", (end, i), (4, 0), textcoords="offset points", va="center", fontsize=7
        )
    ax.set_yticks(range(len(rows)), [f"{r.problem}  {r.pass_}" for r in rows], fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.margins(x=0.1)
    if compared:
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_xlabel(f"times faster than {reference} (line: 95% interval)", fontsize=8)
    else:
        ax.set_xlabel("GFLOP/s, or GB/s where no operations are counted", fontsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def growth_panels(report: Report, path: str) -> None:
    """Four panels, time against one size each, with the fitted exponents in the legends."""
    results = report.of(suite="growth")
    if not results:
        raise BenchError("the growth plot needs the suite growth")
    dtype, threads = results[0].dtype, results[0].threads
    time_of = report.time_of(dtype, threads)
    figure = new_figure(10.5, 8.5)
    for sweep, ax in zip(growth.SWEEPS, figure.subplots(2, 2).flat):
        for colour, contender in zip(COLOURS, report.contenders):
            for pass_, style in _STYLES.items():
                sizes, seconds = growth.curve(sweep, pass_, contender, time_of)
                if len(sizes) > 1:
                    label = f"{contender} {pass_}: {growth.exponent(sizes, seconds):.2f}"
                    milliseconds = [1e3 * s for s in seconds]
                    ax.plot(sizes, milliseconds, style, marker="o", markersize=3, color=colour, label=label)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(sweep.values, [str(v) for v in sweep.values])
        ax.minorticks_off()
        ax.set_xlabel(f"{sweep.name} ({sweep.pattern.format('*', '*/2')})", fontsize=9)
        ax.set_ylabel("ms", fontsize=9)
        ax.set_title(f"operations grow with exponent {sweep.expected}", loc="left", fontsize=9)
        ax.grid(alpha=0.3)
        if ax.get_lines():  # rows of a sweep may have been filtered out
            ax.legend(fontsize=7, title="fitted exponent", title_fontsize=7, handlelength=3)
    figure.suptitle(f"Time of a convolution, {dtype}, {thread_text(threads)}")
    _save(figure, path)


def new_figure(width: float, height: float, extra: str = "bench") -> Any:
    """A figure of its own, without pyplot's list of figures and its choice of a display."""
    figures, agg = need("matplotlib.figure", extra), need("matplotlib.backends.backend_agg", extra)
    figure = figures.Figure(figsize=(width, math.ceil(height)), layout="constrained")
    agg.FigureCanvasAgg(figure)
    return figure


def save_png(figure: Any, path: str) -> None:
    """Write a figure, in the resolution of all plots here."""
    figure.savefig(path, dpi=_DPI, format="png")


def _save(figure: Any, path: str) -> None:
    try:
        save_png(figure, path)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}") from None
