"""The forward and backward of a class that stands in for a user's.

They are the compiled layer's, but for what a program can tell. Where the user's backward adds to the
gradients, or fills their arrays, so does this one. Where a layer inside is no longer as the course has
it (patched, of another class, of another size), the user's own composition of the layers runs. The
layer inside can be asked for what it would have kept. And errors are the user's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import functional as F
from ..nn import Layer
from ..nn.conv import ConvOuter, ConvStride1
from ..nn.pool import _Pool2d
from .catalogue import OLDER_GRADIENTS
from .recognise import first_argument
from .source import gradients_kept, plain
from .state import is_known_part

if TYPE_CHECKING:
    from .replace import Replacement

Method = Callable[..., Any]

# The layers that have last computed in the place of a layer inside, by its id.
_in_place_of = weakref.WeakValueDictionary[int, Any]()


def method_of(replacement: Replacement, name: str, inherits: bool) -> Method:
    """`forward` or `backward`; the compiled layer's own where nothing is to be added.

    `inherits` says whether the class is derived from the user's.
    """
    fast = replacement.fast
    method: Method = plain(getattr(fast, name))
    if name == "backward" and issubclass(fast, (ConvStride1, ConvOuter)):
        method = _keeping_gradients(replacement, method)
    parts = _parts(fast)
    if parts and name == "forward":
        method = _known_inside(method, parts[0])
    guarded = _guarded(replacement, name, method) if inherits else method
    method = guarded if replacement.check is None else _verified(replacement, name, method, guarded)
    if parts and inherits and not replacement.recognised.unwritten:
        method = _composed(replacement, name, method, parts)
    return _named(_renamed(replacement, name, method), getattr(replacement.original, name))


def _named(method: Any, theirs: Any) -> Method:
    """A copy of a function that goes by the name of the user's, in profiles and tracebacks say."""
    named = FunctionType(
        method.__code__, method.__globals__, theirs.__name__, method.__defaults__, method.__closure__
    )
    named.__dict__.update(method.__dict__)
    named.__kwdefaults__, named.__annotations__ = method.__kwdefaults__, method.__annotations__
    named.__qualname__, named.__doc__ = theirs.__qualname__, theirs.__doc__
    return named


# ---- gradients that are not set anew -------------------------------------------------------------


def _keeping_gradients(replacement: Replacement, method: Method) -> Method:
    if issubclass(replacement.fast, ConvStride1) and not replacement.recognised.gradients:
        return method

    def backward(self: Any, dLdZ: Any) -> Any:
        holder: Any = self.inner if isinstance(self, ConvOuter) else self
        cls: Any = type(holder)
        kept = replacement.recognised.gradients or _kept_by(cls)
        before = [(name, use, getattr(holder, OLDER_GRADIENTS.get(name, name))) for name, use in kept.items()]
        dLdA = method(self, dLdZ)
        for name, use, array in before:
            if isinstance(array, np.ndarray):  # it may have been None
                _into(holder, OLDER_GRADIENTS.get(name, name), use, array)
        return dLdA

    return backward


def _into(holder: Any, name: str, use: str, array: Any) -> None:
    """Put a new gradient into the array of the one before, or add it."""
    new = getattr(holder, name)
    if array.shape != new.shape or array.dtype != new.dtype or not array.flags.writeable:
        if use == "add":
            setattr(holder, name, array + new)
        return
    np.add(array, new, out=array) if use == "add" else np.copyto(array, new)
    setattr(holder, name, array)


@lru_cache(maxsize=256)
def _kept_by(cls: type) -> Mapping[str, str]:
    """What the backward of a layer inside does with the gradients."""
    found = getattr(cls, "_fastconv_replacement", None)
    if found is not None:
        kept: Mapping[str, str] = found.recognised.gradients
        return kept
    return {} if issubclass(cls, Layer) else gradients_kept(getattr(cls, "backward", None))


# ---- layers inside -------------------------------------------------------------------------------


def _known_inside(method: Method, part: str) -> Method:
    """The inner layer is not called, but what it would have kept can be had."""

    def forward(self: Any, A: Any) -> Any:
        Z = method(self, A)
        inner = vars(self)[part]
        if hasattr(type(inner), "_fastconv_replacement"):
            state = vars(inner)
            state.pop("A", None)
            state.pop("_workspace", None)
            _in_place_of[id(inner)] = self
        return Z

    return forward


def catch_up(inner: Any) -> None:
    """Let an inner layer keep what it would have kept of the outer one's last forward."""
    state = vars(inner)
    if "A" in state or not isinstance(inner, (ConvStride1, _Pool2d)):
        return
    outer = _in_place_of.pop(id(inner), None)
    if outer is not None and not any(value is inner for value in vars(outer).values()):
        outer = None  # of another layer that has had this id
    A = None if outer is None else outer.A
    state["A"] = None
    if isinstance(inner, _Pool2d):
        state["_workspace"] = None
    if A is None:
        return
    if isinstance(inner, _Pool2d):
        state["A"], state["_workspace"] = A, inner._forward(A, inner.kernel, inner.stride)[1]
        return
    _, pad, factor = outer._steps()
    axes = np.ndim(A) - 2
    if factor > 1:
        A = F.upsample(A, factor, axes)
    state["A"] = np.pad(A, ((0, 0), (0, 0), *[(pad, pad)] * axes)) if pad else A


def _parts(fast: type[Layer]) -> tuple[str, ...]:
    """The attributes that hold the layers inside one of these."""
    names = {
        "Conv1d": ("conv1d_stride1", "downsample1d"),
        "Conv2d": ("conv2d_stride1", "downsample2d"),
        "ConvTranspose1d": ("conv1d_stride1", "upsample1d"),
        "ConvTranspose2d": ("conv2d_stride1", "upsample2d"),
        "MaxPool2d": ("maxpool2d_stride1", "downsample2d"),
        "MeanPool2d": ("meanpool2d_stride1", "downsample2d"),
    }
    return names.get(fast.__name__, ())


def _composed(replacement: Replacement, name: str, method: Method, parts: tuple[str, ...]) -> Method:
    theirs = plain(getattr(replacement.original, name))

    @wraps(theirs)
    def composed(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = vars(self)
        for part in parts:
            if not _as_made(state, part, state[part]):
                return theirs(self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return composed


# Sizes of a layer inside, and what the outer layer calls them.
_SIZES = {"downsampling_factor": "stride", "upsampling_factor": "upsampling_factor", "kernel": "kernel"}


def _as_made(outer: Mapping[str, Any], name: str, part: Any) -> bool:
    """Whether a layer inside is of its class and size, and computes by the methods of its class."""
    cls, state = type(part), vars(part)
    if "forward" in state or "backward" in state:
        return False
    for size in state.keys() & _SIZES.keys():
        if state[size] != outer.get(_SIZES[size]):
            return False
    found = vars(cls).get("_fastconv_replacement")
    if found is not None:
        made: dict[str, Method] = found.methods
        return all(plain(vars(cls).get(method)) is made.get(method) for method in ("forward", "backward"))
    return cls.__module__.startswith("fastconv.") or is_known_part(name, part)


# ---- calls ---------------------------------------------------------------------------------------


def _guarded(replacement: Replacement, name: str, method: Method) -> Method:
    """What the compiled layer will not take is the user's: an error, or a result all the same."""

    @wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (TypeError, ValueError, RuntimeError) as error:
            ours = error
        return replacement.instead(self, name, args, kwargs, ours)

    return guarded


def _verified(replacement: Replacement, name: str, method: Method, otherwise: Method) -> Method:
    checks = replacement.checks

    @wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        check = checks.get(id(self))
        if check is None:
            return otherwise(self, *args, **kwargs)
        return getattr(check, name)(self, method, otherwise, args, kwargs)

    return checked


def _renamed(replacement: Replacement, name: str, method: Method) -> Method:
    """Also with its first argument, the data, under the name that the user's method has for it."""
    ours = first_argument(getattr(replacement.fast, name))
    theirs = first_argument(getattr(replacement.original, name))
    if ours is None or theirs is None or ours == theirs:
        return method

    @wraps(method)
    def renamed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if theirs in kwargs:
            args = (kwargs.pop(theirs), *args)
        return method(self, *args, **kwargs)

    return renamed
