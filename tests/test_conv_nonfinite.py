"""NaN and infinity in a convolution reach every result that depends on them, and no other."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
import oracles
from convolutions import assert_reaches_its_windows, compute, operands
from fastconv import functional as F

PROBLEMS = {
    # channels, filters, (H, W), kernel, stride, padding, upsampling
    "3x3": (3, 5, (19, 37), (3, 3), (1, 1), (0, 0), (1, 1)),
    "3x3 padded": (3, 17, (12, 23), (3, 3), (1, 1), (1, 1), (1, 1)),
    "many taps": (30, 4, (9, 21), (3, 5), (1, 1), (1, 0), (1, 1)),
    "strided": (3, 6, (13, 26), (3, 4), (2, 3), (1, 2), (1, 1)),
    "stride beyond kernel": (2, 3, (14, 23), (2, 2), (3, 5), (0, 0), (1, 1)),
    "upsampled": (2, 3, (5, 11), (3, 4), (1, 1), (0, 0), (2, 3)),
}


@pytest.fixture(params=PROBLEMS.values(), ids=PROBLEMS.keys())
def problem(request):
    """Steps and operands without a zero, so that infinities stay infinities."""
    channels, filters, sizes, kernel, *steps = request.param
    rng = np.random.default_rng(7)
    problem = 2, channels, filters, sizes, kernel, steps
    return steps, operands(lambda shape: rng.uniform(0.5, 1.5, shape), *problem)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_input_reaches_exactly_its_windows(backend, dtype, problem, value):
    steps, arrays = problem
    A, W, b, dLdZ = (x.astype(dtype) for x in arrays)
    for place in oracles.some_places(np.random.default_rng(3), A.shape, 8):
        assert_reaches_its_windows(value, place, (A, W, b, dLdZ), steps)


def test_nonfinite_gradient_reaches_exactly_its_window(backend, dtype, problem):
    steps, arrays = problem
    A, W, b, dLdZ = (x.astype(dtype) for x in arrays)
    # Zeros of the padding are multiplied, those that upsampling would insert are not.
    padded = np.pad(np.ones(A.shape), [(0, 0), (0, 0), *zip(steps[1], steps[1])], constant_values=1)
    seen = oracles.windows(padded, W.shape[2:], steps[0], (0, 0), steps[2])
    for place in oracles.some_places(np.random.default_rng(4), dLdZ.shape, 8):
        n, o, p, q = place
        bad, only = dLdZ.copy(), np.zeros(dLdZ.shape)
        bad[place], only[place] = np.nan, 1
        _, dLdA, dLdW, dLdb = compute(A, W, b, bad, *steps)
        assert_array_equal(np.isnan(dLdA), oracles.conv_input_gradient(only, A, np.ones(W.shape), *steps) > 0)
        assert_array_equal(np.isnan(dLdb), np.arange(len(b)) == o)
        assert_array_equal(np.isnan(dLdW[o]), seen[n, :, p, q] > 0)
        assert np.isfinite(np.delete(dLdW, o, axis=0)).all()


def test_zero_times_infinity_inside_the_window_is_nan(backend, dtype):
    A, W = np.ones((1, 1, 6, 20), dtype), np.ones((2, 1, 3, 3), dtype)
    A[0, 0, 2, 9], W[0, 0, 1, 1] = np.inf, 0
    Z = F.conv2d_forward(A, W)
    assert np.isnan(Z[0, 0, 1, 8])
    assert np.isnan(Z).sum() == 1
    assert np.isposinf(Z).sum() == 17
    padded = F.conv2d_forward(np.ones((1, 1, 4, 5), dtype), np.full((1, 1, 3, 3), np.inf, dtype), padding=1)
    border = np.ones((4, 5), bool)
    border[1:-1, 1:-1] = False
    assert_array_equal(np.isnan(padded[0, 0]), border)


def test_infinite_weight_meets_the_padding_of_many_small_images(backend, dtype):
    """Where images are the lanes, taps beyond the border are left out: not such ones."""
    A, W = np.ones((64, 3, 5, 6), dtype), np.ones((4, 3, 3, 3), dtype)
    W[2, 1, 0, 0] = -np.inf
    Z = F.conv2d_forward(A, W, padding=1)
    top_left = np.zeros((5, 6), bool)
    top_left[0], top_left[:, 0] = True, True
    assert_array_equal(np.isnan(Z[:, 2]), np.broadcast_to(top_left, (64, 5, 6)))
    assert_array_equal(np.isneginf(Z[:, 2]), np.broadcast_to(~top_left, (64, 5, 6)))
    assert np.isfinite(np.delete(Z, 2, axis=1)).all()
    dLdA, _, _ = F.conv2d_backward(Z[:, :1] * 0 + np.ones((1, 4, 1, 1), dtype), A, W, padding=1)
    # The kernel turned: its tap 0 meets the padding of the gradient at the end.
    bottom_right = np.zeros((5, 6), bool)
    bottom_right[-1], bottom_right[:, -1] = True, True
    assert_array_equal(np.isnan(dLdA[:, 1]), np.broadcast_to(bottom_right, (64, 5, 6)))
    assert np.isfinite(dLdA[:, [0, 2]]).all()


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_zeros_of_a_single_filter_are_not_skipped(backend, dtype, value, algorithm):
    """BLAS leaves out products with zeros where a matrix is a vector."""
    A, W = np.ones((1, 2, 6, 5), dtype), np.zeros((1, 2, 3, 3), dtype)
    A[0, 1, 3, 2] = value
    with fc.use_conv_algorithm(algorithm):
        assert np.isnan(F.conv2d_forward(A, W, padding=1)[0, 0, 2:5, 1:4]).all()
        _, dLdW, _ = F.conv2d_backward(np.zeros((1, 1, 6, 5), dtype), A, W, padding=1)
    assert np.isnan(dLdW[0, 1]).all()
    assert (dLdW[0, 0] == 0).all()
