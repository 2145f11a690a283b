"""Numbers at the edges: subnormals, NaN, infinities, ties, constant channels, large means."""

from fractions import Fraction

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from layers import CASES, FUNCTIONS, MODELS
from support import output_of

SMALLEST_NORMAL = 2.0**-1022


def flushes_subnormals():
    """Whether this thread's floating-point mode reads or writes subnormals as zero."""
    return np.float64(SMALLEST_NORMAL) / 2 == 0 or np.float64(5e-324) * 2 == 0


# Layers that only move numbers, or multiply by one.
def keep_all(dtype):
    identity = np.eye(3, dtype=dtype)
    conv1d, conv2d, linear = fc.Conv1d(3, 3, 1, 1), fc.Conv2d(3, 3, 1, 1), fc.Linear(3, 3)
    conv1d.W, conv2d.W, linear.W = identity[:, :, None], identity[:, :, None, None], identity
    for layer in (conv1d, conv2d, linear):
        layer.b = layer.b.astype(dtype)
    return [
        (conv1d, (2, 3, 40)), (conv2d, (2, 3, 5, 9)), (linear, (4, 3)), (fc.MaxPool2d(1, 1), (2, 3, 5, 9)),
        (fc.MeanPool2d(1, 1), (2, 3, 5, 9)), (fc.Upsample2d(1), (2, 3, 5, 9)),
        (fc.Downsample2d(1), (2, 3, 5, 9)), (fc.Dropout2d(0.0), (2, 3, 5, 9)), (fc.ReLU(), (2, 9)),
    ]


@pytest.mark.parametrize("index", range(9))
def test_subnormals_are_kept(index, backend, dtype):
    layer, shape = keep_all(dtype)[index]
    smallest = np.finfo(dtype).smallest_subnormal
    A = (np.arange(1, np.prod(shape) + 1) * smallest).reshape(shape).astype(dtype)
    assert A.max() < np.finfo(dtype).tiny
    Z = layer.forward(A)
    assert np.array_equal(Z, A)
    assert np.array_equal(layer.backward(A), A)


def test_subnormals_are_kept_by_all_threads(dtype):
    smallest = np.finfo(dtype).smallest_subnormal
    A = np.full((8, 16, 64, 64), 3 * smallest, dtype)
    W = np.eye(16, dtype=dtype)[:, :, None, None]
    threads = fc.get_num_threads()
    try:
        fc.set_num_threads(4)
        assert np.array_equal(F.conv2d_forward(A, W), A)
        assert np.array_equal(F.conv2d_backward(A, np.ones_like(A), W)[0], A)
        assert np.array_equal(F.max_pool2d_forward(A, 1)[0], A)
        assert np.array_equal(F.mean_pool2d_forward(A, 1)[0], A)
    finally:
        fc.set_num_threads(threads)


def test_subnormal_products_are_not_flushed(backend, dtype):
    tiny = np.finfo(dtype).tiny
    A, W = np.full((1, 1, 40), tiny, dtype), np.full((1, 1, 1), 0.25, dtype)
    assert np.array_equal(F.conv1d_forward(A, W), A / 4)
    assert (A / 4 > 0).all()


@pytest.mark.parametrize("isa", ["", *fc.config()["instruction sets present"]])
def test_import_leaves_the_floating_point_mode(isa):
    script = "import fastconv; print(float.fromhex('0x1p-1022') / 2, 5e-324 * 2)"
    assert output_of(script, FASTCONV_ISA=isa) == f"{SMALLEST_NORMAL / 2} {5e-324 * 2}"


@pytest.mark.parametrize("case", CASES + MODELS, ids=str)
def test_layers_leave_the_floating_point_mode(case, backend, dtype, rng):
    layer = case.make().astype(dtype)
    layer.backward(np.ones_like(layer.forward(case.input(rng, dtype))))
    assert not flushes_subnormals()


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions_leave_the_floating_point_mode(function, backend, dtype, rng):
    function.call(**function.inputs(rng, dtype))
    assert not flushes_subnormals()


def test_nan_wins_a_max_pool(backend, dtype):
    A = np.arange(36, dtype=dtype).reshape(1, 1, 6, 6)
    A[0, 0, 1, 2] = A[0, 0, 2, 1] = np.nan
    layer = fc.MaxPool2d(3, 3)
    Z = layer.forward(A)
    assert np.isnan(Z[0, 0, 0, 0])
    assert np.array_equal(Z[0, 0].ravel()[1:], [17, 32, 35])
    assert layer.max_indices[0, 0, 0, 0].tolist() == [1, 2]  # the first, row by row
    dLdA = layer.backward(np.ones_like(Z))
    assert dLdA[0, 0, 1, 2] == 1
    assert dLdA.sum() == 4


@pytest.mark.parametrize("place", range(9))
def test_every_place_of_a_nan(place, backend, dtype):
    A = np.full((2, 3, 3, 70), np.inf, dtype)
    A[..., place // 3, place % 3 :: 3] = np.nan
    layer = fc.MaxPool2d(3, 3)
    assert np.isnan(layer.forward(A)).all()
    expected = np.broadcast_to([place // 3, place % 3], (2, 3, 1, 23, 2)).copy()
    expected[..., 1] += 3 * np.arange(23)
    assert np.array_equal(layer.max_indices, expected)


def test_window_of_minus_infinity(backend, dtype):
    A = np.full((1, 2, 5, 70), -np.inf, dtype)
    layer = fc.MaxPool2d(3, 2)
    Z = layer.forward(A)
    assert np.array_equal(Z, np.full((1, 2, 2, 34), -np.inf))
    first = layer.max_indices - 2 * np.stack(np.meshgrid(range(2), range(34), indexing="ij"), -1)
    assert ((first >= 0) & (first < 3)).all()
    dLdA = layer.backward(np.ones_like(Z))
    assert dLdA.sum() == Z.size


@pytest.mark.parametrize("kernel", [2, 3, 17])
def test_ties_go_to_the_first(kernel, backend, dtype):
    A = np.ones((2, 3, 2 * kernel, 3 * kernel), dtype)
    layer = fc.MaxPool2d(kernel, kernel)
    Z = layer.forward(A)
    dLdA = layer.backward(np.full_like(Z, 5))
    expected = np.zeros_like(A)
    expected[:, :, ::kernel, ::kernel] = 5
    assert np.array_equal(dLdA, expected)


def test_zeros_of_both_signs_tie(backend, dtype):
    A = np.array([[[[-0.0, 0.0, 0.0, -0.0]]]], dtype)
    layer = fc.MaxPool2d_stride1(1)
    layer.forward(A)
    Z, workspace = F.max_pool2d_forward(A, (1, 4))
    assert workspace.max_indices.ravel().tolist() == [0, 0]
    assert np.signbit(Z).all()


def test_infinity_and_nan_stay_in_their_mean_windows(backend, dtype):
    A = np.ones((1, 1, 9, 9), dtype)
    A[0, 0, 4, 4], A[0, 0, 0, 8] = np.inf, np.nan
    Z = fc.MeanPool2d_stride1(3).forward(A)
    rows, cols = np.mgrid[:7, :7]
    holds_infinity = (abs(rows - 3) <= 1) & (abs(cols - 3) <= 1)
    holds_nan = (rows == 0) & (cols == 6)
    assert np.isposinf(Z[0, 0, holds_infinity]).all()
    assert np.isnan(Z[0, 0, holds_nan]).all()
    assert (Z[0, 0, ~holds_infinity & ~holds_nan] == 1).all()


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6, 1e-30])
def test_a_constant_channel_is_finite(value, backend, dtype, rng):
    Z = rng.standard_normal((4, 3, 5, 6)).astype(dtype)
    Z[:, 1] = value
    layer = fc.BatchNorm2d(3).astype(dtype)
    layer.Bb[0, 1] = 0.5
    BZ = layer.forward(Z)
    assert layer.V[0, 1] == 0
    assert (BZ[:, 1] == 0.5).all()
    dLdZ = layer.backward(rng.standard_normal(Z.shape).astype(dtype))
    assert np.isfinite(dLdZ).all()
    assert layer.dLdBW[0, 1] == 0


def test_one_value_per_channel(backend, dtype):
    Z = np.array([3.0, -4.0, 1e5], dtype).reshape(1, 3, 1, 1)
    layer = fc.BatchNorm2d(3).astype(dtype)
    assert not layer.forward(Z).any()
    assert np.array_equal(layer.M, Z)
    assert not layer.V.any()
    assert not layer.backward(np.ones_like(Z)).any()
    assert np.array_equal(layer.dLdBb.ravel(), [1, 1, 1])


def test_variance_around_a_large_mean(backend, dtype, rng):
    Z = (1e6 + rng.standard_normal((4, 2, 16, 16))).astype(dtype)
    layer = fc.BatchNorm2d(2).astype(dtype)
    BZ = layer.forward(Z)
    for channel in range(2):
        numbers = [Fraction(float(z)) for z in Z[:, channel].ravel()]
        mean = sum(numbers) / len(numbers)
        variance = float(sum((z - mean) ** 2 for z in numbers) / len(numbers))
        rounding = 16 * np.finfo(dtype).eps
        assert abs(layer.V[0, channel, 0, 0] - variance) <= rounding * variance
        assert abs(layer.M[0, channel, 0, 0] - float(mean)) <= np.finfo(dtype).eps * 1e6
        normalised = [float(z - mean) / (variance + layer.eps) ** 0.5 for z in numbers]
        # The mean is kept in float64, so rounded to half of 1e6 * 2**-52.
        bound = 8 * rounding + 1e6 * np.finfo(np.float64).eps
        assert np.abs(BZ[:, channel].ravel() - normalised).max() < bound


def test_a_nan_stays_in_its_channel(backend, dtype, rng):
    Z = rng.standard_normal((4, 3, 5, 6)).astype(dtype)
    clean = fc.BatchNorm2d(3).forward(Z)
    for value in (np.nan, np.inf):
        Z[2, 1, 3, 3] = value
        layer = fc.BatchNorm2d(3)
        BZ = layer.forward(Z)
        assert np.isnan(BZ[:, 1]).any()
        assert np.array_equal(BZ[:, ::2], clean[:, ::2])
        dLdZ = layer.backward(np.ones_like(Z))
        assert np.isfinite(dLdZ[:, ::2]).all()


@pytest.mark.parametrize("make", [fc.Sigmoid, fc.Tanh, fc.ReLU, fc.GELU, fc.Swish, fc.Softmax])
def test_extreme_numbers_pass_activations_in_silence(make, backend, dtype):
    largest = np.finfo(dtype).max
    Z = np.array([[largest, -largest, 1e5, -1e5, 0.0]], dtype)
    layer = make()
    A = layer.forward(Z)
    assert np.isfinite(A).all()
    assert np.isfinite(layer.backward(np.ones_like(A))).all()
    assert layer.forward(np.full((1, 5), np.nan, dtype)).dtype == dtype
    assert np.isnan(layer.forward(np.full((1, 5), np.nan, dtype))).all()
