"""What is running: versions, backend, instruction set, threads."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from . import _kernels, algorithm, backend
from ._version import __version__


def config() -> dict[str, Any]:
    """The configuration that calls made here and now run with, ready for JSON."""
    compiled = backend.ISA is not None
    cpu = _kernels.cpu() if compiled else None
    return {
        "fastconv": __version__,
        "backend": backend.get_backend(),
        "convolution": algorithm.get_conv_algorithm(),
        "instruction set": backend.ISA,
        "instruction sets present": list(backend.ISA_PRESENT),
        "threads": backend.get_num_threads(),
        "OpenMP": bool(cpu and cpu.has_openmp()),
        "compiler": cpu.compiler() if cpu else None,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def show_config() -> None:
    """Print `config`: versions, backend, instruction sets, threads, compiler."""
    for name, value in config().items():
        if isinstance(value, list):
            value = ", ".join(value)
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        print(f"{name + ':':26}{value or 'none'}")
