"""What the arrays of a problem hold, and how they lie: ``dtype/values/layout``."""

from __future__ import annotations

from random import Random

import numpy as np

from layouts import LAYOUTS

INTEGERS = ("bool", "int8", "uint8", "int32", "int64", "uint64")
FLOATS = ("float16", "float32", "float64")
_LAYOUTS = {"C": np.ascontiguousarray, **{name.replace(" ", "_"): lay for name, lay in LAYOUTS.items()}}
_SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0)


def draw_array(r: Random, dtype: str | None) -> str:
    dtype = dtype or r.choice(INTEGERS + FLOATS)
    values = r.choice(VALUES) if r.random() < 0.7 else "normal"
    layout = r.choice(tuple(_LAYOUTS)) if r.random() < 0.5 else "C"
    return f"{dtype}/{'integers' if dtype in INTEGERS else values}/{layout}"


def make(description: str, shape: tuple[int, ...], rng: np.random.Generator) -> object:
    """The array itself, laid out: an ndarray, a subclass, or nested lists."""
    dtype, values, layout = description.split("/")
    with np.errstate(all="ignore"):
        a = _fill(values, np.dtype(dtype), shape, rng)
    # A copy of no numbers has no first one to repeat, and lists lose its shape.
    return _LAYOUTS[layout](a) if a.size else a


def _fill(values: str, dtype: np.dtype, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if values == "integers":
        low = -4 if dtype.kind in "if" else 0
        return rng.integers(low, 5, shape).astype(dtype)
    a = rng.standard_normal(shape)
    limits = np.finfo(dtype)
    if values == "wide":
        a = np.ldexp(a, rng.integers(limits.minexp // 3, limits.maxexp // 3, shape))
    elif values == "huge":
        a = np.ldexp(np.tanh(a), limits.maxexp - rng.integers(1, 9, shape))
    elif values == "tiny":
        a = np.ldexp(a, limits.minexp - rng.integers(0, limits.nmant, shape))
    elif values == "constant":
        a = np.full(shape, a.flat[0] if a.size else 0.0)
    elif values == "offset":
        a += 2.0 ** int(rng.integers(1, 20))
    elif values == "zeros":
        a = np.where(a > 0, 0.0, -0.0)
    elif values == "special":
        places = rng.random(shape) < 0.15
        extremes = np.array((*_SPECIAL, limits.max, limits.min, limits.tiny, limits.smallest_subnormal))
        a = np.where(places, rng.choice(extremes, shape), a)
    return a.astype(dtype)


VALUES = ("normal", "wide", "huge", "tiny", "constant", "offset", "zeros", "special", "integers")
