"""Every rule about arguments, each in one place.

`functional` passes whatever a caller gave through here before it allocates or changes anything.
Messages name the argument, what came and what was wanted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = tuple[int, int]

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_LARGE = 1 << 30  # bytes from which a request is held against the machine's memory
_DEEPEST = 64  # lists in lists, as many as NumPy's dimensions


# ---- arrays --------------------------------------------------------------------------------------


def array(name: str, value: Any, ndim: int | None = None) -> Array:
    """`value` as an ndarray of real numbers with `ndim` dimensions; nothing is copied but lists.

    It is a view that nobody else has: what is checked of it stays so, whoever assigns to the shape of
    the caller's array meanwhile (the `__array__` of the next argument, another thread).
    """
    a = (value if type(value) is np.ndarray else _to_ndarray(name, value)).view()
    if a.dtype is not FLOAT64 and a.dtype is not FLOAT32:
        _check_dtype(name, a.dtype)
    if ndim is not None and a.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, but its shape is {a.shape}")
    return a


def _to_ndarray(name: str, value: Any) -> Array:
    wanted = "an array of real numbers"
    if value is None or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be {wanted}, not {value!r:.40}")
    known = isinstance(value, (np.ndarray, np.generic, list, tuple, bool, int, float, range))
    if not known and not hasattr(value, "__array__") and not hasattr(value, "__array_interface__"):
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")
    if isinstance(value, (list, tuple)):
        fits(name, (_numbers_in(name, value, {}),), FLOAT64.itemsize)
    try:
        found = np.asanyarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be {wanted}, and {error}") from None
    except Exception as error:  # whatever a foreign __array__ raises
        raise TypeError(f"{name} must be {wanted}: {type(value).__name__} says {error}") from error
    _check_unmasked(name, found)
    return np.asarray(found)


def _numbers_in(name: str, value: Sequence[Any], known: dict[int, int], depth: int = 1) -> int:
    """How many numbers lists in lists hold, each list looked at once.

    NumPy would look at each as often as it is there, without an end at one within itself, and drop masks.
    """
    numbers = known.get(id(value))
    if numbers is None:
        known[id(value)] = -1
        numbers = len(value)
        # Types first: most lists hold nothing but numbers.
        if any(issubclass(kind, (list, tuple, np.ma.MaskedArray)) for kind in set(map(type, value))):
            if depth == _DEEPEST:
                raise ValueError(f"{name} must be an array of real numbers, not lists {depth} deep")
            for item in value:
                _check_unmasked(name, item)
                if isinstance(item, (list, tuple)):
                    numbers += _numbers_in(name, item, known, depth + 1) - 1
        known[id(value)] = numbers
    elif numbers < 0:
        raise ValueError(f"{name} must be an array of real numbers, not a list within itself")
    return numbers


def _check_unmasked(name: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray):
        mask = np.ma.getmask(value)
        if mask.dtype != bool or mask.any():  # that of records is one of records
            raise TypeError(f"{name} must be an array of real numbers, not a masked array with a mask set")


def _check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf" or dtype.char == "g":
        raise TypeError(
            f"{name} must hold bool, integers or floating-point numbers up to float64, not {dtype}"
        )


def real_dtype(*arrays: Array) -> np.dtype[Any]:
    """The dtype to compute in: NumPy's promotion, narrowed to float32 or float64."""
    first = arrays[0].dtype
    if first is FLOAT64 or first is FLOAT32:
        for a in arrays:
            if a.dtype is not first:
                break
        else:
            return first
    return _real(np.result_type(*(a.dtype for a in arrays)), alone=len(arrays) == 1)


def _real(dtype: np.dtype[Any], alone: bool = False) -> np.dtype[Any]:
    if dtype.kind == "f" and (dtype.itemsize == 4 or (dtype.itemsize == 2 and not alone)):
        return FLOAT32
    return FLOAT64


def gradient_dtype(of: Array, computed: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the gradient with respect to `of`: its own, or what was computed in."""
    if of.dtype.kind == "f" and of.dtype.itemsize in (4, 8):
        return FLOAT32 if of.dtype.itemsize == 4 else FLOAT64
    return computed


def narrowed(gradient: Array, of: Array, computed: np.dtype[Any]) -> Array:
    """`gradient`, computed in that dtype, in the dtype of what it is the gradient of."""
    if of.dtype is computed:
        return gradient
    return gradient.astype(gradient_dtype(of, computed), copy=False)


def ready(a: Array, dtype: np.dtype[Any], name: str | None = None) -> Array:
    """`a` as a kernel needs it: of that dtype, native, aligned, C-contiguous. Itself if it is so.

    With a name, a copy is held against the machine's memory first (`fits`).
    """
    flags = a.flags
    if a.dtype is dtype and flags.c_contiguous and flags.aligned:
        return a
    if name is not None:
        fits(name, a.shape, dtype.itemsize)
    return a.astype(dtype, order="C", subok=False)


def same_shape(name: str, a: Array, shape: tuple[int, ...], owner: str) -> None:
    if a.shape != shape:
        raise ValueError(f"{name} has shape {a.shape}, but {owner} has {shape}")


def not_empty(name: str, a: Array) -> None:
    """Only the batch, the first axis, may be empty."""
    if 0 in a.shape[1:]:
        raise ValueError(f"{name} has shape {a.shape}: only the batch may be empty")


def vector(name: str, value: Any, size: int, of: str) -> Array:
    """A number for each channel: shape (size,), or (1, size, 1, 1)."""
    a = array(name, value)
    if a.shape not in ((size,), (1, size, 1, 1)):
        raise ValueError(f"{name} has shape {a.shape}, but {of} has {size} channels")
    return a.reshape(size)


# ---- memory --------------------------------------------------------------------------------------


def fits(what: str, shape: Sequence[int], itemsize: int) -> int:
    """The bytes of an array of that shape. Raise if it cannot be, before anything tries to make it.

    Left to itself the system hands out address space that it cannot back, and kills the process
    when it is used.
    """
    size = prod(shape) * itemsize
    if size < _LARGE:
        return size
    if size > sys.maxsize:
        raise ValueError(f"{what} of shape {tuple(shape)} is larger than any array can be")
    if size > _physical_memory():
        raise MemoryError(f"{what} of shape {tuple(shape)} needs {size} bytes, more than this machine has")
    return size


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def copied(a: Array) -> Array:
    """A result that is a copy of an argument's numbers, in the dtype to compute in."""
    dtype = real_dtype(a)
    fits("the result", a.shape, dtype.itemsize)
    return a.astype(dtype, order="C")


# ---- numbers and choices -------------------------------------------------------------------------


def integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {value!r:.40}")
    exact = int(value)  # a subclass may compare as it likes
    if exact < least:
        raise ValueError(f"{name} must be at least {least}, not {exact}")
    return exact


def listed(name: str, values: Any) -> list[Any]:
    """What a sequence holds."""
    try:
        return list(values)
    except TypeError:
        raise TypeError(f"{name} must be a sequence, not {type(values).__name__}") from None


def integers(name: str, values: Any, least: int) -> list[int]:
    return [integer(f"{name}[{i}]", value, least) for i, value in enumerate(listed(name, values))]


def pair(name: str, value: Any, least: int) -> Pair:
    """An integer for both axes, or one for each as (height, width)."""
    if type(value) is int and value >= least:
        return value, value
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be an integer or a pair of them, not {value!r:.40}")
        return integer(name, value[0], least), integer(name, value[1], least)
    value = integer(name, value, least)
    return value, value


def number(name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> float:
    if type(value) is np.ndarray and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, not {value!r:.40}")
    try:
        exact = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be from {low} to {high}, not an integer beyond float64") from None
    if not low <= exact <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {exact}")
    return exact


def parameter_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of a layer's parameters: float32 or float64."""
    try:
        wanted = np.dtype(dtype)
    except Exception:  # whatever an object raises whose attributes NumPy reads
        wanted = None
    if wanted is None or wanted not in (FLOAT32, FLOAT64):
        raise TypeError(f"dtype must be 'float32' or 'float64', not {dtype!r:.40}")
    return FLOAT32 if wanted == FLOAT32 else FLOAT64


def saved(layer: Any, **states: Any) -> None:
    """Raise unless a forward has stored all that backward needs."""
    if any(state is None for state in states.values()):
        raise RuntimeError(f"{type(layer).__name__}.backward called before forward")


