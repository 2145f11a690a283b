"""A problem as a line of text: an operation, its sizes, and of each array dtype, values and layout.

    conv2d n=2 ic=3 ih=7 iw=9 oc=4 kh=3 kw=3 sh=1 sw=2 ... A=float32/normal/gaps ... threads=2 seed=77

Sizes are named as those of `fastconv bench --problem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from .arrays import draw_array
from .operations import OPERATIONS


@dataclass(frozen=True)
class Problem:
    operation: str
    sizes: dict[str, Any]  # and other settings: numbers, or words
    arrays: dict[str, str]

    def __str__(self) -> str:
        fields = {**self.sizes, **self.arrays}
        return " ".join([self.operation, *(f"{name}={value}" for name, value in fields.items())])


def parse(text: str) -> Problem:
    operation, *fields = text.split()
    sizes: dict[str, Any] = {}
    arrays = {}
    for field in fields:
        name, _, value = field.partition("=")
        if "/" in value:
            arrays[name] = value
        else:
            sizes[name] = _number(value)
    return Problem(operation, sizes, arrays)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def numbered(seed: int, index: int) -> Problem:
    """The problem of that number in the sequence of a seed."""
    return draw(Random(f"{seed}:{index}"))


def draw(r: Random) -> Problem:
    names = list(OPERATIONS)
    name = r.choices(names, [OPERATIONS[name].weight for name in names])[0]
    operation = OPERATIONS[name]
    sizes = operation.draw(r)
    sizes["algorithm"] = r.choice(("auto", "direct", "winograd"))
    sizes["threads"] = r.choice((1, 1, 1, 2, 3))
    sizes["seed"] = r.getrandbits(32)
    dtype = r.choice(("float32", "float64")) if r.random() < 0.7 else None
    arrays = {array: draw_array(r, dtype) for array in operation.shapes(sizes)}
    return Problem(name, sizes, arrays)
