"""What all tests share: the backends, a seed, and warnings as errors (pyproject.toml)."""

import signal

import numpy as np
import pytest

import fastconv

# A shell's background jobs ignore Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["compiled", "pure"])
def backend(request):
    """Runs the test once on each set of kernels."""
    with fastconv.use_backend(request.param):
        yield request.param


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(11785)


@pytest.fixture(autouse=True)
def same_global_stream():
    np.random.seed(11785)


@pytest.fixture
def mytorch(tmp_path):
    """The example project's modules, flat, to be imported by name: ``mytorch["Conv2d"]``."""
    from mytorch_projects import Imported, lay_out

    lay_out("flat", tmp_path / "project")
    modules = Imported(tmp_path / "project" / "mytorch")
    yield modules
    fastconv.uninstall()
    modules.close()
