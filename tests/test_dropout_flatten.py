"""Dropout2d on the global stream, and Flatten."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
import oracles
from fastconv import functional as F


@pytest.mark.parametrize("p", [0, 0.1, 0.5, 0.9])
def test_dropout_draws_the_mask_of_the_course(dtype, rng, p):
    layer = fc.Dropout2d(p)
    x, delta = (rng.standard_normal((6, 7, 3, 2)).astype(dtype) for _ in range(2))
    np.random.seed(3)
    masks = [np.random.binomial(1, 1 - p, size=(6, 7, 1, 1)) for _ in range(2)]
    after = np.random.random()
    np.random.seed(3)
    for mask in masks:
        found = layer.forward(x)
        assert_array_equal(layer.mask, mask)
        for result, of in ((found, x), (layer.backward(delta), delta)):
            exact = of.astype(oracles.EXTENDED) * mask / (1 - p)
            assert result.dtype == dtype
            oracles.assert_within(result, exact, 4 * np.finfo(dtype).eps * abs(exact))
    assert np.random.random() == after


def test_dropout_keeps_the_mean(rng):
    layer = fc.Dropout2d(0.3)
    kept = layer.forward(np.ones((200, 100, 1, 1)))
    deviation = np.sqrt(0.3 / 0.7 / kept.size)
    assert abs(kept.mean() - 1) < 6 * deviation
    assert fc.Dropout2d().p == 0.5


def test_dropout_in_eval_returns_its_input_and_keeps_the_mask(rng):
    layer = fc.Dropout2d(0.4)
    x, delta = (rng.standard_normal((6, 7, 3, 2)) for _ in range(2))
    layer.forward(x)
    mask, gradient = layer.mask.copy(), layer.backward(delta)
    before = np.random.get_state()[1:3]
    other = rng.standard_normal((2, 3, 4, 5))
    assert layer.forward(other, eval=True) is other
    after = np.random.get_state()[1:3]
    assert_array_equal(before[0], after[0])
    assert before[1] == after[1]
    assert_array_equal(layer.mask, mask)
    assert_array_equal(layer.backward(delta), gradient)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_scaled_channels_equal_numpy(backend, dtype, rng, size):
    A, factors = (rng.standard_normal(s).astype(dtype) for s in ((5, 6, 1, size), (5, 6)))
    A[0, 0, 0, 0], A[1, 2, 0, size - 1], factors[1, 2], factors[3, 3] = -0.0, np.inf, 0, np.nan
    with np.errstate(invalid="ignore"):
        expected = A * factors[:, :, None, None]
    found = F.scale_channels(A, factors)
    assert_array_equal(found, expected, strict=True)
    assert_array_equal(np.signbit(found[~np.isnan(found)]), np.signbit(expected[~np.isnan(expected)]))
    assert F.scale_channels(A, factors, "float64").dtype == np.float64


def test_scaled_channels_want_a_factor_each(backend):
    with pytest.raises(ValueError, match=r"factors has shape \(3, 2\)"):
        F.scale_channels(np.ones((2, 3, 4, 5)), np.ones((3, 2)))
    with pytest.raises(TypeError, match="dtype"):
        F.scale_channels(np.ones((2, 3, 4, 5)), np.ones((2, 3)), "int32")
    assert F.scale_channels(np.ones((0, 3, 4, 5)), np.ones((0, 3))).shape == (0, 3, 4, 5)


def test_dropout_of_infinity():
    # The course multiplies by the mask: a dropped infinity is NaN there, and so here.
    np.random.seed(1)
    layer = fc.Dropout2d(0.5)
    with np.errstate(invalid="ignore"):
        found = layer.forward(np.full((20, 1, 1, 1), np.inf))
    assert_array_equal(found, np.where(layer.mask == 1, np.inf, np.nan))


SHAPES = [(4,), (4, 3), (4, 3, 5), (2, 3, 4, 5), (2, 1, 3, 1, 2), (0, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flatten_and_back(dtype, rng, shape):
    layer = fc.Flatten()
    A = rng.standard_normal(shape).astype(dtype)
    Z = layer.forward(A)
    assert layer.A_shape == shape
    assert Z.shape == (shape[0], int(np.prod(shape[1:])))
    assert_array_equal(Z.ravel(), A.ravel(), strict=True)
    assert_array_equal(layer.backward(Z), A, strict=True)


def test_flatten_gives_views_where_reshape_does(rng):
    layer = fc.Flatten()
    A = rng.standard_normal((3, 4, 5))
    Z = layer.forward(A)
    assert np.shares_memory(Z, A)
    assert np.shares_memory(layer.backward(Z), Z)
    turned = A.transpose(0, 2, 1)
    assert_array_equal(layer.forward(turned), turned.reshape(3, -1), strict=True)
