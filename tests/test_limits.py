"""Shapes at the edges: single rows and columns, primes, thousands of channels, more than 2^31 numbers."""

import os
import sys

import numpy as np
import pytest

import fastconv as fc
import repeated
from convolutions import check_integers
from fastconv import functional as F
from oracles import small_integers
from support import replace_empty
from test_pool import assert_max_equals_definition, assert_mean_equals_definition, out_shape

ONE = (1, 1)
PROBLEMS = {
    # channels, filters, sizes, kernel, stride, padding, upsampling
    "a single number": (1, 1, (1, 1), (1, 1), ONE, (0, 0), ONE),
    "1 x N": (3, 5, (1, 211), (1, 7), (1, 3), (0, 2), ONE),
    "N x 1": (3, 5, (211, 1), (7, 1), (3, 1), (2, 0), ONE),
    "1 x N, padded above": (2, 3, (1, 97), (3, 3), ONE, (1, 1), ONE),
    "N x 1, padded beside": (2, 3, (97, 1), (3, 3), ONE, (1, 1), ONE),
    "primes": (7, 11, (31, 37), (5, 3), (3, 2), (2, 1), ONE),
    "primes, upsampled": (5, 13, (7, 11), (5, 3), (2, 3), (1, 4), (3, 5)),
    "one channel and filter": (1, 1, (19, 23), (3, 3), ONE, (1, 1), ONE),
    "4096 channels": (4096, 3, (5, 4), (3, 3), ONE, (1, 1), ONE),
    "4096 filters": (3, 4096, (5, 4), (3, 3), ONE, (1, 1), ONE),
    "4096 channels, 1 x 1": (4096, 17, (2, 2), (1, 1), ONE, (0, 0), ONE),
    "kernel as large as the image": (3, 4, (23, 29), (23, 29), ONE, (0, 0), ONE),
    "kernel as large as the padded image": (3, 4, (9, 11), (13, 15), ONE, (2, 2), ONE),
    "padding beyond the kernel": (2, 3, (3, 4), (2, 2), ONE, (9, 11), ONE),
    "stride beyond the kernel": (2, 3, (29, 31), (2, 3), (7, 11), (0, 0), ONE),
    "stride beyond the image": (2, 3, (5, 7), (3, 3), (50, 60), (0, 0), ONE),
    "stride beyond one axis": (2, 3, (5, 17), (3, 1), (50, 2), (0, 0), ONE),
    "upsampling beyond the kernel": (2, 3, (4, 5), (2, 3), ONE, (0, 0), (7, 9)),
}


@pytest.mark.parametrize("images", [1, 2, 19])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_convolutions(problem, images, backend, dtype):
    if images > 2 and (backend == "pure" or 4096 in problem):
        images = 3  # enough, and soon done
    check_integers(images, *problem, dtype)


POOLS = {
    "a single number": ((1, 1, 1, 1), ONE, ONE),
    "1 x N": ((2, 3, 1, 211), (1, 7), (1, 3)),
    "N x 1": ((2, 3, 211, 1), (7, 1), (3, 1)),
    "primes": ((3, 5, 31, 37), (5, 3), (3, 2)),
    "4096 channels": ((1, 4096, 4, 5), (2, 2), (2, 2)),
    "window as large as the image": ((2, 3, 23, 29), (23, 29), ONE),
    "stride beyond the window": ((2, 3, 29, 31), (2, 3), (7, 11)),
    "stride beyond the image": ((2, 3, 5, 7), (3, 3), (50, 60)),
}


@pytest.mark.parametrize("sizes", POOLS.values(), ids=POOLS)
def test_pools(sizes, backend, dtype, rng):
    A, dLdZ = small_integers(rng, sizes[0], dtype), small_integers(rng, out_shape(*sizes), dtype)
    assert_max_equals_definition(A, *sizes[1:], dLdZ)
    assert_mean_equals_definition(A, *sizes[1:], dLdZ)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 4096, 1, 1), (3, 4096, 2, 2), (2, 1, 1, 4099), (2, 1, 4099, 1)]
)
def test_batch_norm(shape, backend, dtype, rng):
    Z = rng.standard_normal(shape).astype(dtype)
    layer = fc.BatchNorm2d(shape[1], dtype=dtype)
    BZ = layer.forward(Z)
    wide = Z.astype(float)
    mean, var = (f(wide, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    bound = 64 * np.finfo(dtype).eps * (1 + abs(wide).max()) * np.sqrt(1 / (var + layer.eps))
    assert (abs(BZ - (wide - mean) / np.sqrt(var + layer.eps)) <= bound).all()
    assert layer.backward(BZ).shape == shape


# ---- more than 2^31 numbers ----------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="maps memory in the way of Linux")
# Tens of gigabytes are read: for the run that docs/reliability.md describes.
all_of_it = pytest.mark.skipif(os.environ.get("FASTCONV_TEST_HUGE", "") != "1", reason="takes long")
SIDE = 46349  # whose square is more than 2^31
VALUES = np.arange(-7, 9, dtype=np.float32)  # 16 of them fill the piece a whole number of times


@pytest.fixture
def large_results(monkeypatch):
    """Results that are too large lie in memory that repeats."""
    from fastconv import _check

    def empty(what, shape, dtype):
        return repeated.empty(shape, dtype) if np.prod(shape) > 2**30 else np.empty(shape, dtype)

    replace_empty(monkeypatch, empty)
    monkeypatch.setattr(_check, "fits", lambda *_: None)


@linux
def test_a_stride_through_more_than_2_to_the_31_numbers():
    A, dtype = repeated.of_numbers((1, 1, SIDE, SIDE), VALUES), VALUES.dtype
    assert A.size > 2**31
    stride, flat = 9001, A.reshape(-1)
    starts = np.arange((SIDE - 3) // stride + 1) * stride
    at = (starts[:, None] * SIDE + starts)[..., None, None] + np.arange(3)[:, None] * SIDE + np.arange(3)
    seen = flat[at]
    assert at.max() > 2**30
    assert np.array_equal(F.conv2d_forward(A, np.ones((1, 1, 3, 3), dtype), None, stride)[0, 0],
                          seen.sum(axis=(2, 3)))
    assert np.array_equal(F.max_pool2d_forward(A, 3, stride)[0][0, 0], seen.max(axis=(2, 3)))
    means = F.mean_pool2d_forward(A, 3, stride)[0][0, 0]
    assert np.allclose(means, seen.mean(axis=(2, 3)), rtol=0, atol=8 * np.finfo(dtype).eps)
    last = repeated.of_numbers((SIDE * SIDE // 16, 1, 4, 4), VALUES)[-1:]
    assert np.array_equal(F.max_pool2d_forward(last, 4)[0].ravel(), [8])


@linux
@all_of_it
def test_every_one_of_more_than_2_to_the_31_numbers(large_results):
    flat = repeated.of_numbers((2**31 + 48,), VALUES)
    A = F.relu(flat)
    for part in (slice(0, 64), slice(2**31 - 32, None)):
        assert np.array_equal(A[part], np.maximum(flat[part], 0))
    del A
    row = flat.reshape(1, 1, -1)
    Z = F.conv1d_forward(row, np.array([[[1, 10, 100]]], np.float32))
    assert Z.shape == (1, 1, flat.size - 2)
    for part in (slice(0, 64), slice(2**31 - 32, -2)):
        expected = np.convolve(flat[part], [100, 10, 1], "valid")
        assert np.array_equal(Z[0, 0, part][: expected.size], expected)
    del Z
    small = repeated.of_numbers((2**27 + 3, 1, 4, 4), VALUES)
    places = F.max_pool2d_forward(small[-(2**20) :], 4)[1].places
    assert (places == 15).all()


@linux
@all_of_it
def test_sums_over_more_than_2_to_the_31_numbers(large_results):
    count = 2**31 + 16
    ones = repeated.of_numbers((1, 1, count), np.ones(16))
    _, dLdW, dLdb = F.conv1d_backward(ones, ones, np.ones((1, 1, 1)))
    assert (dLdW.item(), dLdb.item()) == (count, count)
    values = repeated.of_numbers((1, 1, 1, count), VALUES.astype(float))
    _, statistics = F.batchnorm2d_forward(values, np.ones(1), np.zeros(1))
    assert statistics.mean == pytest.approx([0.5], rel=1e-12)
    assert statistics.var == pytest.approx([np.var(VALUES.astype(float))], rel=1e-12)
