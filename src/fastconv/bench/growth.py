"""How time grows with batch, channels, image and kernel side: sweeps, and exponents fitted to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .problems import Problem, parse


@dataclass(frozen=True)
class Sweep:
    """Problems that differ in one size. `expected` is the exponent of the number of operations."""

    name: str
    values: tuple[int, ...]
    pattern: str
    expected: int

    def problem(self, value: int) -> Problem:
        return parse(self.pattern.format(value, value // 2))


# One size changes, the others stay. `{1}` is half of it: the padding that keeps the image's size.
SWEEPS = (
    Sweep("batch", (1, 2, 4, 8, 16, 32), "n{0}ic32ih32oc32kh3ph1", 1),
    Sweep("channels", (8, 16, 32, 64, 128), "n8ic{0}ih32oc{0}kh3ph1", 2),
    Sweep("image side", (8, 16, 32, 64, 128), "n8ic32ih{0}oc32kh3ph1", 2),
    Sweep("kernel side", (1, 3, 5, 7, 9, 11), "n8ic32ih32oc32kh{0}ph{1}", 2),
)


def problems() -> list[Problem]:
    """Those of all sweeps, each once."""
    return list(dict.fromkeys(sweep.problem(value) for sweep in SWEEPS for value in sweep.values))


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The b of the least-squares fit seconds = a * size^b, both in logarithms."""
    if len(sizes) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def exponents(
    time_of: Callable[[str, str, str], float | None], passes: Sequence[str], contenders: Sequence[str]
) -> list[tuple[Sweep, str, dict[str, float]]]:
    """For each sweep and pass, each contender's exponent. `time_of` knows (problem, pass, contender)."""
    found = []
    for sweep in SWEEPS:
        for pass_ in passes:
            fitted = {}
            for contender in contenders:
                sizes, seconds = curve(sweep, pass_, contender, time_of)
                if len(sizes) > 1:
                    fitted[contender] = exponent(sizes, seconds)
            if fitted:
                found.append((sweep, pass_, fitted))
    return found


def curve(
    sweep: Sweep, pass_: str, contender: str, time_of: Callable[[str, str, str], float | None]
) -> tuple[list[int], list[float]]:
    """The sizes of a sweep that were measured, and the seconds they took."""
    sizes, times = [], []
    for value in sweep.values:
        seconds = time_of(str(sweep.problem(value)), pass_, contender)
        if seconds is not None:
            sizes.append(value)
            times.append(seconds)
    return sizes, times
