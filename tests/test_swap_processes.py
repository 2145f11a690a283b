"""Programs that start processes: the children's layers are compiled, too, however they are started."""

import json

import pytest

from support import run_in

PROGRAM = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np

sys.path.append("mytorch")
from Conv2d import *
from pool import *

class Flatten:
    def forward(self, A):
        self.shape = A.shape
        return A.reshape(len(A), -1)
    def backward(self, dLdZ):
        return dLdZ.reshape(self.shape)

def work(seed):
    np.random.seed(seed)
    layer = Conv2d(2, 3, 3, 1)
    Z = Flatten().forward(MaxPool2d(2, 2).forward(layer.forward(np.random.randn(2, 2, 8, 8))))
    classes = [cls.__mro__[2].__module__ for cls in (Conv2d, MaxPool2d, Flatten)]
    return float(Z.sum()), classes, os.getpid(), layer

if __name__ == "__main__":
    here = work(3)
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            there = pool.apply(work, (3,))
        print(method, there[0] == here[0], there[1], there[2] != here[2], type(there[3]) is Conv2d)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        print("executor", executor.submit(work, 3).result()[:2] == here[:2])
    print("main", here[1])
"""


@pytest.mark.parametrize("module", [False, True])
def test_children(module, tmp_path):
    from mytorch_projects import lay_out

    lay_out("flat", tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    target = ["-m", "program"] if module else ["program.py"]
    report = tmp_path / "report.json"
    done = run_in(tmp_path, "-m", "fastconv", "run", "--report", str(report), *target)
    assert done.returncode == 0, done.stderr
    compiled = "['fastconv.nn.conv2d', 'fastconv.nn.pool', 'fastconv.nn.flatten']"
    assert done.stdout.splitlines() == [
        *(f"{method} True {compiled} True True" for method in ("fork", "spawn", "forkserver")),
        "executor True",
        f"main {compiled}",
    ]
    assert done.stderr.count("fastconv: ") == 1  # one summary, the program's own
    assert len(json.loads(report.read_text())["swapped"]) == 11


def test_children_after_uninstall(tmp_path):
    """What is spawned then knows nothing of fastconv."""
    (tmp_path / "program.py").write_text(
        "import multiprocessing, sys, fastconv\n"
        "def loaded(): return 'fastconv.swapping' in sys.modules\n"
        "if __name__ == '__main__':\n"
        "    for step in (fastconv.install, fastconv.uninstall):\n"
        "        step()\n"
        "        with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "            print(pool.apply(loaded))\n"
    )
    done = run_in(tmp_path, "program.py")
    assert done.stdout.split() == ["True", "False"], done.stderr
