"""The example project in each of the layouts that mytorch code is found in.

`examples/bars` is the one copy of its layers; a layout is that copy with its files moved and its
import lines rewritten.
"""

import importlib
import re
import shutil
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "bars"
MODULES = {file.stem: file.read_text() for file in sorted((EXAMPLE / "mytorch").glob("*.py"))}
CONVOLUTIONS = ("Conv1d", "Conv2d", "ConvTranspose", "flatten")


def lay_out(layout: str, folder: Path) -> Path:
    """Write the project to a folder; returns the training script, to be run there."""
    folder.mkdir(exist_ok=True)
    return _LAYOUTS[layout](folder)


def _flat(folder: Path) -> Path:
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "train.py"


def _nn(folder: Path) -> Path:
    """In mytorch/nn, imported as a package and flat, so that some modules exist twice."""
    _write(folder / "mytorch" / "nn", MODULES)
    model = _model().replace('append("mytorch")', 'append("mytorch/nn")')
    _write(folder, {"model": _imports(model, "mytorch.nn.", only=("Conv2d", "pool")), "train": _train()})
    return folder / "train.py"


def _package(folder: Path) -> Path:
    _write(folder / "mytorch", {"__init__": ""})
    inside = {name: _imports(text, ".") for name, text in MODULES.items()}
    _write(folder / "mytorch" / "nn", {"__init__": "", **inside})
    _write(folder, {"model": _imports(_model(), "mytorch.nn."), "train": _train()})
    return folder / "train.py"


def _older(folder: Path) -> Path:
    """All convolutions in one file, without padding in their constructors."""
    merged = "".join(MODULES[name] for name in CONVOLUTIONS)
    merged = re.sub(r"from Conv\dd import \*\n", "", merged)
    rest = {name: text for name, text in MODULES.items() if name not in CONVOLUTIONS}
    _write(folder / "mytorch", {"conv": merged, **rest})
    model = (
        _model().replace("from Conv2d import *", "from conv import *").replace("from flatten import *\n", "")
    )
    _write(folder, {"model": model, "train": _train()})
    return folder / "train.py"


def _single(folder: Path) -> Path:
    """Everything in the script itself."""
    whole = "\n\n".join([*MODULES.values(), _model(), _train()])
    lines = [line for line in whole.splitlines() if not re.match(r"from \w+ import \*", line)]
    # (Conv1d and Conv2d are given what they import by their order.)
    (folder / "train.py").write_text("\n".join(lines) + "\n")
    return folder / "train.py"


_LAYOUTS = {"flat": _flat, "nn": _nn, "package": _package, "older": _older, "single": _single}
LAYOUTS = tuple(_LAYOUTS)


def _model() -> str:
    return (EXAMPLE / "model.py").read_text()


def _train() -> str:
    return (EXAMPLE / "train.py").read_text()


def _imports(text: str, prefix: str, only: tuple[str, ...] = tuple(MODULES)) -> str:
    return re.sub(
        r"from (\w+) import \*", lambda m: f"from {prefix if m[1] in only else ''}{m[1]} import *", text
    )


def _write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


class Imported:
    """Modules of a flat project, imported from a folder and forgotten again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = dict(sys.modules)
        sys.path.insert(0, str(folder))

    def __getitem__(self, name: str):
        return importlib.import_module(name)

    def write(self, name: str, text: str) -> Path:
        file = self.folder / f"{name}.py"
        file.write_text(text)
        importlib.invalidate_caches()
        return file

    def close(self) -> None:
        sys.path.remove(str(self.folder))
        for name in set(sys.modules) - set(self.before):
            if str(self.folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
