"""A compiled module missing or broken: an error that says so, and pure kernels only where asked for."""

import pytest

import fastconv
from support import output_of, run_python

LEVEL = fastconv.config()["instruction sets present"][-1].replace("-", "_")
BREAK = {
    "missing": "sys.modules[{name!r}] = None",
    "not loadable": """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ImportError("undefined symbol: GOMP_parallel")
sys.meta_path.insert(0, Finder())
""",
    "of another version": "sys.modules[{name!r}] = types.ModuleType({name!r})",
}


@pytest.mark.parametrize("module", ["_cpu", f"conv_{LEVEL}_float32"])
@pytest.mark.parametrize("how", BREAK)
def test_an_extension_that_is_missing_or_broken(how, module):
    broken = "import sys, types\n" + BREAK[how].format(name=f"fastconv._kernels.{module}")
    done = run_python(broken + "\nimport fastconv")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    for word in (module, "reinstall", "FASTCONV_BACKEND=pure"):
        assert word in last
    script = """
import json, numpy as np, fastconv
layer = fastconv.Conv2d(1, 1, 2, 1, weight_init_fn=lambda *shape: np.ones(shape))
assert layer.forward(np.ones((1, 1, 3, 3))).sum() == 16
layer.backward(np.ones((1, 1, 2, 2)))
assert fastconv.get_backend() == "pure"
json.dumps(fastconv.config())
fastconv.show_config()
fastconv.set_num_threads(2)
for choose in (fastconv.set_backend, lambda name: fastconv.use_backend(name).__enter__()):
    try:
        choose("compiled")
    except ImportError as error:
        assert "pure" in str(error)
    else:
        raise AssertionError
"""
    output_of(broken + script, FASTCONV_BACKEND="pure")
