"""What the property tests share: comparing states, and running Python in a process of its own."""

import copy
import os
import subprocess
import sys
import textwrap
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from fastconv import Layer


def same_bits(a: Any, b: Any) -> bool:
    """Equal in type, dtype, shape and every bit (so that NaN equals itself, and -0.0 is not 0.0)."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def snapshot(layer: Any) -> Any:
    """A deep copy of all that a layer holds, in layers inside as well."""
    return copy.deepcopy(vars(layer))


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """Where two states, as of `snapshot` or `vars`, differ."""
    if type(a) is not type(b):
        return [f"{at}: {a!r:.80} became {b!r:.80}"]
    if isinstance(a, np.ndarray):
        return [] if same_bits(a, b) else [f"{at}: {a!r:.80} became {b!r:.80}"]
    if isinstance(a, Layer):
        return differences(vars(a), vars(b), at)
    if is_dataclass(a):
        pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(a)]
    elif isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{at}: {sorted(a)} became {sorted(b)}"]
        pairs = [(name, a[name], b[name]) for name in a]
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f"{at}: {len(a)} entries became {len(b)}"]
        pairs = [(str(i), x, y) for i, (x, y) in enumerate(zip(a, b))]
    else:
        return [] if a == b else [f"{at}: {a!r:.80} became {b!r:.80}"]
    return [line for name, x, y in pairs for line in differences(x, y, f"{at}.{name}")]


def arrays_in(value: Any) -> list[np.ndarray]:
    """All arrays that a layer, or what a function returned, holds."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Layer):
        return arrays_in(vars(value))
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in arrays_in(item)]
    return []


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, without what sets fastconv or OpenMP up, with `changes`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FASTCONV_", "OMP_"))}
    return {**kept, **changes}


def run_python(
    script: str, *, timeout: float = 200, path: Any = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter: from a file at `path` where it must be importable.

    The time-out is against hangs alone.
    """
    script = textwrap.dedent(script)
    if path is None:
        command = [sys.executable, "-c", script]
    else:
        path.write_text(script)
        command = [sys.executable, str(path)]
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, timeout=timeout,
        check=False,
    )


def run_in(
    folder: Any, *arguments: Any, stdin: str = "", timeout: float = 200, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in a folder."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, input=stdin, text=True, capture_output=True,
        env=environment(**variables), timeout=timeout, check=False,
    )


def output_of(script: str, **options: Any) -> str:
    """What a script printed; it must end well."""
    done = run_python(script, **options)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def replace_empty(monkeypatch: Any, empty: Any) -> None:
    """Have all of `functional` make its results and workspaces with `empty(what, shape, dtype)`."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fastconv.functional.") and hasattr(module, "empty"):
            monkeypatch.setattr(module, "empty", empty)
