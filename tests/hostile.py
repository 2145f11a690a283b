"""Objects that are no proper arguments, or lie about what they are: for the tests and the fuzzer."""

import array
import itertools
from typing import Any

import numpy as np


class Lying:
    """An array by `__array__`, of whatever is given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class Interface:
    def __init__(self, interface: Any) -> None:
        self.__array_interface__ = interface


class Unreadable(np.ndarray):
    """A subclass that says wrong things of itself."""

    shape = property(lambda self: (10**6,) * 4)
    dtype = property(lambda self: np.dtype("f4"))
    strides = property(lambda self: (0,))
    size = property(lambda self: -1)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.zeros(3)


class Finalized(np.ndarray):
    """A subclass of which nothing can be made."""

    made = 0

    def __array_finalize__(self, other: Any) -> None:
        if Finalized.made:
            raise RuntimeError("no more of them")


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("not printable")


class Integer(int):
    """Compares as every bound would have it, and is another number when it is asked."""

    __lt__ = __le__ = lambda self, other: False
    __gt__ = __ge__ = lambda self, other: True
    __int__ = __index__ = lambda self: -7


class Indexed:
    """An integer by `__index__` alone."""

    def __index__(self) -> int:
        return 2


class Failing:
    def __index__(self) -> int:
        raise OSError("no index")

    __int__ = __float__ = __index__


class Float(float):
    __le__ = __ge__ = lambda self, other: True

    def __float__(self) -> float:
        return float("nan")


class Pair(tuple):
    """Of another length each time."""

    lengths = itertools.cycle((2, 1, 3))

    def __len__(self) -> int:
        return next(self.lengths)


class Text(str):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


def in_itself(times: int = 1) -> list[Any]:
    endless: list[Any] = []
    endless += [endless] * times
    return endless


def doubled(times: int) -> Any:
    """A few short lists that hold 2**times numbers."""
    value: Any = 1.0
    for _ in range(times):
        value = [value, value]
    return value


def arrays(shape: tuple[int, ...]) -> dict[str, Any]:
    """In the place of an array of that shape: nothing in it may crash, hang or pass for a proper array."""
    some = np.ones(shape)
    Finalized.made = 0
    finalized = some.view(Finalized)
    Finalized.made = 1
    return {
        "__array__ that raises": Lying(KeyError("key")),
        "__array__ of text": Lying("text"),
        "__array__ of a number": Lying(3),
        "__array__ of objects": Lying(np.empty(shape, object)),
        "__array__ of None": Lying(None),
        "__array_interface__ without data": Interface({"shape": shape, "typestr": "<f8", "version": 3}),
        "__array_interface__ of text": Interface("text"),
        "__array_interface__ of negative sizes": Interface(
            {"shape": (-2,) * len(shape), "typestr": "<f8", "version": 3, "data": (0, False)}
        ),
        "subclass that lies": some.view(Unreadable),
        "subclass that cannot be made": finalized,
        "no repr": Unprintable(),
        "list in itself": in_itself(),
        "list in itself twice": in_itself(2),
        "lists of 2**60 numbers": doubled(60),
        "lists in lists": doubled(100),
        "memoryview": memoryview(some),
        "array.array": array.array("d", [1.0]),
        "bytearray": bytearray(8),
        "iterator": iter([1.0]),
        "huge integers": [10**400],
        "ragged": [[1.0], [2.0, 3.0]],
        "64 dimensions": np.ones((0,) * 32),
        "zero dimensions": np.array(3.0),
        "too large to exist": np.broadcast_to(1.0, (2**50, 2)),
        "no numbers": np.ones((0,) * len(shape)),
        "masked": np.ma.masked,
        "dates": np.zeros(shape, "M8[s]"),
        "records": np.zeros(shape, "f8,f8"),
        "a function": arrays,
        "slice": slice(None),
        "NaN": np.full(shape, np.nan),
        "largest numbers": np.full(shape, np.finfo(float).max),
        "dtype with metadata": np.ones(shape, np.dtype("f8", metadata={"a": 1})),
        "one number everywhere": np.lib.stride_tricks.as_strided(np.ones(1), shape, (0,) * len(shape)),
    }


NUMBERS: dict[str, Any] = {
    "None": None, "text": "3", "lying text": Text("no"), "True": True, "np.True_": np.True_, "float": 2.0,
    "np.float32": np.float32(2), "NaN": float("nan"), "infinity": float("inf"), "complex": 1j, "0": 0,
    "-1": -1,
    "2**62": 2**62, "2**63": 2**63, "-2**63": -(2**63), "2**64 - 1": np.uint64(2**64 - 1), "10**400": 10**400,
    "-10**400": -(10**400), "lying integer": Integer(5), "lying float": Float(0.5), "__index__": Indexed(),
    "__index__ that fails": Failing(), "no repr": Unprintable(), "list": [2], "three": (2, 2, 2),
    "lying pair": Pair((2, 2)), "pair of liars": (Integer(3), Integer(3)), "pair of None": (None, None),
    "array": np.array([2, 2]), "0-d array": np.array(2), "set": {2}, "type": int, "function": len,
}
