"""What an object holds: the layers of a model, with the paths to them, and the state of it all."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

_CONTAINERS = (list, tuple, dict)


def walk(root: Any, most: int = 1_000_000) -> Iterator[tuple[str, Any]]:
    """`root` and the containers, arrays and objects in it, nearest first, each once, with their paths.

    Paths read as Python, ``.layers[2].W``. Of objects, those whose classes come from the standard library
    or NumPy are not entered: they hold no layers, and some hold the rest of the program. After `most` of
    them it ends.
    """
    seen: set[int] = set()
    waiting: deque[tuple[str, Any]] = deque([("", root)])
    while waiting and len(seen) < most:
        path, item = waiting.popleft()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield path, item
        for name, value in _parts(item):
            if isinstance(value, (np.ndarray, *_CONTAINERS)) or _enterable(value):
                waiting.append((path + name, value))


def _parts(item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, dict):
        yield from ((f"[{key!r}]", value) for key, value in list(item.items()))
    elif isinstance(item, (list, tuple)):
        yield from ((f"[{i}]", value) for i, value in enumerate(item))
    if _enterable(item):
        attributes = vars(item).copy()
        if "layers" in attributes:  # models hold a layer under several names; this one has the order
            yield ".layers", attributes.pop("layers")
        yield from ((f".{name}", value) for name, value in attributes.items())


def _enterable(item: Any) -> bool:
    if isinstance(item, type) or not isinstance(getattr(item, "__dict__", None), dict):
        return False
    top = type(item).__module__.partition(".")[0]
    return top not in sys.stdlib_module_names and top != "numpy"


class kept:
    """Whatever happens in the block, an object and NumPy's global stream are afterwards as they were.

    Attributes, lists, dicts, the numbers in arrays and random generators come back, in all that `walk`
    finds. `restore` brings them back at any time before.
    """

    def __init__(self, root: Any) -> None:
        self.root = root

    def __enter__(self) -> kept:
        self.stream = np.random.get_state()
        self.attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.lists: list[tuple[list[Any], list[Any]]] = []
        self.arrays: list[tuple[Any, Any]] = []
        self.generators: list[tuple[Any, Any]] = []
        for _, item in walk(self.root):
            if isinstance(item, np.ndarray):
                if item.flags.writeable:
                    self.arrays.append((item, item.copy()))
            elif isinstance(item, list):
                self.lists.append((item, item.copy()))
            elif isinstance(item, dict):
                self.attributes.append((item, item.copy()))
            if _enterable(item):
                self.attributes.append((vars(item), vars(item).copy()))
                for value in vars(item).values():
                    if isinstance(value, np.random.Generator):
                        self.generators.append((value.bit_generator, value.bit_generator.state))
                    elif isinstance(value, np.random.RandomState):
                        self.generators.append((value, value.get_state()))
        return self

    def restore(self) -> None:
        for now, before in self.attributes:
            now.clear()
            now.update(before)
        for items, earlier in self.lists:
            items[:] = earlier
        for array, numbers in self.arrays:
            array[...] = numbers
        for generator, state in self.generators:
            if isinstance(generator, np.random.RandomState):
                generator.set_state(state)
            else:
                generator.state = state
        np.random.set_state(self.stream)

    def __exit__(self, *_: object) -> None:
        self.restore()
