"""Importing fastconv: what comes with it, and what does not."""

import importlib.metadata
import importlib.resources
import sys

import pytest

import fastconv
from support import output_of

# What Cython's modules put beside themselves.
OF_CYTHON = ("_cython_", "cython_runtime")


def test_import_brings_numpy_and_the_standard_library_alone():
    script = """
    import sys
    import numpy
    before = set(sys.modules)
    import fastconv
    print(*{name.partition(".")[0] for name in set(sys.modules) - before})
    """
    found = set(output_of(script).split())
    foreign = {name for name in found if name not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith(OF_CYTHON)} == {"fastconv", "numpy"} & foreign
    assert "fastconv" in foreign


def test_import_works_without_what_extras_bring():
    script = """
    import sys
    for name in ("torch", "rich", "sklearn", "matplotlib", "scipy", "hypothesis", "Cython", "pytest"):
        sys.modules[name] = None
    import fastconv
    fastconv.show_config()
    """
    assert "fastconv" in output_of(script)


@pytest.mark.parametrize("options", ["-W error", "-O", "-OO"])
def test_import_under_options_of_the_interpreter(options):
    script = f"""
    import subprocess, sys
    script = "import numpy, fastconv; layer = fastconv.Conv1d(1, 1, 2, 1); layer(numpy.ones((1, 1, 3)))"
    sys.exit(subprocess.run([sys.executable, *{options.split()!r}, "-c", script]).returncode)
    """
    output_of(script)


def test_import_leaves_the_global_random_stream():
    script = "import numpy as np; np.random.seed(1); {}print(np.random.rand())"
    assert output_of(script.format("import fastconv; ")) == output_of(script.format(""))


def test_import_is_silent():
    assert output_of("import fastconv") == ""


def test_types_ship():
    assert importlib.resources.files(fastconv).joinpath("py.typed").is_file()


def test_version():
    assert fastconv.__version__.count(".") >= 1
    try:
        installed = importlib.metadata.version("fastconv")
    except importlib.metadata.PackageNotFoundError:
        return  # run from the source tree
    assert installed == fastconv.__version__
