"""``fastconv profile``: record a script, or compare a model's compiled and pure runs."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import _check as check
from .. import backend
from ..extras import need
from ..swapping import command as swapping
from .compare import profile
from .recorder import record
from .report import SORTS, Shown


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
    if options.threads is not None:
        backend.set_num_threads(options.threads)
    if options.program is not None:
        return swapping.run(options, around=lambda program: _record(program, options))
    if options.input is None:
        raise ProfileError("--model wants --input, say --input 8x3x32x32")
    model, x = _model(options.model), _input(options.input, options.dtype)
    if options.dtype is not None and hasattr(model, "astype"):
        model.astype(options.dtype)
    _write(profile(model, x, train=options.train, budget=options.budget), options)
    return 0


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
    match = re.fullmatch(r"(\w+(?:\.\w+)*):(\w+(?:\.\w+)*)", text)
    if match is None:
        raise ProfileError(f"--model {text!r} is not like module:factory")
    sys.path.insert(0, "")  # modules of this folder count, as with python -m
    try:
        found: Any = importlib.import_module(match[1])
    except ModuleNotFoundError as error:
        if error.name is None or not match[1].startswith(error.name):
            raise
        raise ProfileError(f"--model {text!r}: there is no module {error.name!r}") from None
    for name in match[2].split("."):
        if not hasattr(found, name):
            raise ProfileError(f"--model {text!r}: {getattr(found, '__name__', found)} has no {name!r}")
        found = getattr(found, name)
    if isinstance(found, type) or not hasattr(found, "forward"):
        if not callable(found):
            raise ProfileError(f"--model {text!r} gives {type(found).__name__}, which has no forward")
        np.random.seed(0)
        found = found()
    if not callable(getattr(found, "forward", None)):
        raise ProfileError(f"--model {text!r} gives {type(found).__name__}, which has no forward")
    return found


def _input(text: str, dtype: str | None) -> Any:
    """Standard normal numbers in a shape like 8x3x32x32."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise ProfileError(f"--input {text!r} is not like 8x3x32x32")
    try:
        shape = tuple(map(int, text.split("x")))
        check.fits("an array", shape, check.FLOAT64.itemsize)
    except (MemoryError, ValueError) as error:
        raise ProfileError(f"--input {text!r:.40}: {error}") from None
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
            print(f"fastconv profile: wrote {Path(path)}", file=sys.stderr)
    found.show(options.sort, options.rows)
