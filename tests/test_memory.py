"""Memory: flat over many calls, and all as it was where there is not enough."""

import sys

import pytest

from support import output_of

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="resident memory is read from /proc, and limited as Linux does"
)

MANY = """
import gc, os, sys
import numpy as np
import fastconv as fc
import fastconv.functional as F

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

rng = np.random.default_rng(1)
A, image = rng.standard_normal((2, 3, 9)), rng.standard_normal((2, 3, 9, 9)).astype(np.float32)
conv1d, conv2d = fc.Conv1d(3, 4, 3, 2, 1), fc.Conv2d(3, 4, 3, 2, 1, dtype="float32")
transposed, norm = fc.ConvTranspose1d(3, 4, 3, 2), fc.BatchNorm2d(3, dtype="float32")
pools = [fc.MaxPool2d(3, 2), fc.MeanPool2d(3, 2), fc.MaxPool2d_stride1(2)]
others = [fc.Upsample2d(2), fc.Downsample2d(2), fc.Dropout2d(0.5), fc.GELU(), fc.Flatten()]
layers = [(conv1d, A), (transposed, A), *((layer, image) for layer in (conv2d, norm, *pools, *others))]
# An error comes from each step of the checks: the array, its shape, its dtype, the gradient.
BAD = [None, "A", np.ones(3, complex), np.ones((1, 1, 1, 1, 1)), [[1.0], 2.0], np.ma.masked_all((2, 2))]

def calls(times):
    failed = 0
    for i in range(times):
        layer, given = layers[i % len(layers)]
        Z = layer.forward(given)
        layer.backward(Z)
        for call in (layer.forward, layer.backward):
            try:
                call(BAD[i % len(BAD)])
            except (TypeError, ValueError):
                failed += 1
    return failed

fc.set_num_threads({threads})
backend = fc.use_backend({backend!r})
backend.__enter__()
calls(2000)
before = resident()
failed = calls({times})
grown = resident() - before
print(failed > {times}, grown // 1024)
"""


@linux
@pytest.mark.parametrize(("backend", "times"), [("compiled", 12000), ("pure", 2000)])
def test_many_calls_half_of_them_failing(backend, times):
    failing, grown = output_of(MANY.format(backend=backend, times=times, threads=1)).split()
    assert failing == "True"
    # Hundred bytes a call would be more than this.
    assert int(grown) < (2048 if backend == "compiled" else 1024)


PARALLEL = """
import gc, os
import numpy as np
import fastconv.functional as F, fastconv as fc

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

fc.set_num_threads(3)
A, W = np.ones((4, 16, 24, 24), np.float32), np.ones((16, 16, 3, 3), np.float32)
def calls(times):
    for _ in range(times):
        Z = F.conv2d_forward(A, W)
        F.conv2d_backward(Z, A, W)
        P, workspace = F.mean_pool2d_forward(A, 3, 1)
        F.mean_pool2d_backward(P, workspace)
calls(100)
before = resident()
calls(400)
print((resident() - before) // 1024)
"""


@linux
def test_many_parallel_calls():
    # A scratch buffer of one call is some tens of kilobytes.
    assert int(output_of(PARALLEL)) < 4096


PEAK = """
import os
import numpy as np
import fastconv as fc, fastconv.functional as F

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

fc.set_num_threads({threads})
fc.set_conv_algorithm({algorithm!r})
A, W = np.ones({shape}, {dtype!r}), np.ones({weights}, {dtype!r})
warm = np.ones((1, *A.shape[1:2], 8, 8), A.dtype)
F.conv2d_backward(F.conv2d_forward(warm, W, None, 1, {padding}), warm, W, 1, {padding})
def peak(call):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forgets the peak so far
    before = status("VmRSS")
    result = call()
    return status("VmHWM") - before, result

taken, Z = peak(lambda: F.conv2d_forward(A, W, None, {stride}, {padding}))
back, gradients = peak(lambda: F.conv2d_backward(Z, A, W, {stride}, {padding}))
print(taken - Z.nbytes, back - sum(g.nbytes for g in gradients))
"""

MIB = 1 << 20


@linux
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "stride", "algorithm"),
    [
        ((2, 64, 112, 112), 64, 3, 1, "direct"),
        ((2, 64, 112, 112), 64, 3, 1, "winograd"),
        ((2, 64, 112, 112), 32, 5, 1, "winograd"),
        ((2, 512, 40, 40), 512, 3, 1, "winograd"),
        ((3, 40, 112, 112), 400, 3, 1, "winograd"),
        ((2, 32, 112, 112), 32, 7, 1, "winograd"),
        ((2, 64, 112, 112), 64, 9, 1, "winograd"),
        ((2, 768, 40, 40), 768, 3, 1, "winograd"),
        ((2, 64, 240, 240), 64, 3, 2, "direct"),
        ((1, 3, 600, 600), 8, 7, 2, "direct"),
        ((2, 256, 100, 100), 64, 1, 1, "direct"),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_scratch_is_fixed_and_no_im2col(shape, filters, kernel, stride, algorithm, dtype, threads):
    weights, padding = (filters, shape[1], kernel, kernel), kernel // 2
    forward, backward = map(int, output_of(PEAK.format(**locals())).split())
    itemsize = 4 if dtype == "float32" else 8
    pixels = shape[0] * (-(-shape[2] // stride)) * (-(-shape[3] // stride))
    im2col = pixels * shape[1] * kernel**2 * itemsize
    # Half a megabyte is for what the allocator and the interpreter round up to.
    for beyond_results in (forward, backward):
        assert beyond_results <= 4 * MIB * threads + MIB // 2
    if kernel > 1:
        assert im2col > 5 * (4 * MIB * threads + MIB // 2), "the problem is too small to tell"


LIMITED = """
import resource
import numpy as np
import fastconv as fc

layers = [
    # layer, a small input, one that is small itself and needs too much
    (fc.Conv2d(3, 64, 3, 1), np.ones((2, 3, 5, 5)), np.ones((256, 3, 60, 60))),
    (fc.ConvTranspose2d(3, 4, 3, 40), np.ones((1, 3, 2, 2)), np.ones((2, 3, 80, 80))),
    (fc.Conv1d(1, 200, 3, 1), np.ones((2, 1, 9)), np.ones((400, 1, 2000))),
    (fc.Upsample2d(40), np.ones((1, 3, 2, 2)), np.ones((2, 3, 80, 80))),
    (fc.Linear(2, 2000), np.ones((3, 2)), np.ones((50000, 2))),
]
rounds = []
for layer, small, large in layers:
    Z = layer.forward(small)
    rounds.append((layer, small, large, Z, layer.backward(Z)))

def states(layer):
    return [vars(layer).copy(), *(vars(inner).copy() for inner in layer.sublayers())]

with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
for layer, small, large, Z, dLdA in rounds:
    before = states(layer)
    for _ in range(3):
        try:
            layer.forward(large)
        except MemoryError:
            pass
        else:
            raise AssertionError("there was enough")
    for old, new in zip(before, states(layer)):
        assert old.keys() == new.keys()
        assert all(new[name] is value for name, value in old.items())
    assert np.array_equal(layer.backward(Z), dLdA)
    assert np.array_equal(layer.forward(small), Z)
print("done")
"""


@linux
@pytest.mark.parametrize("backend", ["compiled", "pure"])
def test_memory_that_the_system_refuses(backend):
    # One thread: OpenBLAS and OpenMP take address space for the stacks of theirs.
    done = output_of(
        LIMITED, FASTCONV_BACKEND=backend, FASTCONV_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"
    )
    assert done == "done"


KEPT = """
import resource
import numpy as np
import fastconv as fc, fastconv.functional as F

fc.set_num_threads({threads})
A, W = np.ones((8, 64, 16, 16)), np.ones((32, 64, 3, 3))
def faults(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        {call}
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // calls
faults(10)
print(faults(20))
"""


@linux
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "call",
    [
        "F.conv2d_forward(A, W, stride=1, padding=1)",
        "F.conv2d_forward(A, W, padding=1, upsampling=2)",
        "F.conv2d_backward(np.ones((8, 32, 14, 14)), A, W)",
    ],
)
def test_scratch_does_not_come_from_the_system_each_time(threads, call):
    # Given back each time, it would be hundreds of pages of 4 KB.
    assert int(output_of(KEPT.format(threads=threads, call=call))) < 100
