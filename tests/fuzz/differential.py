"""One problem on both backends, against its reference and, where a layer does the same, against that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import fastconv as fc
from fastconv import backend
from support import same_bits

from .arrays import make
from .operations import OPERATIONS, real_of
from .problems import Problem
from .references import Expected


def failures(problem: Problem) -> list[str]:
    """What is wrong with the answers to a problem, a line each."""
    operation = OPERATIONS[problem.operation]
    rng = np.random.default_rng(problem.sizes["seed"])
    shapes = operation.shapes(problem.sizes)
    arrays = {name: make(problem.arrays[name], shape, rng) for name, shape in shapes.items()}
    before = {name: np.asarray(a).tobytes() for name, a in arrays.items()}
    real = real_of(operation, arrays)
    with np.errstate(all="ignore"):
        expected = operation.expect(problem.sizes, real, **{n: np.asarray(a) for n, a in arrays.items()})
        lines = []
        for name in ("compiled", "pure"):
            with fc.use_backend(name), fc.use_conv_algorithm(problem.sizes["algorithm"]):
                threads = backend._threads
                least, backend.SERIAL_BELOW = backend.SERIAL_BELOW, 0  # small problems on threads, too
                fc.set_num_threads(problem.sizes["threads"])
                try:
                    found = operation.run(problem.sizes, **arrays)
                    layered = operation.layer(problem.sizes, **arrays) if operation.layer else ()
                finally:
                    backend.SERIAL_BELOW = least
                    fc.set_num_threads(threads)
            lines += [f"{name}: {line}" for line in _compare(found, expected)]
            lines += [
                f"{name}: the layer's result {i} is another"
                for i, (a, b) in enumerate(zip(layered, found)) if not same_bits(a, b)
            ]
    lines += [f"{n} was changed" for n, a in arrays.items() if np.asarray(a).tobytes() != before[n]]
    return lines


def _compare(found: tuple[Any, ...], expected: list[Expected]) -> Iterator[str]:
    if len(found) != len(expected):
        yield f"{len(found)} results, not {len(expected)}"
    for i, (result, (value, bound, free)) in enumerate(zip(found, expected)):
        if np.shape(result) != np.shape(value):
            yield f"result {i} has shape {np.shape(result)}, not {np.shape(value)}"
            continue
        result = np.asarray(result)
        if result.dtype.kind == "f":
            # A gradient may be narrowed to the dtype of what it is of.
            limits = np.finfo(result.dtype)
            narrowed = limits.eps * np.where(np.isfinite(value), abs(value), 0) + np.longdouble(
                limits.smallest_subnormal)
            bound = np.where(np.asarray(bound) == 0, 0, bound + narrowed) if result.itemsize == 8 else (
                bound + narrowed * (limits.eps > np.finfo(value.dtype).eps) * (np.asarray(bound) != 0))
            free = free | (np.isfinite(value) & (abs(value) + bound > limits.max) & np.isinf(result))
        wide = result.astype(np.longdouble)
        right = (np.isnan(value) & np.isnan(wide)) | (value == wide) | (abs(wide - value) <= bound) | free
        if not right.all():
            worst = tuple(int(k) for k in np.argwhere(~np.broadcast_to(right, wide.shape))[0])
            bounds = np.broadcast_to(bound, wide.shape)
            yield (
                f"result {i}{list(worst)} is {wide[worst]!s}, not {value[worst]!s} within {bounds[worst]!s} "
                f"({np.size(right) - np.count_nonzero(right)} of {wide.size})"
            )
