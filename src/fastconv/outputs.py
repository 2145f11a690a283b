"""Files that a command writes at its end."""

from __future__ import annotations

import argparse
import os


def file_to_write(text: str) -> str:
    """The absolute path of a file, for argparse: a program that runs meanwhile may change the folder.

    Whether it can be written is found out at once, not after what takes long.
    """
    path, folder = os.path.abspath(text), os.path.dirname(text) or "."
    if os.path.isdir(path):
        reason = "it is a folder"
    elif not os.path.isdir(folder):
        reason = f"there is no folder {folder}"
    elif not os.access(path if os.path.exists(path) else folder, os.W_OK):
        reason = "permission denied"
    else:
        return path
    raise argparse.ArgumentTypeError(f"cannot write {text}: {reason}")
