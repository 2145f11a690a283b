"""Linear, the activations and the losses by their definitions."""

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
import oracles

ELEMENTWISE = ["Identity", "Sigmoid", "Tanh", "ReLU", "GELU", "Swish"]
ACTIVATIONS = [*ELEMENTWISE, "Softmax"]
BETA = 1.5


def make(name):
    return fc.Swish(BETA) if name == "Swish" else getattr(fc, name)()


def value_and_slope(name, Z):
    """A and dA/dZ of an elementwise activation in extended precision."""
    z = Z.astype(oracles.EXTENDED)
    if name == "Identity":
        return z, np.ones_like(z)
    if name == "ReLU":
        return z * (z > 0), (z > 0).astype(oracles.EXTENDED)
    if name == "Sigmoid":
        A = oracles.sigmoid(Z)
        return A, A * oracles.sigmoid(-Z)
    if name == "Tanh":
        A = 2 * oracles.sigmoid(2 * z) - 1
        return A, 4 * oracles.sigmoid(2 * z) * oracles.sigmoid(-2 * z)
    if name == "GELU":
        return z * oracles.normal_cdf(Z), oracles.normal_cdf(Z) + z * oracles.normal_density(Z)
    s = oracles.sigmoid(Z, BETA)
    return z * s, s + BETA * z * s * oracles.sigmoid(-Z, BETA)


@pytest.fixture
def Z(rng, dtype):
    near, far = rng.standard_normal((9, 7)) * 3, rng.uniform(-20, 20, (4, 7))
    return np.concatenate((near, np.zeros((1, 7)), far)).astype(dtype)


def few_roundings(*magnitudes, dtype):
    return 8 * np.finfo(dtype).eps * sum(1 + abs(m) for m in magnitudes)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_equals_definition(backend, name, Z, dtype, rng):
    layer = make(name)
    A, slope = value_and_slope(name, Z)
    bound = few_roundings(Z, dtype=dtype)
    found = layer.forward(Z)
    assert found.dtype == layer.A.dtype == dtype
    oracles.assert_within(found, A, bound)
    oracles.assert_within(layer.A, A, bound)
    oracles.assert_within(layer.backward(), slope, bound)
    dLdA = rng.standard_normal(Z.shape).astype(dtype)
    assert layer.backward(dLdA).dtype == dtype
    oracles.assert_within(layer.backward(dLdA), dLdA * slope, bound * abs(dLdA))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (0, 3)], ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_activations_take_any_shape(backend, name, shape, rng):
    layer, Z = make(name), rng.standard_normal(shape)
    A, slope = value_and_slope(name, Z)
    oracles.assert_within(layer.forward(Z), A, 1e-14)
    oracles.assert_within(layer.backward(np.full(shape, 2.0)), 2 * slope, 2e-14)


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "GELU"])
def test_small_values_keep_their_precision(backend, dtype, name):
    Z = np.array([-1e-6, 1e-6, -3e-12, 3e-12], dtype)
    A, _ = value_and_slope(name, Z)
    if name == "Tanh":
        A = Z.astype(oracles.EXTENDED) * (1 - Z.astype(oracles.EXTENDED) ** 2 / 3)
    oracles.assert_within(make(name).forward(Z), A, 4 * np.finfo(dtype).eps * abs(A))


def test_sigmoid_of_very_negative_numbers_is_not_rounded_to_zero(backend, dtype):
    Z = np.array([-30.0, -60.0, -80.0], dtype)
    expected = oracles.sigmoid(Z)
    oracles.assert_within(fc.Sigmoid().forward(Z), expected, 4 * np.finfo(dtype).eps * expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_extreme_inputs_are_finite_and_silent(backend, dtype, name):
    largest, tiny = np.finfo(dtype).max, np.finfo(dtype).tiny
    row = np.array([largest, -largest, 1e4, -1e4, 750, -750, 100, -100, 40, -40, 0, tiny], dtype)
    Z = np.stack((row, row[::-1], -row))
    layer = make(name)
    A = layer.forward(Z)
    assert np.isfinite(A).all()
    assert np.isfinite(layer.backward(np.ones_like(Z))).all()
    if name != "Softmax":
        assert np.isfinite(layer.backward()).all()
        assert A[0, 1] == {"Identity": -largest, "Tanh": -1}.get(name, 0)
        assert A[0, 0] == {"Sigmoid": 1, "Tanh": 1}.get(name, largest)


@pytest.mark.parametrize(
    ("name", "limits"), [("Sigmoid", (0, 1)), ("Tanh", (-1, 1)), ("ReLU", (0, np.inf)), ("GELU", (0, np.inf))]
)
def test_infinities_give_the_limits(backend, dtype, name, limits):
    layer = make(name)
    A = layer.forward(np.array([-np.inf, np.inf], dtype))
    assert_array_equal(A, np.array(limits, dtype), strict=True)
    assert layer.backward().tolist() == [0, limits[1] == np.inf]


def test_relu_selects(backend, dtype):
    layer = fc.ReLU()
    A = layer.forward(np.array([-1, 0, -0.0, 2, np.nan, np.inf, -np.inf], dtype))
    assert_array_equal(A, np.array([0, 0, 0, 2, np.nan, np.inf, 0], dtype), strict=True)
    assert_array_equal(layer.backward()[:4], np.array([0, 0, 0, 1], dtype), strict=True)
    dLdA = np.array([np.inf, np.nan, -np.inf, 3, 1, 1, np.inf], dtype)
    assert_array_equal(layer.backward(dLdA)[[0, 1, 2, 3, 5, 6]], np.array([0, 0, 0, 3, 1, 0], dtype))


def test_identity_returns_its_input(dtype):
    Z = np.ones((2, 3), dtype)
    layer = fc.Identity()
    assert layer.forward(Z) is Z
    assert layer.A is Z


@pytest.mark.parametrize("beta", [0.5, 1.0, -2.0])
def test_swish_sets_the_gradient_of_beta(backend, dtype, rng, beta):
    layer = fc.Swish(beta)
    Z, dLdA = (rng.standard_normal((6, 5)).astype(dtype) for _ in range(2))
    s = oracles.sigmoid(Z, beta)
    oracles.assert_within(layer.forward(Z), Z * s, few_roundings(Z, dtype=dtype))
    layer.backward(dLdA)
    terms = dLdA * Z.astype(oracles.EXTENDED) ** 2 * s * (1 - s)
    assert abs(layer.dLdbeta - terms.sum()) <= 8 * np.finfo(dtype).eps * abs(terms).sum() * 4
    assert fc.Swish().beta == 1.0


def test_softmax_equals_definition(backend, dtype, rng):
    layer = fc.Softmax()
    Z, dLdA = (rng.standard_normal((6, 5)).astype(dtype) for _ in range(2))
    A = oracles.softmax(Z)
    slack = oracles.rounding(5, dtype)
    oracles.assert_within(layer.forward(Z), A, slack * A * (1 + abs(Z)))
    expected = np.stack([(np.diag(a) - np.outer(a, a)) @ d for a, d in zip(A, dLdA)])
    magnitude = A * (abs(dLdA) + (A * abs(dLdA)).sum(axis=1, keepdims=True))
    oracles.assert_within(layer.backward(dLdA), expected, 4 * slack * magnitude)
    assert layer.A.dtype == dtype


def test_softmax_of_extreme_rows(backend):
    Z = np.array([[1000.0, 1000, -1000], [1e308, -1e308, 0], [-1e308, -1e308, -1e308]])
    expected = np.array([[0.5, 0.5, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    oracles.assert_within(fc.Softmax().forward(Z), expected, 1e-15)


# ---- linear --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("N", "I", "O"), [(1, 1, 1), (3, 5, 4), (2, 700, 3), (64, 3, 65), (0, 4, 2)])
def test_linear_equals_definition(dtype, rng, N, I, O):
    layer = fc.Linear(I, O, dtype=dtype)
    layer.W, layer.b = rng.standard_normal((O, I)).astype(dtype), rng.standard_normal((O, 1)).astype(dtype)
    A, dLdZ = rng.standard_normal((N, I)).astype(dtype), rng.standard_normal((N, O)).astype(dtype)
    W, b = layer.W, layer.b

    def held(found, exact, terms, magnitude):
        assert found.dtype == dtype
        oracles.assert_within(found, exact, oracles.rounding(terms, dtype) * magnitude)

    zero = np.zeros(1)
    held(layer.forward(A), oracles.linear(A, W, b), I, oracles.linear(abs(A), abs(W), abs(b)))
    dLdA = layer.backward(dLdZ)
    held(dLdA, oracles.linear(dLdZ, W.T, zero), O, oracles.linear(abs(dLdZ), abs(W.T), zero))
    held(layer.dLdW, oracles.linear(dLdZ.T, A.T, zero), N, oracles.linear(abs(dLdZ.T), abs(A.T), zero))
    total = dLdZ.astype(oracles.EXTENDED).sum(axis=0)[:, None]
    held(layer.dLdb, total, N, abs(dLdZ).sum(axis=0)[:, None])


def test_linear_attributes_and_bias_of_one_dimension(rng):
    layer = fc.Linear(3, 2)
    for name, shape in (("W", (2, 3)), ("b", (2, 1)), ("dLdW", (2, 3)), ("dLdb", (2, 1))):
        assert_array_equal(getattr(layer, name), np.zeros(shape), strict=True)
    layer.W, layer.b = np.arange(6).reshape(3, 2).T, np.array([10, 20])
    A = np.array([[1.0, 2, 3], [0, 1, 0]])
    assert_array_equal(layer.forward(A), [[26, 42], [12, 23]])
    assert layer.A is A
    assert_array_equal(layer.backward(np.ones((2, 2))), [[1, 5, 9], [1, 5, 9]])
    assert_array_equal(layer.dLdb, np.array([2.0, 2.0]), strict=True)
    assert not hasattr(layer, "dLdA")
    debug = fc.Linear(3, 2, debug=True)
    debug.forward(A)
    assert_array_equal(debug.backward(np.ones((2, 2))), debug.dLdA)


def test_linear_init_functions():
    layer = fc.Linear(3, 2, weight_init_fn=lambda o, i: np.full((o, i), o * 10 + i), bias_init_fn=np.ones)
    assert_array_equal(layer.W, np.full((2, 3), 23.0), strict=True)
    assert_array_equal(layer.b, np.ones((2, 1)), strict=True)


# ---- losses --------------------------------------------------------------------------------------


def one_hot(rng, N, C, dtype):
    return np.eye(C, dtype=dtype)[rng.integers(0, C, N)]


def test_mse_equals_definition(dtype, rng):
    A, Y = (rng.standard_normal((6, 5)).astype(dtype) for _ in range(2))
    loss = fc.MSELoss()
    value = loss.forward(A, Y)
    exact = ((A.astype(oracles.EXTENDED) - Y) ** 2).mean()
    assert type(value) is np.float64
    assert abs(value - exact) <= oracles.rounding(30, dtype) * exact
    gradient = loss.backward()
    assert gradient.dtype == dtype
    exact = 2 * (A.astype(oracles.EXTENDED) - Y) / 30
    oracles.assert_within(gradient, exact, 4 * np.finfo(dtype).eps * abs(exact))
    assert (loss.A is A, loss.Y is Y, loss.N, loss.C) == (True, True, 6, 5)


def test_cross_entropy_equals_definition(backend, dtype, rng):
    A, Y = rng.standard_normal((6, 5)).astype(dtype), one_hot(rng, 6, 5, dtype)
    loss = fc.CrossEntropyLoss()
    value = loss.forward(A, Y)
    exact = oracles.cross_entropy(A, Y)
    assert type(value) is np.float64
    assert abs(value - exact) <= 8 * oracles.rounding(5, dtype) * (1 + abs(A).max())
    gradient = loss.backward()
    assert gradient.dtype == dtype
    oracles.assert_within(gradient, (oracles.softmax(A) - Y) / 6, 4 * oracles.rounding(5, dtype))
    oracles.assert_within(loss.softmax, oracles.softmax(A), 4 * oracles.rounding(5, dtype))
    assert (loss.A is A, loss.Y is Y, loss.N, loss.C) == (True, True, 6, 5)


@pytest.mark.parametrize("extreme", [1e3, 1e30])
def test_cross_entropy_of_extreme_logits_is_exact_and_silent(dtype, extreme):
    A = np.array([[extreme, -extreme, 0], [extreme, -extreme, 0]], dtype)
    loss = fc.CrossEntropyLoss()
    wrong, right = np.eye(3, dtype=dtype)[[1, 1]], np.eye(3, dtype=dtype)[[0, 0]]
    assert math.isclose(loss.forward(A, wrong), 2 * extreme, rel_tol=4 * np.finfo(dtype).eps)
    assert_array_equal(loss.backward(), [[0.5, -0.5, 0]] * 2)
    assert loss.forward(A, right) == 0
    assert_array_equal(loss.backward(), np.zeros((2, 3)))
    assert np.isfinite(loss.forward(np.array([[1e308, -1e308]]), np.array([[1.0, 0]])))


@pytest.mark.parametrize("name", ["MSELoss", "CrossEntropyLoss"])
def test_gradient_of_loss_is_its_slope(rng, name):
    loss, A, Y = getattr(fc, name)(), rng.standard_normal((4, 3)), one_hot(rng, 4, 3, float)
    slopes = oracles.numeric_gradient(lambda: loss.forward(A, Y), A, list(np.ndindex(4, 3)))
    loss.forward(A, Y)
    oracles.assert_within(loss.backward().ravel(), slopes, 1e-10)
