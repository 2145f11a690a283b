"""Upsampling and downsampling by slices, exactly."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc

FACTORS = [1, 2, 3, 7]
SIZES = [1, 2, 6, 7, 8, 9, 14]


def every(k, axes):
    return (slice(None), slice(None), *[slice(None, None, k)] * axes)


def image(rng, axes, size, dtype):
    return rng.standard_normal((2, 3, size, 5)[: 2 + axes]).astype(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", FACTORS)
@pytest.mark.parametrize("axes", [1, 2])
def test_upsampling_puts_zeros_between_neighbours(rng, dtype, axes, k, size):
    layer = (fc.Upsample1d, fc.Upsample2d)[axes - 1](k)
    assert layer.upsampling_factor == k
    A = image(rng, axes, size, dtype)
    expected = np.zeros((2, 3, *(k * (n - 1) + 1 for n in A.shape[2:])), dtype)
    expected[every(k, axes)] = A
    assert_array_equal(layer.forward(A), expected, strict=True)
    dLdZ = rng.standard_normal(expected.shape).astype(dtype)
    assert_array_equal(layer.backward(dLdZ), dLdZ[every(k, axes)], strict=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", FACTORS)
@pytest.mark.parametrize("axes", [1, 2])
def test_downsampling_keeps_every_kth(rng, dtype, axes, k, size):
    layer = (fc.Downsample1d, fc.Downsample2d)[axes - 1](k)
    assert layer.downsampling_factor == k
    A = image(rng, axes, size, dtype)
    Z = layer.forward(A)
    assert Z.shape[2] == (size - 1) // k + 1
    assert_array_equal(Z, A[every(k, axes)], strict=True)
    dLdZ = rng.standard_normal(Z.shape).astype(dtype)
    expected = np.zeros_like(A)
    expected[every(k, axes)] = dLdZ
    assert_array_equal(layer.backward(dLdZ), expected, strict=True)


def test_a_width_that_the_factor_divides():
    assert fc.Downsample1d(2)(np.zeros((1, 1, 8))).shape == (1, 1, 4)


def test_input_sizes_have_the_names_of_the_course(rng):
    one, two = fc.Downsample1d(2), fc.Downsample2d(2)
    one.forward(rng.standard_normal((2, 3, 9)))
    two.forward(rng.standard_normal((2, 3, 9, 11)))
    assert one.input_width == 9
    assert (two.input_width, two.input_height) == (9, 11)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", FACTORS)
def test_downsampling_undoes_upsampling(rng, k, size):
    A = image(rng, 2, size, np.float64)
    assert_array_equal(fc.Downsample2d(k)(fc.Upsample2d(k)(A)), A, strict=True)


@pytest.mark.parametrize("name", ["Upsample1d", "Upsample2d", "Downsample1d", "Downsample2d"])
def test_other_dtypes_and_an_empty_batch(name):
    layer, shape = getattr(fc, name)(2), (2, 3, 5, 4)[: 3 + name.endswith("2d")]
    for dtype in (bool, np.int32, np.uint8, np.float16):
        Z = layer.forward(np.ones(shape, dtype))
        assert_array_equal(Z, layer.forward(np.ones(shape)), strict=True)
        dLdA = layer.backward(np.ones(Z.shape, dtype))
        assert_array_equal(dLdA, layer.backward(np.ones(Z.shape)), strict=True)
    Z = layer.forward(np.ones((0, *shape[1:])))
    assert len(Z) == 0
    assert layer.backward(Z).shape == (0, *shape[1:])
