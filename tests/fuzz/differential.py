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

Results = tuple[Any, ...]


def results(problem: Problem, name: str, arrays: dict[str, Any]) -> tuple[Results, Results]:
    """What the functions give on a backend, and a layer (nothing where no layer does the same)."""
    operation, sizes = OPERATIONS[problem.operation], problem.sizes
    threads, least = backend._threads, backend.SERIAL_BELOW
    with fc.use_backend(name), fc.use_conv_algorithm(sizes["algorithm"]):
        backend.SERIAL_BELOW = 0  # small problems on threads, too
        fc.set_num_threads(sizes["threads"])
        try:
            found = operation.run(sizes, **arrays)
            return found, operation.layer(sizes, **arrays) if operation.layer else ()
        finally:
            backend.SERIAL_BELOW = least
            fc.set_num_threads(threads)


def make_arrays(problem: Problem) -> dict[str, Any]:
    rng = np.random.default_rng(problem.sizes["seed"])
    shapes = OPERATIONS[problem.operation].shapes(problem.sizes)
    return {name: make(problem.arrays[name], shape, rng) for name, shape in shapes.items()}


def failures(problem: Problem) -> list[str]:
    """What is wrong with the answers to a problem, a line each."""
    operation, arrays = OPERATIONS[problem.operation], make_arrays(problem)
    before = {name: np.asarray(a).tobytes() for name, a in arrays.items()}
    real = real_of(operation, arrays)
    lines = []
    with np.errstate(all="ignore"):
        expected = operation.expect(problem.sizes, real, **{n: np.asarray(a) for n, a in arrays.items()})
        for name in ("compiled", "pure"):
            found, layered = results(problem, name, arrays)
            lines += [f"{name}: {line}" for line in _compare(found, expected)]
            lines += [
                f"{name}: the layer's result {i} is another"
                for i, (a, b) in enumerate(zip(layered, found)) if not _same(a, b)
            ]
    lines += [f"{n} was changed" for n, a in arrays.items() if np.asarray(a).tobytes() != before[n]]
    return lines


def run_compiled(problem: Problem) -> list[str]:
    """Only run the kernels: for checkers of memory, which need no reference."""
    with np.errstate(all="ignore"):
        results(problem, "compiled", make_arrays(problem))
    return []


def _same(a: Any, b: Any) -> bool:
    """Equal bits; but which sign a NaN has depends on where in a vector it was."""
    return same_bits(np.isnan(a), np.isnan(b)) and same_bits(*(np.where(np.isnan(x), 0, x) for x in (a, b)))


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
