"""Packages that some commands need and the library does not."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtra(ImportError):
    """A package of an extra is not installed; the message is the line that installs it."""


def need(module: str, extra: str) -> Any:
    """Import a module of an extra, or raise `MissingExtra` with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        hint = f"{package} is not installed; it comes with: pip install 'fastconv[{extra}]'"
        raise MissingExtra(hint) from None
