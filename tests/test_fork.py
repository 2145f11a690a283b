"""Processes made after threads ran in their parent: forked ones work, serially; spawned ones as any other."""

import multiprocessing
import os

import pytest

from support import output_of

# Each script runs in a process of its own: its time-out turns a hang into a failure.
PREPARE = """
import multiprocessing, os, sys, warnings
import numpy as np
import fastconv
import fastconv.functional as F

# Python warns of any fork of a process with threads: such a fork is what is tested.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

RNG = np.random.default_rng(1)
A, W = RNG.standard_normal((4, 16, 40, 40)), RNG.standard_normal((24, 16, 3, 3))

def work(_):
    Z = F.conv2d_forward(A, W)
    found = [Z, *F.conv2d_backward(Z, A, W)]
    for forward, backward in ((F.max_pool2d_forward, F.max_pool2d_backward),
                              (F.mean_pool2d_forward, F.mean_pool2d_backward)):
        P, workspace = forward(A, 3, 2)
        found += [P, backward(P, workspace)]
    N, workspace = F.batchnorm2d_forward(A, np.ones(16), np.zeros(16))
    found += [N, F.batchnorm2d_backward(N, A, np.ones(16), workspace)[0], F.gelu(A)]
    return [x.tobytes() for x in found], fastconv.get_num_threads()

def prepare():
    fastconv.set_num_threads(2)
    return work(0)[0]
"""
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run(script, tmp_path, **variables):
    return output_of(PREPARE + script, path=tmp_path / "script.py", timeout=200, **variables)


@needs_fork
def test_a_forked_pool_after_threads_ran(tmp_path):
    assert run("""
expected = prepare()
with multiprocessing.get_context("fork").Pool(2) as pool:
    for found, threads in pool.map(work, range(4)):
        assert found == expected
        assert threads == 1, threads
assert work(0) == (expected, 2)
print("done")
""", tmp_path) == "done"


@needs_fork
def test_a_forked_child_and_its_child(tmp_path):
    assert run("""
expected = prepare()

def check():
    assert work(0) == (expected, 1)
    # More threads cannot be had there, and asking for them is harmless.
    fastconv.set_num_threads(2)
    assert work(0) == (expected, 1)

def fork(run):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0

fork(lambda: (check(), fork(check)))
assert work(0) == (expected, 2)
print("done")
""", tmp_path) == "done"


@needs_fork
def test_a_fork_while_another_thread_computes(tmp_path):
    assert run("""
import threading
expected = prepare()
stop = threading.Event()

def compute():
    while not stop.is_set():
        F.conv2d_forward(A, W)

thread = threading.Thread(target=compute)
thread.start()
try:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(found == expected for found, _ in pool.map(work, range(4)))
finally:
    stop.set()
    thread.join()
print("done")
""", tmp_path) == "done"


@needs_fork
def test_a_fork_before_any_thread_ran(tmp_path):
    assert run("""
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map(work, range(2))
assert found[0] == found[1] == (prepare(), 1)
print("done")
""", tmp_path) == "done"


@pytest.mark.parametrize("method", sorted(set(multiprocessing.get_all_start_methods()) - {"fork"}))
def test_processes_started_otherwise_use_threads(method, tmp_path):
    assert run(f"""
if __name__ == "__main__":
    expected = prepare()
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        found, threads = pool.apply(work, (0,))
    assert found == expected
    assert threads == 3, threads
    print("done")
""", tmp_path, FASTCONV_NUM_THREADS="3") == "done"
