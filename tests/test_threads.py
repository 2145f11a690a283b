"""The number of threads changes no bit; distinct layers, and `functional`, may be used by several threads."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv.backend import SERIAL_BELOW, threads_for
from layers import CASES, FUNCTIONS, MODELS
from support import arrays_in, same_bits


@pytest.fixture(autouse=True)
def restore_threads():
    before = fc.get_num_threads()
    yield
    fc.set_num_threads(before)


def conv(A, W, **steps):
    Z = F.conv2d_forward(A, W, np.ones(len(W), W.dtype), **steps)
    dLdZ = np.cos(np.arange(Z.size)).reshape(Z.shape).astype(A.dtype)
    return [Z, *F.conv2d_backward(dLdZ, A, W, **steps)], Z.size * W[0].size


def pool(forward, backward, A, kernel, stride):
    Z, workspace = forward(A, kernel, stride)
    dLdZ = np.cos(np.arange(Z.size)).reshape(Z.shape).astype(A.dtype)
    return [Z, *arrays_in(workspace), backward(dLdZ, workspace)], min(A.size, Z.size * kernel**2)


def norm(A):
    C = A.shape[1]
    BZ, workspace = F.batchnorm2d_forward(A, np.arange(1.0, C + 1), np.ones(C))
    backward = F.batchnorm2d_backward(np.cos(A), A, np.ones(C), workspace)
    return [BZ, *workspace, *backward, F.batchnorm2d_eval(A, *np.ones((4, C)))], A.size


# Name: input, and what is computed from it along with how much work the least of it is.
WORK = {
    "few channels": ((4, 3, 64, 64), lambda A, r: conv(A, r(8, 3, 5, 5))),
    "many channels, small images": ((3, 64, 9, 7), lambda A, r: conv(A, r(96, 64, 3, 3), padding=1)),
    "one image": ((1, 3, 120, 130), lambda A, r: conv(A, r(7, 3, 7, 7))),
    "single filter": ((3, 7, 61, 43), lambda A, r: conv(A, r(1, 7, 5, 3), padding=1)),
    "single channel": ((3, 1, 61, 43), lambda A, r: conv(A, r(9, 1, 3, 3), padding=1)),
    "strided and padded": ((3, 17, 41, 43), lambda A, r: conv(A, r(33, 17, 3, 3), stride=2, padding=2)),
    "upsampled": ((3, 16, 21, 23), lambda A, r: conv(A, r(20, 16, 4, 4), upsampling=3)),
    "one long row": ((2, 24, 1, 3000), lambda A, r: conv(A, r(8, 24, 1, 8), stride=(1, 4))),
    "1 x 1": ((2, 64, 20, 20), lambda A, r: conv(A, r(64, 64, 1, 1))),
    "max pool": ((4, 16, 80, 80), lambda A, r: pool(F.max_pool2d_forward, F.max_pool2d_backward, A, 3, 2)),
    "mean pool": ((4, 16, 80, 80), lambda A, r: pool(F.mean_pool2d_forward, F.mean_pool2d_backward, A, 3, 2)),
    "batch norm": ((8, 13, 60, 60), lambda A, r: norm(A)),
    "gelu": ((4, 70001), lambda A, r: ([F.gelu(A), F.gelu_backward(np.cos(A), A)], A.size)),
}


def test_small_images_run_the_same_way_on_any_number_of_threads(rng):
    """At the edge of what an item may take, where rows that are divided over threads would fit."""
    A = rng.standard_normal((32, 1910, 14, 14), np.float32)
    W = rng.standard_normal((20, 1910, 3, 3), np.float32)
    results = []
    for count in (1, 2, 3):
        fc.set_num_threads(count)
        results.append(F.conv2d_forward(A, W, padding=1))
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


@pytest.mark.parametrize("name", WORK)
def test_any_number_of_threads_gives_the_same_bits(name, dtype):
    shape, compute = WORK[name]

    def results():
        rng = np.random.default_rng(1)
        A = rng.standard_normal(shape).astype(dtype)
        found, work = compute(A, lambda *shape: rng.standard_normal(shape).astype(dtype))
        assert work >= SERIAL_BELOW, "too little work to be done in parallel"
        return found

    fc.set_num_threads(1)
    serial = results()
    for count in (2, 3, 8, 2):
        fc.set_num_threads(count)
        assert threads_for(SERIAL_BELOW) == count
        for one, many in zip(serial, results(), strict=True):
            assert same_bits(one, many)


@pytest.mark.parametrize("count", [0, -1, -(2**70), 10**6, 2**70])
def test_counts_out_of_range(count):
    before = fc.get_num_threads()
    with pytest.raises(ValueError, match="count"):
        fc.set_num_threads(count)
    assert fc.get_num_threads() == before


@pytest.mark.parametrize("count", [True, 2.0, "2", None, [2], np.float64(2)])
def test_counts_that_are_no_integers(count):
    before = fc.get_num_threads()
    with pytest.raises((TypeError, ValueError), match="count"):
        fc.set_num_threads(count)
    assert fc.get_num_threads() == before


@pytest.mark.parametrize("count", [1, 3, np.int64(2), np.uint8(4)])
def test_counts(count):
    fc.set_num_threads(count)
    assert fc.get_num_threads() == count


def run_at_once(calls):
    """Results of all calls, started together, each in a thread of its own and on this one's backend."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(contextvars.copy_context().run, run, call) for call in calls]
        return [future.result() for future in running]


def steps(case, seed, times):
    """Results of several steps of a layer of its own, drawn beforehand."""
    rng = np.random.default_rng(seed)
    layer = case.make()
    inputs = [case.input(rng) for _ in range(times)]

    def run():
        found = []
        for A in inputs:
            Z = np.array(layer.forward(A))
            dLdA = layer.backward(np.cos(Z))
            found.append((Z, dLdA, *(getattr(layer, f"dLd{name}") for name in case.parameters)))
        return found

    return run


# Dropout's mask is from NumPy's global stream, which threads share.
@pytest.mark.parametrize("case", [c for c in CASES + MODELS if c.name != "Dropout2d"], ids=str)
def test_distinct_layers_in_several_threads(case, backend):
    found = []
    for run in (lambda calls: [call() for call in calls], run_at_once):
        np.random.seed(3)
        found.append(run([steps(case, seed, 8) for seed in range(4)]))
    for alone, together in zip(*found, strict=True):
        for a, b in zip(alone, together, strict=True):
            assert all(map(same_bits, a, b))


def test_distinct_large_layers_in_several_threads(dtype):
    fc.set_num_threads(3)
    rng = np.random.default_rng(1)
    A, W = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 16, 40, 40), (24, 16, 3, 3)))
    expected, work = conv(A, W)
    assert work >= SERIAL_BELOW
    for found in run_at_once([lambda: [conv(A, W)[0] for _ in range(3)] for _ in range(4)]):
        for results in found:
            assert all(map(same_bits, results, expected))


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions_share_arguments_between_threads(function, rng):
    arrays = function.inputs(rng)
    if function.name == "batchnorm2d_eval":  # a variance
        arrays["V"] = np.abs(arrays["V"])
    expected = arrays_in(function.call(**arrays))
    for found in run_at_once([lambda: [function.call(**arrays) for _ in range(20)]] * 4):
        for results in found:
            assert all(map(same_bits, arrays_in(results), expected))


def test_threads_may_use_different_backends():
    A, W = np.arange(48.0).reshape(2, 3, 8), np.ones((4, 3, 3))

    def run(name):
        with fc.use_backend(name):
            return [(fc.get_backend(), F.conv1d_forward(A, W)) for _ in range(50)]

    names = ["pure", "compiled"] * 2
    found = run_at_once([lambda name=name: run(name) for name in names])
    for name, results in zip(names, found):
        for used, Z in results:
            assert used == name
            assert np.array_equal(Z, F.conv1d_forward(A, W))


@pytest.mark.parametrize("case", CASES + MODELS, ids=str)
def test_one_layer_in_several_threads_never_crashes(case):
    """Documented as unsafe: results may mix and calls may fail, but only with Python's exceptions."""
    layer = case.make()
    rng = np.random.default_rng(1)
    A = case.input(rng)
    inputs = [A, np.concatenate([A, A]), A[:0]]
    finished = []

    def hammer(turn):
        for i in range(40):
            try:
                Z = layer.forward(inputs[(turn + i) % 3])
                layer.backward(np.ones(np.shape(Z)))
            except (ValueError, RuntimeError, TypeError, AttributeError, AssertionError, IndexError):
                pass
        finished.append(turn)

    run_at_once([lambda turn=turn: hammer(turn) for turn in range(4)])
    assert sorted(finished) == [0, 1, 2, 3]
    Z = layer.forward(inputs[0])  # and it is fit for use afterwards
    assert np.shape(layer.backward(np.ones(np.shape(Z)))) == case.shape
