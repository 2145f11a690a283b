"""The libraries that can be measured, each behind the interface of `base.py`."""

from __future__ import annotations

from collections.abc import Sequence

from .. import BenchError
from .arrays import Arrays
from .base import Call, Contender
from .jax import Jax
from .numpy import NumPy
from .onnx import Onnx
from .ours import Compiled, Direct, Pure
from .torch import Torch

__all__ = ["NAMES", "Arrays", "Call", "Contender", "choose"]

_CLASSES: dict[str, type[Contender]] = {
    cls.name: cls for cls in (Compiled, Direct, Pure, NumPy, Torch, Jax, Onnx)
}
NAMES = tuple(_CLASSES)


def choose(names: Sequence[str]) -> tuple[dict[str, Contender], list[str]]:
    """The contenders of those names that are installed, and the names of those that are not.

    Raises
    ------
    BenchError
        There is none of that name.
    """
    for name in names:
        if name not in _CLASSES:
            raise BenchError(f"unknown contender {name!r}, wanted some of {', '.join(NAMES)}")
    wanted = dict.fromkeys(names)
    missing = [name for name in wanted if not _CLASSES[name].installed()]
    return {name: _CLASSES[name]() for name in wanted if name not in missing}, missing
