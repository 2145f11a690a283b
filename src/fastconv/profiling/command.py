"""``fastconv profile``: record a script, or compare a model's compiled and pure runs."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from .. import backend
from ..extras import need
from ..outputs import cannot_write
from ..swapping import command as swapping
from ..swapping.graph import convert
from .compare import profile
from .places import PROGRAM
from .recorder import record
from .report import SORTS, Shown

_FILES = ("json", "html", "trace", "pstats", "plot")


class ProfileError(Exception):
    """What was asked for cannot be; the message is one line that says what can."""


def run(options: argparse.Namespace) -> int:
    """Run the command; `options` are those of the command line (`cli.py`). Returns the exit status.

    Raises
    ------
    ProfileError
        An option asks for what cannot be.
    MissingExtra
        A package of the extra `profile` is not installed.
    """
    need("rich", "profile")  # before anything that takes long
    if options.plot:
        need("matplotlib", "profile")
    if options.sort not in SORTS:
        raise ProfileError(f"--sort {options.sort!r} is none of {', '.join(SORTS)}")
    if (options.program is None) == (options.model is None):
        raise ProfileError("give either a script or --model")
    for name in _FILES:
        path = getattr(options, name)
        if path is not None:
            if reason := cannot_write(path):
                raise ProfileError(reason)
            setattr(options, name, os.path.abspath(path))  # a program may change the folder
    if options.threads is not None:
        backend.set_num_threads(options.threads)
    if options.program is not None:
        for name in ("input", "dtype", "train"):
            if getattr(options, name):
                raise ProfileError(f"--{name} goes with --model: a script has its own")
        return swapping.run(options, around=lambda program: _record(program, options))
    if options.input is None:
        raise ProfileError("--model wants --input, say --input 8x3x32x32")
    _write(_compared(options), options)
    return 0


def _compared(options: argparse.Namespace) -> Shown:
    x = _input(options.input, options.dtype)
    model = _model(options.model)
    try:
        if options.dtype is not None:
            if hasattr(model, "astype"):
                model.astype(options.dtype)
            convert(model, options.dtype, options.include)
        found = profile(model, x, train=options.train, budget=options.budget)
    except Exception as error:
        what = f"--model {options.model} on --input {options.input}"
        raise ProfileError(f"{what}: {_told(error)}") from error
    others = [row for row in found.rows if row.dtype not in (None, options.dtype or row.dtype)]
    if others:
        row = max(others, key=lambda row: row.depth)
        told = f"the {row.pass_} of {row.path} ({row.layer}) gives {row.dtype}"
        print(f"fastconv profile: not all is {options.dtype}: {told}", file=sys.stderr)
    return found


def _told(error: Exception) -> str:
    """An error of the model's code, and where it was raised, in a line."""
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if PROGRAM.owns(str(frame.f_globals.get("__name__")), file):
            where = f" ({file}, line {line})"
    return f"{type(error).__name__}: {error}{where}"


def _record(program: Callable[[], None], options: argparse.Namespace) -> None:
    """Run a program and show where its time went, however it ends."""
    recording = record(title=" ".join((options.program, *options.arguments)))
    try:
        with recording:
            program()
    finally:
        _write(recording, options)


def _model(text: str) -> Any:
    """What ``module:factory`` names: called if it is no model itself."""
    match = re.fullmatch(r"([\w.]+):([\w.]+)", text)
    if match is None:
        raise ProfileError(f"--model {text!r} is not like module:factory")
    sys.path.insert(0, "")  # modules of this folder count, as with python -m
    try:
        found: Any = importlib.import_module(match[1])
    except ModuleNotFoundError as error:
        if error.name is None or not match[1].startswith(error.name):
            raise
        hint = f"; say {text.replace('.py:', ':')}" if error.name.endswith(".py") else ""
        raise ProfileError(f"--model {text!r}: there is no module {error.name!r}{hint}") from None
    for name in match[2].split("."):
        if not hasattr(found, name):
            raise ProfileError(f"--model {text!r}: {getattr(found, '__name__', found)} has no {name!r}")
        found = getattr(found, name)
    if isinstance(found, type) or not hasattr(found, "forward"):
        found = _made(text, found)
    if not callable(getattr(found, "forward", None)):
        raise ProfileError(f"--model {text!r} gives {type(found).__name__}, which has no forward")
    return found


def _made(text: str, factory: Any) -> Any:
    if not callable(factory):
        raise ProfileError(f"--model {text!r} is a {type(factory).__name__}, no model and no function")
    try:
        with suppress(ValueError):  # it tells no signature
            inspect.signature(factory).bind()
    except TypeError as error:
        raise ProfileError(f"--model {text!r} is called without arguments: {error}") from None
    np.random.seed(0)
    try:
        return factory()
    except Exception as error:
        raise ProfileError(f"--model {text!r}: {_told(error)}") from error


def _input(text: str, dtype: str | None) -> Any:
    """Standard normal numbers in a shape like 8x3x32x32."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise ProfileError(f"--input {text!r} is not like 8x3x32x32")
    shape = tuple(map(int, text.split("x")))
    return np.random.default_rng(0).standard_normal(shape).astype(dtype or "float64")


def _write(found: Shown, options: argparse.Namespace) -> None:
    """Files first: they are there even if the reader of the table has gone."""
    writers: dict[str, Callable[[str], None]] = {
        "json": found.to_json, "html": found.to_html, "trace": found.to_trace, "pstats": found.to_pstats,
        "plot": found.to_plot,
    }  # fmt: skip
    for name, write in writers.items():
        path = getattr(options, name)
        if path is not None:
            try:
                write(path)
            except OSError as error:
                raise ProfileError(f"cannot write {path}: {error.strerror}") from None
            print(f"fastconv profile: wrote {path}", file=sys.stderr)
    found.show(options.sort, options.rows)
