"""Whose code is this? Classes are replaced in the user's code alone.

The user's is what is neither the standard library's, nor installed as part of a distribution, nor
ours. What was installed with ``pip install -e`` lies in the user's own folders and is the user's.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_OURS = os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep


class UserCode:
    """Says of a module whether it is the user's, by its name and file.

    Parameters
    ----------
    include : names of distributions, or of their top-level packages, that count as the user's
    """

    def __init__(self, include: Iterable[str] = ()) -> None:
        self.included = frozenset(module for name in include for module in _modules_of(name))

    def owns(self, module: str, file: str | None) -> bool:
        """`file` is where its code came from, or None; a notebook's cell or ``-c`` has no real one."""
        top = module.partition(".")[0]
        if top in self.included:
            return True
        if file is None or file.startswith("<"):
            return module == "__main__" and file != "<frozen runpy>"
        return top not in ("fastconv", "torch") and _is_users(os.path.abspath(file), top)


@lru_cache(maxsize=4096)
def _is_users(file: str, top: str) -> bool:
    path = os.path.realpath(file)
    if path.startswith(_OURS) or _within(path, _installation_folders()):
        return False
    if _within(path, _library_folders()):
        return False
    return not _installed_beside(path, top)


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(folder) for folder in folders)


@lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    return _folders(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))


@lru_cache(maxsize=1)
def _installation_folders() -> tuple[str, ...]:
    of_site: list[str] = getattr(site, "getsitepackages", list)()
    of_user: str = getattr(site, "getusersitepackages", str)()
    named = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    # Debian's Python is not told of all of its folders by a virtual environment.
    on_path = [entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages")]
    return _folders([*of_site, of_user, *named, *on_path])


def _folders(paths: Iterable[str | None]) -> tuple[str, ...]:
    return tuple({os.path.realpath(path) + os.sep for path in paths if path})


def _installed_beside(path: str, top: str) -> bool:
    """Whether a file belongs to a distribution that was installed elsewhere: ``pip install --target``."""
    for folder in Path(path).parents:
        if folder.name == top or folder / f"{top}.py" == Path(path):
            root = folder.parent if folder.name == top else folder
            return any(
                line.startswith((f"{top}/", f"{top}.py,"))
                for record in root.glob("*.dist-info/RECORD")
                for line in record.read_text(errors="replace").splitlines()
            )
    return False


def _modules_of(name: str) -> set[str]:
    """The top-level modules of a distribution of that name, or the name itself as such a module."""
    try:
        files = metadata.files(name) or []
        text = metadata.distribution(name).read_text("top_level.txt") or ""
    except metadata.PackageNotFoundError:
        return {name.partition(".")[0]}
    code = [file for file in files if file.suffix in (".py", ".pyc", ".so", ".pyd")]
    tops = {file.parts[0].partition(".")[0] for file in code}
    return {top for top in tops | set(text.split()) if top.isidentifier()}
