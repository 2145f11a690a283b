"""What the figures say, in sentences for somebody who sees them for the first time."""

from __future__ import annotations

from collections.abc import Iterator

from ..bench.report import time_text
from .report import Report
from .rows import Row

# Under this part of the limit something else takes most of the time.
_FAR = 0.25
# And in a call as short as this, what a call costs whatever its size.
_SHORT = 30e-6
# From this distance of the quartiles on, over the median, times are not to be trusted.
_UNSTEADY = 0.3
# Processors that others take from the threads: less is in the background of any machine.
_OTHERS = 0.2


def sentences(report: Report) -> list[str]:
    """Most important first: the layer to care about and its limit, what comes next, what compiling bought."""
    if not report.rows:
        return ["No layer was called."]
    layers = by_layer(report)
    (path, first), *others = layers
    passes = " and ".join(f"{row.pass_} {row.share:.0%}" for row in first)
    name, layer = report.short(path), first[0].layer
    found = [
        f"{name if name == layer else f'{name} ({layer})'} takes {_share(first):.0%} of the time: {passes}. "
        f"{_capital(bound_text(first[0]))}."
    ]
    found += list(_disturbed(report)) or _unsteady(first[0])
    if others:
        then = [f"{report.short(p)} ({rows[0].layer}) with {_share(rows):.0%}" for p, rows in others[:3]]
        alike = [rows for _, rows in layers if rows[0].layer == layer]
        together = f"all {len(alike)} {layer} take {sum(map(_share, alike)):.0%}" if len(alike) > 1 else ""
        found.append(f"Then {', '.join(then)}{'; ' if together else ''}{together}.")
    return [*found, *_compared(report)]


def by_layer(report: Report) -> list[tuple[str, list[Row]]]:
    """Layers with their rows, the ones with the largest time of their own first."""
    layers: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows:
        layers.setdefault((row.path, row.layer), []).append(row)
    ranked = sorted(layers.items(), key=lambda item: -_share(item[1]))
    return [(path, sorted(rows, key=lambda row: -row.share)) for (path, _), rows in ranked]


def _share(rows: list[Row]) -> float:
    return sum(row.share for row in rows)


def _unsteady(row: Row) -> list[str]:
    low, high = row.time.low, row.time.high
    if row.time.samples < 3 or high - low < _UNSTEADY * row.time.median:
        return []
    return [
        f"Its times vary, a quarter of them below {time_text(low)} and a quarter above {time_text(high)}: "
        "with other programs at work on this machine, figures are rough."
    ]


def _disturbed(report: Report) -> Iterator[str]:
    if report.others is not None and report.others > _OTHERS:
        yield (
            f"Meanwhile other programs took {report.others:.1f} of the {report.threads} processors that this "
            "one's threads wanted: all times are too long, those of short calls most of all."
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def bound_text(row: Row) -> str:
    """What keeps a layer from being faster."""
    of = {"arithmetic": "this machine's peak", "memory": "the speed of copying"}.get(row.bound or "", "")
    if row.limit is None or not of:
        return "its operations are not known, so its limit is not either"
    only = "" if row.limit >= _FAR else "only "
    reached = f"its {row.pass_} reaches {only}{row.limit:.0%} of {of}"
    if row.limit >= 1:
        text = f"it is bound by {row.bound}, and {reached}"
        less = "(Winograd's algorithm multiplies less than is counted)"
        return f"{text} {less}" if row.bound == "arithmetic" else f"{text} (its arrays were still in a cache)"
    if row.limit >= _FAR:
        return f"it is bound by {row.bound}: {reached}"
    if row.backend == "pure":
        why = "the NumPy kernels spend the rest on passes over memory and on calls"
    elif row.time.median < _SHORT:
        why = "calls this short are mostly fixed cost, so larger batches would help"
    else:
        why = "neither arithmetic nor memory is used up"
    return f"{row.bound} is its nearer limit, but {reached}: {why}"


def _compared(report: Report) -> Iterator[str]:
    if report.kind != "comparison":
        return
    if report.pure_seconds is None or report.speedup is None:
        reached = sum(row.pure is not None for row in report.rows)
        yield (
            f"Compiled, the step takes {time_text(report.seconds)}; the pure run came to {reached} of "
            f"{len(report.rows)} rows before its budget was over."
        )
    else:
        yield (
            f"Compiled, the step takes {time_text(report.seconds)}, in pure NumPy "
            f"{time_text(report.pure_seconds)}: {times_text(report.speedup)} as fast."
        )
    differences = [(row.difference, row) for row in report.rows if row.difference is not None]
    if differences:
        largest, row = max(differences, key=lambda item: item[0])
        if largest == 0:
            yield "The results of both are the same."
            return
        yield (
            f"The results of both differ by at most {largest:.0e} of the largest number, in "
            f"{report.short(row.path)} {row.pass_}."
        )


def times_text(factor: float) -> str:
    return f"{factor:.2g} times" if factor < 9.95 else f"{factor:.0f} times"
