"""Timing calls in turn, and what to make of the samples."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

# The clock is read around so many calls that a sample takes at least this long.
LEAST_SAMPLE = 20e-6
FEWEST_ROUNDS, MOST_ROUNDS = 3, 2000
WARM_UP = 3
RESAMPLES = 400


def interleaved(
    calls: Mapping[str, Callable[[], Any]], budget: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Samples]:
    """Seconds that one call takes, one sample a round.

    The calls of a round come one after the other, so that whatever slows the machine down meets
    them all, and every round begins with another one.

    Parameters
    ----------
    calls : mapping of name to callable
    budget : float
        Seconds for each. Every call has at least three rounds.
    clock : callable
        For tests.

    Returns
    -------
    dict of name to ndarray (rounds,)
        NaN where a call sat out: one too slow for its budget takes part in every so many rounds.
    """
    repeats, rounds = {}, {}
    for name, call in calls.items():
        single = _warm(call, budget, clock)
        repeats[name] = max(1, int(np.ceil(LEAST_SAMPLE / single)))
        affordable = int(budget / (single * repeats[name]))
        rounds[name] = min(MOST_ROUNDS, max(FEWEST_ROUNDS, affordable))
    names, turns = list(calls), max(rounds.values())
    every = {name: turns // rounds[name] for name in names}
    samples = {name: np.full(turns, np.nan) for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = clock() + 1.5 * budget * len(calls)
        for turn in range(turns):
            # The warm-up may have promised too much.
            if clock() > end and all(turn > every[name] * (FEWEST_ROUNDS - 1) for name in names):
                samples = {name: times[:turn] for name, times in samples.items()}
                break
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                if turn % every[name] == 0:
                    samples[name][turn] = _sample(calls[name], repeats[name], clock)
    finally:
        if collecting:
            gc.enable()
    return samples


def _warm(call: Callable[[], Any], budget: float, clock: Callable[[], float]) -> float:
    """Run a call until it is warm; the shortest time of one. The first may compile, and does not count."""
    call()
    shortest = np.inf
    for _ in range(WARM_UP):
        shortest = min(shortest, _sample(call, 1, clock))
        if shortest > budget / FEWEST_ROUNDS:
            break
    return max(shortest, 1e-9)


def _sample(call: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def statistic(samples: Samples, name: str) -> float:
    """The "median" or "min" of the samples there are."""
    taken = samples[~np.isnan(samples)]
    return float(np.median(taken) if name == "median" else taken.min())


def ratio(reference: Samples, samples: Samples, name: str) -> tuple[float, float, float]:
    """How many times longer the reference took, and the ends of a 95% bootstrap interval.

    The interval comes from drawing rounds, with both contenders' samples of a round, again and again
    (Efron and Tibshirani 1993, chapter 13): noise that meets both of them cancels.
    """
    paired = ~(np.isnan(reference) | np.isnan(samples))
    reference, samples = reference[paired], samples[paired]
    point = statistic(reference, name) / statistic(samples, name)
    middle = np.median if name == "median" else np.min
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(samples), size=len(samples))
        draws.append(float(middle(reference[chosen]) / middle(samples[chosen])))
    low, high = np.percentile(draws, (2.5, 97.5))
    return point, float(low), float(high)


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")
