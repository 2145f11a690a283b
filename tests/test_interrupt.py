"""Ctrl-C in a long call: KeyboardInterrupt soon, and the layer as it was.

The calls below take half a minute or more, so none can end by itself before the signal comes; the bound
on the answer is far above what is promised, and far below what is left to compute.
"""

import pytest

from support import output_of

SCRIPT = """
import os, signal, threading, time
import numpy as np
import fastconv as fc
from fastconv import backend

BOUND = {bound}  # seconds

def leaves(layer):
    found = dict(vars(layer))
    for inner in layer.sublayers():
        found.update({{(id(inner), name): value for name, value in vars(inner).items()}})
    return found

def interrupted(layer, call):
    before = leaves(layer)
    copies = {{name: x.copy() for name, x in before.items() if isinstance(x, np.ndarray) and x.size < 10**6}}
    sent = []
    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    timer = threading.Timer(0.7, send)
    timer.start()
    try:
        call()
    except KeyboardInterrupt:
        answered = time.monotonic() - sent[0]
        assert answered < BOUND, f"answered after {{answered:.1f}} s"
    else:
        raise AssertionError("ended by itself")
    timer.join()
    after = leaves(layer)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name] is value, name
    for name, value in copies.items():
        assert np.array_equal(after[name], value), name

ONES = lambda *shape: np.ones(shape)
{body}
print("done")
"""

CONV = """
layer = fc.Conv2d({channels}, {channels}, {kernel}, 1, weight_init_fn=ONES)
A = np.ones({large})
dLdZ = np.ones((len(A), layer.out_channels, *(n - layer.kernel_size + 1 for n in A.shape[2:])))
small = np.ones((1, layer.in_channels, layer.kernel_size + 1, layer.kernel_size + 2))
Z = layer.forward(small)
dLdA = layer.backward(Z)
"""
COMPILED = CONV.format(channels=64, kernel=16, large=(16, 64, 192, 192))
PURE = CONV.format(channels=8, kernel=5, large=(1, 8, 1500, 1500))
FORWARD = """
interrupted(layer, lambda: layer.forward(A))
assert layer.A is small
assert np.array_equal(layer.backward(Z), dLdA)
assert np.array_equal(layer.forward(small), Z)
"""
BACKWARD = """
layer.A = A
interrupted(layer, lambda: layer.backward(dLdZ))
layer.forward(small)
assert np.array_equal(layer.backward(Z), dLdA)
"""
# The gradient with respect to A comes first; without it the signal meets that of the weights.
WEIGHTS = """
kernels = backend.kernels(np.dtype("f8"))
backend._BACKENDS[fc.get_backend()]["d"] = kernels._replace(correlate=lambda *_: None)
layer.A = A
interrupted(layer, lambda: layer.backward(dLdZ))
backend._BACKENDS[fc.get_backend()]["d"] = kernels
layer.forward(small)
assert np.array_equal(layer.backward(Z), dLdA)
"""
POOL = """
layer = fc.MaxPool2d_stride1(2000)
small = np.ones((1, 1, 2001, 2002))
Z = layer.forward(small)
interrupted(layer, lambda: layer.forward(np.ones((1, 1, 6000, 6000))))
assert layer.A is small
assert layer.backward(np.ones_like(Z)).sum() == Z.size
"""


def run(body, **variables):
    assert output_of(SCRIPT.format(bound=15, body=body), timeout=200, **variables) == "done"


@pytest.mark.parametrize(
    ("body", "threads"), [(FORWARD, "2"), (BACKWARD, "1"), (WEIGHTS, "1"), (WEIGHTS, "2")],
    ids=["forward-2", "backward-1", "weight gradient-1", "weight gradient-2"],
)
def test_convolution(body, threads):
    run(COMPILED + body, FASTCONV_NUM_THREADS=threads)


@pytest.mark.parametrize("body", [FORWARD, BACKWARD], ids=["forward", "backward"])
def test_pure_convolution(body):
    run(PURE + body, FASTCONV_BACKEND="pure")


def test_max_pool_of_one_image():
    run(POOL, FASTCONV_NUM_THREADS="1")
