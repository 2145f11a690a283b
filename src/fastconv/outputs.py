"""Files that a command is to write at its end."""

from __future__ import annotations

import os


def cannot_write(path: str) -> str | None:
    """Why a file cannot be written, or None: to be asked before what takes long."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        return f"cannot write {path}: it is a folder"
    if not os.path.isdir(folder):
        return f"cannot write {path}: there is no folder {folder}"
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        return f"cannot write {path}: permission denied"
    return None
