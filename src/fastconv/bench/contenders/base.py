"""What every contender does."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

from .arrays import Arrays

Call = Callable[[], Any]


class Contender:
    """A library that computes problems.

    There is a method for each family of problems it knows: `conv`, `pool`, `bn`, `activation`,
    `linear`, `loss`, `model`. It takes the arrays and returns a call without arguments for each
    pass. A call takes NumPy arrays as they are, and returns NumPy arrays: for "fwd" the result, for
    "dX" the gradient of the input, for "dW" those of weights and bias, for "bwd" all of them. What a
    program does once (compiling, arranging weights as the library keeps them) is not in it;
    everything it does at every call is.
    """

    name: ClassVar[str]
    # The packages it is, besides NumPy.
    modules: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def installed(cls) -> bool:
        return all(find_spec(module) is not None for module in cls.modules)

    def version(self) -> str:
        return importlib.metadata.version(self.modules[-1])

    def set_threads(self, count: int) -> None:
        """Run on so many threads from now on, where the library can change it."""

    def call(self, arrays: Arrays, pass_: str) -> Call | None:
        """The call for a pass, or None if the library has none."""
        method = getattr(self, arrays.problem.family, None)
        if method is None:
            return None
        calls: Mapping[str, Call] = method(arrays)
        # Where a library has no layers of its own, its functions stand in for them.
        return calls.get(pass_) or calls.get(pass_.removeprefix("layer "))
