"""Between pages that nothing may touch: what kernels read and write ends where their arrays do.

Inputs that functional hands on as they are, and results and workspaces that it makes, each end at such a
page, or begin behind one. A step over the edge would end the process. (Scratch memory is the
sanitizers' to watch.)
"""

import numpy as np
import pytest

import fastconv as fc
import guarded
import oracles
from convolutions import check_integers
from fastconv import functional as F
from fuzz.differential import failures
from fuzz.problems import numbered
from layers import CASES, FUNCTIONS, MODELS
from support import arrays_in, replace_empty, same_bits


@pytest.fixture(params=["end", "start"])
def at(request, monkeypatch):
    """Results, workspaces and copies that functional makes touch a forbidden page, too."""
    from fastconv import _check

    def empty(what, shape, dtype):
        _check.fits(what, shape, np.dtype(dtype).itemsize)
        return guarded.empty(shape, dtype, request.param)

    replace_empty(monkeypatch, empty)
    return request.param


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions(function, at, backend, dtype, rng):
    arrays = function.inputs(rng, dtype)
    if function.name == "batchnorm2d_eval":  # a variance
        arrays["V"] = np.abs(arrays["V"])
    expected = arrays_in(function.call(**arrays))
    found = arrays_in(function.call(**{name: guarded.copy(a, at) for name, a in arrays.items()}))
    assert all(map(same_bits, found, expected))


@pytest.mark.parametrize("case", CASES + MODELS, ids=str)
def test_layers(case, at, backend, dtype, rng):
    layer = case.make().astype(dtype)
    for name in case.parameters:
        setattr(layer, name, guarded.copy(np.asarray(getattr(layer, name)), at))
    Z = layer.forward(guarded.copy(case.input(rng, dtype), at))
    dLdA = layer.backward(guarded.copy(rng.standard_normal(Z.shape).astype(dtype), at))
    assert dLdA.shape == case.shape


# Each way through the kernels: images that the tile reads itself, panels of many channels, small images
# side by side, single rows and filters, tails of vectors, phases of strides and of upsampling.
CONVOLUTIONS = [
    # images, channels, filters, sizes, kernel, stride, padding, upsampling
    (1, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    (2, 3, 5, (9, 33), (3, 3), (1, 1), (0, 0), (1, 1)),
    (2, 3, 40, (9, 33), (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 17, 23, (7, 41), (1, 1), (1, 1), (0, 0), (1, 1)),
    (1, 40, 3, (1, 97), (1, 8), (1, 4), (0, 3), (1, 1)),
    (33, 4, 7, (4, 5), (3, 2), (1, 1), (1, 0), (1, 1)),
    (17, 20, 9, (8, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
    (2, 5, 13, (21, 19), (5, 4), (3, 2), (2, 3), (1, 1)),
    (2, 5, 13, (6, 9), (4, 3), (1, 1), (0, 0), (3, 2)),
    (1, 2, 3, (23, 17), (23, 17), (1, 1), (0, 0), (1, 1)),
    (1, 2, 3, (11, 13), (2, 2), (7, 5), (0, 0), (1, 1)),
    (2, 70, 66, (5, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
    (2, 3, 1, (11, 43), (3, 3), (1, 1), (0, 0), (1, 1)),
    (2, 1, 3, (13, 37), (5, 5), (1, 1), (2, 2), (1, 1)),
    (2, 3, 5, (3, 67), (2, 7), (1, 4), (0, 1), (1, 1)),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("problem", CONVOLUTIONS, ids=str)
def test_convolutions(problem, at, dtype, threads, monkeypatch):
    monkeypatch.setattr("fastconv.backend.SERIAL_BELOW", 0)
    # Operands are drawn by this one.
    draw = oracles.small_integers
    monkeypatch.setattr(oracles, "small_integers", lambda *a: guarded.copy(draw(*a), at))
    before = fc.get_num_threads()
    fc.set_num_threads(threads)
    try:
        check_integers(*problem, dtype)
        with fc.use_conv_algorithm("winograd"):  # its results are not exact, and tested elsewhere
            images, channels, filters, sizes, kernel, *steps = problem
            A = guarded.copy(np.ones((images, channels, *sizes), dtype), at)
            W = guarded.copy(np.ones((filters, channels, *kernel), dtype), at)
            Z = F.conv2d_forward(A, W, guarded.copy(W[:, 0, 0, 0], at), *steps)
            F.conv2d_backward(guarded.copy(Z, at), A, W, *steps)
    finally:
        fc.set_num_threads(before)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 7), (5, 3), (9, 33), (33, 9), (8, 64), (40, 41)], ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 2), (1, 5), (5, 3), (17, 18)], ids=str)
def test_pools(sizes, kernel, at, dtype, rng):
    if kernel[0] > sizes[0] or kernel[1] > sizes[1]:
        return
    for images, channels in ((1, 1), (3, 7), (2, 33)):
        A = guarded.copy(rng.standard_normal((images, channels, *sizes)).astype(dtype), at)
        for stride in ((1, 1), (2, 2), (3, 5), kernel):
            for forward, backward in (
                (F.max_pool2d_forward, F.max_pool2d_backward), (F.mean_pool2d_forward, F.mean_pool2d_backward)
            ):
                Z, workspace = forward(A, kernel, stride)
                if workspace.places is not None:
                    workspace = workspace._replace(places=guarded.copy(workspace.places, at))
                assert backward(guarded.copy(Z, at), workspace).shape == A.shape


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 4096, 4097])
def test_rows_of_any_length(size, at, dtype, rng):
    x = guarded.copy(rng.standard_normal(size).astype(dtype), at)
    for function in (F.sigmoid, F.relu, F.gelu, F.swish, F.tanh):
        function(x)
    for function in (F.sigmoid_backward, F.relu_backward, F.gelu_backward, F.swish_backward, F.tanh_backward):
        function(x, x)
    for rows in (x[None], guarded.copy(x[:, None], at), guarded.copy(np.stack([x, x, x]), at)):
        F.softmax_backward(rows, F.softmax(rows))
        for loss, gradient in ((F.mse, F.mse_backward), (F.cross_entropy, F.cross_entropy_backward)):
            loss(rows, rows)
            gradient(rows, rows)
        image = rows[:, None, None]
        F.batchnorm2d_backward(image, image, [1.0], F.batchnorm2d_forward(image, [1.0], [0.0])[1])
        F.scale_channels(image, guarded.copy(np.ones((len(rows), 1), dtype), at))


def test_random_problems(at):
    """Those of the fuzzer, whose arrays have pages of their own at times; here results have them always."""
    for index in range(500):
        assert not failures(numbered(5, index))
