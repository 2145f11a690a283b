"""BatchNorm2d against its formulas in extended precision."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastconv as fc
import oracles

EPS = 1e-8
SHAPES = [
    (1, 1, 1, 2), (4, 3, 5, 6), (2, 1, 1, 7), (1, 5, 3, 1), (7, 2, 1, 1), (2, 3, 31, 34), (3, 2, 8, 128),
    (2, 2, 1, 1025),
]


def layer_of(rng, channels, dtype):
    layer = fc.BatchNorm2d(channels, dtype=dtype)
    for name in ("BW", "Bb", "running_M"):
        setattr(layer, name, rng.standard_normal((1, channels, 1, 1)).astype(dtype))
    layer.running_V = rng.uniform(0.5, 2, (1, channels, 1, 1)).astype(dtype)
    return layer


def slack(Z):
    """Of a sum over a channel, a few of which go into each result."""
    return 4 * oracles.rounding(Z.size // Z.shape[1], Z.dtype)


def mean(x):
    return abs(x).mean(axis=oracles.AXES, keepdims=True)


def assert_training_equals_definition(layer, Z, dLdBZ):
    BW, Bb = layer.BW.astype(float), layer.Bb.astype(float)
    before_M, before_V = layer.running_M.astype(float), layer.running_V.astype(float)
    BZ, NZ, M, V = oracles.batch_norm(Z, BW, Bb, EPS)
    # The mean is off by so many units of a channel's spread, and by its own rounding to float64.
    worst = abs(NZ).max(axis=oracles.AXES, keepdims=True)
    worst = worst + np.finfo(float).eps / np.finfo(Z.dtype).eps * abs(M) / np.sqrt(V + EPS)
    of_NZ = slack(Z) * (abs(NZ) + worst)
    found = layer.forward(Z)
    assert found.dtype == Z.dtype
    oracles.assert_within(found, BZ, of_NZ * abs(BW) + slack(Z) * abs(Bb))
    oracles.assert_within(layer.NZ, NZ, of_NZ)
    oracles.assert_within(layer.BZ, BZ, of_NZ * abs(BW) + slack(Z) * abs(Bb))
    of_M = slack(Z) * (abs(M) + worst * np.sqrt(V + EPS))
    of_V = slack(Z) * V + (slack(Z) * worst) ** 2 * (V + EPS)
    oracles.assert_within(layer.M, M, of_M)
    oracles.assert_within(layer.V, V, of_V)
    alpha = layer.alpha
    for after, before, new, bound in (
        (layer.running_M, before_M, M, of_M), (layer.running_V, before_V, V, of_V)
    ):
        assert after.dtype == Z.dtype
        exact = alpha * before + (1 - alpha) * new
        oracles.assert_within(after, exact, bound + slack(Z) * (abs(before) + abs(new)))
    assert (layer.N, layer.Z is Z) == (len(Z), True)

    dLdZ, dLdBW, dLdBb = oracles.batch_norm_gradient(dLdBZ, Z, BW, EPS)
    through = abs(BW) / np.sqrt(V + EPS)
    bound = abs(dLdBZ) + mean(dLdBZ) + (abs(NZ) + worst) * (mean(dLdBZ * NZ) + worst * mean(dLdBZ))
    found = layer.backward(dLdBZ)
    assert found.dtype == layer.dLdBW.dtype == layer.dLdBb.dtype == Z.dtype
    oracles.assert_within(found, dLdZ, slack(Z) * through * bound)
    count = Z.size // Z.shape[1]
    oracles.assert_within(layer.dLdBb, dLdBb, slack(Z) * count * mean(dLdBZ))
    oracles.assert_within(layer.dLdBW, dLdBW, slack(Z) * count * (mean(dLdBZ * NZ) + worst * mean(dLdBZ)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training_equals_definition(backend, dtype, rng, shape):
    Z, dLdBZ = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    assert_training_equals_definition(layer_of(rng, shape[1], dtype), Z, dLdBZ)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(2, 9)),
    st.integers(0, 2**32), st.sampled_from([0, -3, 1000]), st.sampled_from([0.01, 1, 100]),
)
def test_any_spread_around_any_mean(backend, dtype, shape, seed, centre, width):
    rng = np.random.default_rng(seed)
    Z, dLdBZ = (rng.standard_normal(shape) * width + centre).astype(dtype), rng.standard_normal(shape)
    assert_training_equals_definition(layer_of(rng, shape[1], dtype), Z, dLdBZ.astype(dtype))


def test_a_mean_of_a_million_costs_no_accuracy(backend, dtype, rng):
    Z = (rng.standard_normal((4, 2, 20, 20)) + 1e6).astype(dtype)
    layer = fc.BatchNorm2d(2, dtype=dtype)
    assert_training_equals_definition(layer, Z, rng.standard_normal(Z.shape).astype(dtype))
    assert abs(layer.V - 1).max() < 0.2


def test_a_constant_channel_is_finite(backend, dtype, rng):
    Z = np.full((3, 2, 4, 5), 7.3, dtype)
    Z[:, 1] = rng.standard_normal((3, 4, 5))
    layer = layer_of(rng, 2, dtype)
    BZ = layer.forward(Z)
    assert np.isfinite(BZ).all()
    assert np.isfinite(layer.backward(np.ones_like(BZ))).all()
    assert layer.V[0, 0, 0, 0] <= np.finfo(dtype).eps
    oracles.assert_within(layer.M[:, :1], np.full((1, 1, 1, 1), 7.3), 8 * np.finfo(dtype).eps)


def test_one_value_a_channel_has_variance_zero(backend, dtype):
    layer = fc.BatchNorm2d(3, dtype=dtype)
    Z = np.array([1, -2, 1e5], dtype).reshape(1, 3, 1, 1)
    assert_array_equal(layer.forward(Z), np.zeros_like(Z), strict=True)
    assert_array_equal(layer.M, Z)
    assert_array_equal(layer.V, np.zeros_like(Z))
    assert_array_equal(layer.backward(np.ones_like(Z)), np.zeros_like(Z))


def test_eval_uses_the_running_statistics_and_changes_nothing(backend, dtype, rng):
    layer = layer_of(rng, 3, dtype)
    Z, dLdBZ = (rng.standard_normal((4, 3, 5, 6)).astype(dtype) for _ in range(2))
    layer.forward(Z)
    before = {name: np.array(getattr(layer, name)) for name in ("running_M", "running_V", "M", "V", "N")}
    scale = layer.BW / np.sqrt(layer.running_V.astype(oracles.EXTENDED) + EPS)
    other = rng.standard_normal((2, 3, 4, 4)).astype(dtype)
    exact = scale * (other - layer.running_M.astype(oracles.EXTENDED)) + layer.Bb
    bound = 8 * np.finfo(dtype).eps * (abs(scale) * (abs(other) + abs(layer.running_M)) + abs(layer.Bb))
    oracles.assert_within(layer.forward(other, eval=True), exact, bound)
    for name, value in before.items():
        assert_array_equal(getattr(layer, name), value, err_msg=name)
    assert layer.Z is Z
    expected = oracles.batch_norm_gradient(dLdBZ, Z, layer.BW.astype(float), EPS)[0]
    oracles.assert_within(layer.backward(dLdBZ), expected, 1e4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("alpha", [0, 0.3, 0.9, 1])
def test_running_statistics_move_by_alpha(backend, rng, alpha):
    layer = fc.BatchNorm2d(3, alpha)
    Z = rng.standard_normal((4, 3, 5, 6)) + 2
    M, V = np.zeros((1, 3, 1, 1)), np.ones((1, 3, 1, 1))
    for _ in range(3):
        layer.forward(Z)
        _, _, now_M, now_V = oracles.batch_norm(Z, layer.BW, layer.Bb, EPS)
        M, V = alpha * M + (1 - alpha) * now_M, alpha * V + (1 - alpha) * now_V
    oracles.assert_within(layer.running_M, M, 1e-13)
    oracles.assert_within(layer.running_V, V, 1e-13)


def test_attributes_from_construction():
    layer = fc.BatchNorm2d(3)
    assert (layer.alpha, layer.eps) == (0.9, EPS)
    for name, value in (("BW", 1), ("Bb", 0), ("dLdBW", 0), ("dLdBb", 0), ("running_M", 0), ("running_V", 1)):
        assert_array_equal(getattr(layer, name), np.full((1, 3, 1, 1), float(value)), strict=True)
    layer.forward(np.random.randn(2, 3, 4, 5))
    assert layer.M.shape == layer.V.shape == (1, 3, 1, 1)


def test_backward_sets_and_does_not_accumulate(backend, rng):
    layer = fc.BatchNorm2d(3)
    Z = rng.standard_normal((4, 3, 5, 6))
    layer.forward(Z)
    first = layer.backward(Z), layer.dLdBW, layer.dLdBb
    second = layer.backward(Z), layer.dLdBW, layer.dLdBb
    for x, y in zip(first, second):
        assert_array_equal(x, y, strict=True)


def test_a_nonfinite_number_stays_in_its_channel(backend, dtype, rng):
    layer = fc.BatchNorm2d(3, dtype=dtype)
    Z = rng.standard_normal((4, 3, 5, 6)).astype(dtype)
    clean = layer.forward(Z)
    Z[1, 1, 2, 3] = np.nan
    BZ = layer.forward(Z)
    assert np.isnan(BZ[:, 1]).all()
    assert_array_equal(BZ[:, ::2], clean[:, ::2])
