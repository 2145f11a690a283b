"""Errors of the compiled activations in units of the last place (ulp), over their whole range.

The bounds are those of `pyx/elementary.h`: an exponential is good to 1 ulp, and each operation
after it adds a half or less.
"""

import math

import numpy as np
import pytest

import oracles
from fastconv import functional as F

FAR = {"float32": 87.0, "float64": 708.0}  # exponentials are normal numbers up to here


def ulps(found, exact):
    """abs(found - exact) in units of the last place of exact."""
    return abs(found - exact) / np.spacing(abs(exact).astype(found.dtype)).astype(oracles.EXTENDED)


@pytest.fixture
def x(rng, dtype):
    far = FAR[np.dtype(dtype).name]
    values = rng.uniform(-far, far, 20000), rng.standard_normal(20000), np.linspace(-5, 5, 10001)
    return np.concatenate(values).astype(dtype)


def test_sigmoid(backend, x):
    assert ulps(F.sigmoid(x), oracles.sigmoid(x)).max() < 3


def test_tanh(backend, x):
    assert ulps(F.tanh(x), oracles.tanh(x)).max() < 3


def test_tanh_of_numbers_near_zero_are_the_numbers(backend, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0, -0.0, tiny, -tiny, np.finfo(dtype).tiny, -1e-30, 1e-20], dtype)
    found = F.tanh(x)
    assert (found == x).all()
    assert (np.signbit(found) == np.signbit(x)).all()


def test_swish(backend, x):
    # Where sigmoid(x) is subnormal its error is x times as large.
    exact = x * oracles.sigmoid(x)
    assert ulps(F.swish(x), exact)[abs(exact) > abs(x) * np.finfo(x.dtype).tiny].max() < 4


def test_subnormal_sigmoids_are_rounded_once(backend, dtype):
    least = {"float32": -106.0, "float64": -748.0}[np.dtype(dtype).name]
    x = np.linspace(least, least + 20, 5001).astype(dtype)
    found, exact = F.sigmoid(x), oracles.sigmoid(x)
    assert ulps(found, exact).max() < 2.5  # NumPy's exponential in the pure set: 1.9
    assert found[0] == 0
    assert ((found > 0) & (found < np.finfo(dtype).tiny)).any()


def test_gelu(backend, dtype, rng):
    least = {"float32": -12.0, "float64": -37.0}[np.dtype(dtype).name]
    x = np.concatenate((rng.uniform(least, 8, 5000), rng.standard_normal(5000))).astype(dtype)
    exact = x.astype(oracles.EXTENDED) * oracles.normal_cdf(x)
    # Rounding x^2 costs x^2 / 4 in the lower tail. The oracle is a float64, and rounds x / sqrt(2).
    square = np.where(x < 0, x.astype(float) ** 2, 0)
    own = 1 + square if dtype == np.float64 else 0
    assert (ulps(F.gelu(x), exact) / (6 * (1 + square / 4) + own)).max() < 1


def test_gelu_gradient(backend, dtype, rng):
    x = np.concatenate((rng.uniform(-40, 40, 5000), rng.standard_normal(5000))).astype(dtype)
    exact = oracles.normal_cdf(x) + x * oracles.normal_density(x)
    assert abs(F.gelu_backward(None, x) - exact).max() < 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 8, 10, 15, 16, 17, 33, 100, 5000])
def test_softmax_and_cross_entropy_of_rows_of_any_length(backend, dtype, rng, columns):
    A = (rng.standard_normal((7, columns)) * 4).astype(dtype)
    Y = np.eye(columns, dtype=dtype)[rng.integers(0, columns, 7)]
    eps, P = np.finfo(dtype).eps, oracles.softmax(A)
    # d = A - max is rounded to eps * abs(d) / 2, which the exponential passes on.
    spread = 4 + (A.max(axis=1, keepdims=True) - A) + math.log2(columns + 1)
    oracles.assert_within(F.softmax(A), P, eps * spread * P + np.finfo(dtype).tiny)
    oracles.assert_within(F.cross_entropy_backward(A, Y), (P - Y) / 7, eps * (spread * P + 2))
    oracles.assert_within(
        np.array(F.cross_entropy(A, Y)), np.array(oracles.cross_entropy(A, Y)), eps * spread.max() * 4)
    dLdA = rng.standard_normal(A.shape).astype(dtype)
    exact = P * (dLdA - (dLdA * P).sum(axis=1, keepdims=True))
    slack = eps * (spread + 2 * columns**0.5) * P * (abs(dLdA) + abs(dLdA * P).sum(axis=1, keepdims=True))
    oracles.assert_within(F.softmax_backward(dLdA, F.softmax(A)), exact, 4 * slack + np.finfo(dtype).tiny)


@pytest.mark.parametrize("function", [F.sigmoid, F.tanh, F.relu, F.gelu, F.swish])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 4095, 4096, 4097, 12289])
def test_a_number_has_one_result_wherever_it_is(backend, dtype, rng, function, size):
    x = np.full(size, 0.7, dtype)
    assert (function(x) == function(x[:1])).all()


@pytest.mark.parametrize("function", [F.sigmoid, F.tanh, F.relu, F.gelu, F.swish])
def test_nan_stays_and_infinities_have_their_limits(backend, dtype, function):
    x = np.array([np.nan, np.inf, -np.inf, 0], dtype)
    found = function(x)
    assert np.isnan(found[0])
    limits = {F.sigmoid: (1, 0, 0.5), F.tanh: (1, -1, 0)}.get(function, (np.inf, 0, 0))
    assert tuple(found[1:]) == limits
