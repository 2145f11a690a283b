"""Arbitrary bytes as arguments of every function: ``cd tests && python -m fuzz.boundary --cases N --seed S``.

Bytes choose a function, and for each array shape, dtype and layout, or a hostile object in its place; for
each other argument a number or a hostile one. What comes out is checked for what holds of any answer:
an expected exception with a message, or arrays of their own. With Atheris installed and ``--coverage``,
libFuzzer chooses the bytes by the lines of fastconv that they reach.
"""

from __future__ import annotations

import argparse
import inspect
import random
import sys
import time
from collections import Counter
from typing import Any

import numpy as np

import hostile
from fastconv import functional as F
from layers import FUNCTIONS
from layouts import LAYOUTS
from support import arrays_in

from .arrays import FLOATS, INTEGERS

_LAYOUTS = [layout for name, layout in LAYOUTS.items() if "page" not in name]
_DTYPES = [*INTEGERS, *FLOATS, "complex64", "O", "S1", ">f8", "f8,f4"]
_EXPECTED = (TypeError, ValueError, MemoryError)
# From objects that raise these themselves.
_OWN = (RuntimeError, OSError, KeyError)


class Bytes:
    """Choices, one byte each; zeros when they run out."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def below(self, count: int) -> int:
        byte = self.data[self.at] if self.at < len(self.data) else 0
        self.at += 1
        return byte % count

    def of(self, options: Any) -> Any:
        return options[self.below(len(options))]


def _array(choose: Bytes, shape: tuple[int, ...]) -> Any:
    kind = choose.below(8)
    if kind == 0:
        return choose.of(list(hostile.arrays(shape).values()))
    if kind == 1:
        return choose.of(list(hostile.NUMBERS.values()))
    sizes = list(shape)
    for _ in range(choose.below(4) if kind == 2 else 0):
        change = choose.below(3)
        if change == 0 and sizes:
            sizes[choose.below(len(sizes))] = choose.below(6)
        elif change == 1:
            sizes.append(choose.below(4))
        elif sizes:
            sizes.pop()
    a = np.ones(sizes).astype(choose.of(_DTYPES)) if kind == 3 else np.ones(sizes, choose.of(FLOATS[1:]))
    return choose.of(_LAYOUTS)(a) if a.size and kind == 4 else a


def _number(choose: Bytes) -> Any:
    kind = choose.below(4)
    if kind == 0:
        return choose.of(list(hostile.NUMBERS.values()))
    if kind == 1:
        return choose.below(5), choose.below(5)
    return choose.below(5)


def call(data: bytes) -> str:
    """Call what the bytes say; how it ended."""
    choose = Bytes(data)
    function = choose.of(FUNCTIONS)
    target = getattr(F, function.name)
    arguments = {name: _array(choose, shape) for name, shape in function.shapes.items()}
    for name, parameter in inspect.signature(target).parameters.items():
        if name not in arguments:
            if name == "workspace" and choose.below(2):
                proper = F.max_pool2d_forward(np.ones((2, 3, 8, 9)), 3, 2)[1]
                field = choose.of(proper._fields)
                arguments[name] = proper._replace(**{field: _number(choose)}) if choose.below(2) else proper
            elif name == "shape":
                arguments[name] = tuple(_number(choose) for _ in range(choose.below(6)))
            elif parameter.default is parameter.empty or choose.below(2):
                arguments[name] = _number(choose)
    given = [a for a in arguments.values() if type(a) is np.ndarray]
    try:
        with np.errstate(all="ignore"):
            found = target(**arguments)
    except (*_EXPECTED, *_OWN) as error:
        return _ending(error)
    for result in arrays_in(found):
        assert type(result) is np.ndarray, function.name
        if result.dtype.kind == "f":
            assert result.flags.c_contiguous, function.name
            assert result.flags.writeable, function.name
            assert not any(np.may_share_memory(result, a) for a in given), function.name
    return "answered"


def _ending(error: Exception) -> str:
    if isinstance(error, _EXPECTED):
        assert str(error), "no message"
        return type(error).__name__
    assert any(word in str(error) for word in ("key", "no index", "printable", "no more")), error
    return "raised by an argument"


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz.boundary", description=__doc__)
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", action="store_true", help="let Atheris choose the bytes")
    arguments = parser.parse_args()
    if arguments.coverage:
        import atheris

        atheris.instrument_all()
        options = [sys.argv[0], f"-runs={arguments.cases}", f"-seed={arguments.seed + 1}", "-max_len=64"]
        atheris.Setup(options, call)
        atheris.Fuzz()
    started, ends = time.perf_counter(), Counter[str]()
    for index in range(arguments.cases):
        data = random.Random(f"{arguments.seed}:{index}").randbytes(64)
        try:
            ends[call(data)] += 1
        except BaseException:
            print(f"bytes {data.hex()}, seed {arguments.seed}, case {index}", flush=True)
            raise
    took = time.perf_counter() - started
    print(f"{arguments.cases} calls, seed {arguments.seed}: {dict(ends)}, {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
