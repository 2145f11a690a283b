"""Threads and processes in disorder: pools in pools, threads that crowd, and quiet where nothing is asked."""

import multiprocessing
import sys
from pathlib import Path

import pytest

from support import output_of

PREPARE = """
import multiprocessing, os, sys, threading, time, warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import numpy as np
import fastconv as fc, fastconv.functional as F
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
A, W = np.random.default_rng(1).standard_normal((4, 16, 40, 40)), np.ones((24, 16, 3, 3))

def work(_=None):
    Z = F.conv2d_forward(A, W)
    return [x.tobytes() for x in (Z, *F.conv2d_backward(Z, A, W), F.max_pool2d_forward(A, 3)[0])]
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="processor time of each thread is read from /proc")


def run(script, path, **variables):
    return output_of(PREPARE + script, path=path / "script.py", **variables)


@linux
def test_idle_threads_take_no_time(tmp_path):
    """After parallel work, threads wait without turning: a second of sleep costs no processor time."""
    assert run("""
fc.set_num_threads(4)
def ticks():  # of all threads, in hundredths of a second
    total = 0
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total
layer = fc.Conv2d(16, 24, 3, 1)
for _ in range(20):
    layer.backward(layer.forward(A))
time.sleep(0.3)
before = ticks()
time.sleep(1)
print(ticks() - before <= 5)
""", tmp_path) == "True"


@pytest.mark.parametrize(("outer", "inner"), [
    (outer, inner)
    for outer, inner in [("fork", "threads"), ("fork", "fork"), ("fork", "spawn"), ("spawn", "threads"),
                         ("spawn", "fork"), ("forkserver", "threads"), ("forkserver", "forkserver")]
    if {outer, inner} <= {"threads", *multiprocessing.get_all_start_methods()}
])
def test_pools_in_pools(outer, inner, tmp_path):
    assert run(f"""
def nested(_):
    if {inner!r} == "threads":
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(work, range(2)))
    with ProcessPoolExecutor(1, multiprocessing.get_context({inner!r})) as pool:
        return list(pool.map(work, range(2)))

if __name__ == "__main__":
    fc.set_num_threads(2)
    expected = work()
    # Its workers may have children of their own.
    with ProcessPoolExecutor(2, multiprocessing.get_context({outer!r})) as pool:
        for found in pool.map(nested, range(2)):
            assert found == [expected] * 2
    assert work() == expected
    print("done")
""", tmp_path) == "done"


def test_many_threads_crowd_for_the_interpreter(tmp_path):
    """Thousands of small calls of 16 threads, each with its layer, beside a thread that only computes."""
    assert run("""
sys.setswitchinterval(1e-5)
stop = threading.Event()
def busy():
    while not stop.is_set():
        sum(range(100))
def crowd(seed):
    rng = np.random.default_rng(seed)
    layer, pool, A = fc.Conv2d(2, 3, 3, 2, 1), fc.MaxPool2d(2, 2), rng.standard_normal((2, 2, 9, 9))
    first = None
    for _ in range(300):
        Z = layer.forward(A)
        P = pool.forward(Z)
        found = [x.tobytes() for x in (Z, P, layer.backward(pool.backward(P)), layer.dLdW)]
        first = first or found
        assert found == first
    return True
other = threading.Thread(target=busy)
other.start()
try:
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(crowd, range(16)))
finally:
    stop.set()
    other.join()
print("done")
""", tmp_path) == "done"


@pytest.mark.parametrize("threads", [1, 2])
def test_signals_by_the_hundred(threads, tmp_path):
    assert run(f"""
import signal
fc.set_num_threads({threads})
count = 0
def handler(*_):
    global count
    count += 1
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
signal.signal(signal.SIGALRM, handler)
expected = work()
signal.setitimer(signal.ITIMER_REAL, 0.0005)
while count < 300:
    assert work() == expected
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print("done")
""", tmp_path) == "done"


def test_no_files_and_no_threads_are_left_behind(tmp_path):
    """Nothing is written, no temporary file is made, no socket is opened, by import or by any layer."""
    assert run("""
import builtins, socket, tempfile
written = []
def audit(event, arguments):
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        if writes or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments)
    elif event.startswith(("socket.", "tempfile.", "subprocess.", "os.remove", "os.rename", "os.mkdir")):
        written.append((event, arguments))
sys.addaudithook(audit)
sys.path.insert(0, TESTS)
from layers import CASES, FUNCTIONS, MODELS
rng = np.random.default_rng(1)
for case in CASES + MODELS:
    layer = case.make()
    layer.backward(np.ones_like(layer.forward(case.input(rng))))
for function in FUNCTIONS:
    function.call(**function.inputs(rng))
written = [w for w in written if "__pycache__" not in str(w)]
print(written or "nothing")
""".replace("TESTS", repr(str(Path(__file__).parent))), tmp_path) == "nothing"
