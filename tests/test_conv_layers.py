"""The convolution layers as classes: construction, parameters, and what they are composed of."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
import oracles

STRIDE1 = [(fc.Conv1d_stride1, 1), (fc.Conv2d_stride1, 2)]
STRIDED = [(fc.Conv1d, 1), (fc.Conv2d, 2)]
TRANSPOSED = [(fc.ConvTranspose1d, 1), (fc.ConvTranspose2d, 2)]
INNER = {1: "conv1d_stride1", 2: "conv2d_stride1"}


def with_integers(layer, rng, dtype=np.float64):
    """The layer with parameters whose sums are exact."""
    layer.W = oracles.small_integers(rng, layer.W.shape, dtype)
    layer.b = oracles.small_integers(rng, layer.b.shape, dtype)
    return layer


def every_layer():
    for cls, axes in STRIDE1:
        yield cls(3, 4, 2), axes
    for cls, axes in STRIDED:
        yield cls(3, 4, 2, 3, 1), axes
    for cls, axes in TRANSPOSED:
        yield cls(3, 4, 2, 3), axes


# ---- composition ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (2, 1), (3, 2), (5, 0)])
@pytest.mark.parametrize(("cls", "axes"), STRIDED)
def test_strided_equals_padded_stride1_downsampled(backend, dtype, rng, cls, axes, stride, padding):
    layer = with_integers(cls(3, 4, 3, stride, padding), rng, dtype)
    parts = with_integers(cls(3, 4, 3, stride, padding), rng, dtype)
    parts.W, parts.b = layer.W.copy(), layer.b.copy()
    inner, downsample = getattr(parts, INNER[axes]), getattr(parts, f"downsample{axes}d")
    A = oracles.small_integers(rng, (2, 3, 12, 11)[: axes + 2], dtype)
    around = [(0, 0), (0, 0)] + [(padding, padding)] * axes
    Z = downsample.forward(inner.forward(np.pad(A, around)))
    assert_array_equal(layer.forward(A), Z, strict=True)

    dLdZ = oracles.small_integers(rng, Z.shape, dtype)
    full = inner.backward(downsample.backward(dLdZ))
    inside = (slice(None),) * 2 + tuple(slice(padding, padding + n) for n in A.shape[2:])
    assert_array_equal(layer.backward(dLdZ), full[inside], strict=True)
    assert_array_equal(layer.dLdW, inner.dLdW, strict=True)
    assert_array_equal(layer.dLdb, inner.dLdb, strict=True)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize(("cls", "axes"), TRANSPOSED)
def test_transposed_equals_upsampling_then_stride1(backend, dtype, rng, cls, axes, factor):
    layer = with_integers(cls(3, 4, 3, factor), rng, dtype)
    parts = cls(3, 4, 3, factor)
    parts.W, parts.b = layer.W.copy(), layer.b.copy()
    upsample, inner = getattr(parts, f"upsample{axes}d"), getattr(parts, INNER[axes])
    A = oracles.small_integers(rng, (2, 3, 6, 5)[: axes + 2], dtype)
    Z = inner.forward(upsample.forward(A))
    assert_array_equal(layer.forward(A), Z, strict=True)
    assert Z.shape[2:] == tuple(factor * (n - 1) + 1 - 3 + 1 for n in A.shape[2:])

    dLdZ = oracles.small_integers(rng, Z.shape, dtype)
    assert_array_equal(layer.backward(dLdZ), upsample.backward(inner.backward(dLdZ)), strict=True)
    assert_array_equal(layer.dLdW, inner.dLdW, strict=True)
    assert_array_equal(layer.dLdb, inner.dLdb, strict=True)


@pytest.mark.parametrize(("cls", "axes"), STRIDE1)
def test_stride1_equals_definition(backend, rng, cls, axes):
    layer = with_integers(cls(3, 4, 3), rng)
    A = oracles.small_integers(rng, (2, 3, 7, 9)[: axes + 2])
    dLdZ = oracles.small_integers(rng, (2, 4, 5, 7)[: axes + 2])
    lift = (slice(None), slice(None), *[None] * (2 - axes))
    Z = oracles.conv(A[lift], layer.W[lift], layer.b)
    assert_array_equal(layer.forward(A)[lift], Z)
    dLdA = oracles.conv_input_gradient(dLdZ[lift], A[lift], layer.W[lift])
    assert_array_equal(layer.backward(dLdZ)[lift], dLdA)
    kernel = layer.W[lift].shape[2:]
    assert_array_equal(layer.dLdW[lift], oracles.conv_weight_gradient(dLdZ[lift], A[lift], kernel))
    assert_array_equal(layer.dLdb, oracles.conv_bias_gradient(dLdZ[lift]))


@pytest.mark.parametrize(("width", "seen"), [(11, 11), (12, 11), (13, 11), (14, 14)])
def test_the_tail_that_no_window_sees_has_zero_gradient(backend, width, seen):
    layer = fc.Conv2d(2, 3, 2, 3, weight_init_fn=lambda *shape: np.ones(shape))
    A = np.ones((1, 2, width, width))
    dLdA = layer.backward(np.ones_like(layer.forward(A)))
    assert dLdA.shape == A.shape
    used = (np.arange(width) % 3 != 2) & (np.arange(width) < seen)
    assert_array_equal(dLdA, np.broadcast_to(3.0 * (used[:, None] & used), A.shape))


# ---- construction --------------------------------------------------------------------------------


def weights_by(number):
    return lambda *shape: np.full(shape, float(number))


@pytest.mark.parametrize(("cls", "axes"), STRIDED)
def test_both_revisions_construct_the_same_layer(cls, axes):
    weight, bias = weights_by(2), weights_by(3)
    for layer in (
        cls(3, 4, 2, 3, weight, bias),
        cls(3, 4, 2, 3, 0, weight, bias),
        cls(3, 4, 2, 3, weight, bias_init_fn=bias),
        cls(3, 4, 2, 3, weight_init_fn=weight, bias_init_fn=bias),
        cls(in_channels=3, out_channels=4, kernel_size=2, stride=3, padding=0,
            weight_init_fn=weight, bias_init_fn=bias),
    ):
        assert (layer.stride, layer.pad) == (3, 0)
        assert_array_equal(layer.W, np.full((4, 3, *[2] * axes), 2.0))
        assert_array_equal(layer.b, np.full(4, 3.0))
    for layer in (cls(3, 4, 2, 3, None, bias), cls(3, 4, 2, 3, None, None), cls(3, 4, 2, 3, weight)):
        assert layer.pad == 0
    assert_array_equal(cls(3, 4, 2, 3, None, bias).b, np.full(4, 3.0))
    assert_array_equal(cls(3, 4, 2, 3, weight).W, np.full((4, 3, *[2] * axes), 2.0))
    assert_array_equal(cls(3, 4, 2, 3, weight).b, np.zeros(4))
    padded = cls(3, 4, 2, 3, 5, weight, bias)
    assert (padded.pad, padded.W.flat[0], padded.b[0]) == (5, 2, 3)


def test_init_functions_get_the_documented_arguments():
    calls = []

    def recording(*shape):
        calls.append(shape)
        return np.ones(shape)

    for group, extra in ((STRIDE1, ()), (STRIDED, (5,)), (TRANSPOSED, (5,))):
        for cls, axes in group:
            calls.clear()
            layer = cls(3, 4, 2, *extra, weight_init_fn=recording, bias_init_fn=recording)
            assert sorted(calls) == [(4,), (4, 3, *[2] * axes)]
            assert_array_equal(layer.b, np.ones(4))
    calls.clear()
    fc.Conv2d(3, 4, (2, 5), 1, weight_init_fn=recording)
    assert calls == [(4, 3, 2, 5)]


def test_default_parameters_are_drawn_from_the_global_stream():
    np.random.seed(5)
    layers = [layer for layer, _ in every_layer()]
    after = np.random.random()
    np.random.seed(5)
    for layer in layers:
        assert_array_equal(layer.W, np.random.normal(0, 1.0, layer.W.shape), strict=True)
        assert_array_equal(layer.b, np.zeros(4), strict=True)
    assert np.random.random() == after


def test_attributes():
    for layer, axes in every_layer():
        assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (3, 4, 2)
        assert layer.W.shape == layer.dLdW.shape == (4, 3, *[2] * axes)
        assert layer.b.shape == layer.dLdb.shape == (4,)
        assert not layer.dLdW.any()
        assert not layer.dLdb.any()
        assert {x.dtype for x in (layer.W, layer.b, layer.dLdW, layer.dLdb)} == {np.dtype(np.float64)}
    for cls, axes in STRIDED:
        layer = cls(3, 4, 2, 3, 1)
        assert (layer.stride, layer.pad) == (3, 1)
        assert getattr(layer, f"downsample{axes}d").downsampling_factor == 3
    for cls, axes in TRANSPOSED:
        layer = cls(3, 4, 2, 3)
        assert layer.upsampling_factor == getattr(layer, f"upsample{axes}d").upsampling_factor == 3
    assert fc.Conv2d_padding is fc.Conv2d


def test_kernel_size_pairs(backend, rng):
    for layer in (
        fc.Conv2d_stride1(2, 3, (2, 4)), fc.Conv2d(2, 3, (2, 4), 2, 1), fc.ConvTranspose2d(2, 3, (2, 4), 3)
    ):
        assert tuple(layer.kernel_size) == (2, 4)
        assert layer.W.shape == (3, 2, 2, 4)
        A = rng.standard_normal((1, 2, 6, 7))
        stride, padding = getattr(layer, "stride", 1), getattr(layer, "pad", 0)
        steps = [(s, s) for s in (stride, padding, getattr(layer, "upsampling_factor", 1))]
        bound = oracles.rounding(16, np.float64) * oracles.conv(abs(A), abs(layer.W), abs(layer.b), *steps)
        oracles.assert_within(layer(A), oracles.conv(A, layer.W, layer.b, *steps), bound)


def test_float32_layers_compute_in_float32(backend, rng):
    np.random.seed(5)
    for cls, axes in STRIDED:
        layer = cls(3, 4, 2, 1, dtype="float32")
        A = rng.standard_normal((2, 3, 5, 6)[: axes + 2]).astype(np.float32)
        Z = layer.forward(A)
        everything = layer.W, layer.b, layer.dLdW, layer.dLdb, Z, layer.backward(Z), layer.dLdW, layer.dLdb
        assert {x.dtype for x in everything} == {np.dtype(np.float32)}
        assert layer.forward(A.astype(np.float64)).dtype == np.float64
    np.random.seed(5)
    drawn = np.random.normal(0, 1.0, (4, 3, 2)).astype(np.float32)
    np.random.seed(5)
    assert_array_equal(fc.Conv1d(3, 4, 2, 1, dtype="float32").W, drawn, strict=True)


def test_astype_converts_parameters_in_place():
    for layer, _ in every_layer():
        W = layer.W.copy()
        assert layer.astype("float32") is layer
        assert {x.dtype for x in (layer.W, layer.b, layer.dLdW, layer.dLdb)} == {np.dtype(np.float32)}
        assert_array_equal(layer.W, W.astype(np.float32))
        assert layer.astype(np.float64).W.dtype == np.float64


# ---- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "axes"), STRIDED + TRANSPOSED)
def test_parameters_of_the_outer_layer_are_those_of_the_inner(rng, cls, axes):
    layer = cls(3, 4, 2, 2)
    inner = getattr(layer, INNER[axes])
    layer.backward(np.ones_like(layer.forward(rng.standard_normal((2, 3, 6, 6)[: axes + 2]))))
    for name in ("W", "b", "dLdW", "dLdb"):
        assert getattr(layer, name) is getattr(inner, name)
        setattr(layer, name, getattr(layer, name) + 1)
        assert getattr(layer, name) is getattr(inner, name)
    inner.W = np.zeros_like(inner.W)
    assert not layer.W.any()


@pytest.mark.parametrize("index", range(6))
def test_assigned_parameters_are_used(backend, rng, index):
    layer, axes = list(every_layer())[index]
    A = oracles.small_integers(rng, (2, 3, 6, 6)[: axes + 2])
    weights = [
        oracles.small_integers(rng, (*[2] * axes, 3, 4)).T,
        oracles.small_integers(rng, (4, 3, *[2] * axes))[::-1, :, ::-1],
        np.asfortranarray(oracles.small_integers(rng, (4, 3, *[2] * axes))),
        oracles.small_integers(rng, (4, 3, *[2] * axes), np.int32),
        oracles.small_integers(rng, (4, 3, *[2] * axes), np.int64),
    ]
    for W in weights:
        b = oracles.small_integers(rng, 4, W.dtype)
        layer.W, layer.b = np.array(W, np.float64, order="C"), b.astype(np.float64)
        Z = layer.forward(A)
        expected = Z, layer.backward(Z), layer.dLdW, layer.dLdb
        layer.W, layer.b = W, b
        found = layer.forward(A), layer.backward(Z), layer.dLdW, layer.dLdb
        for x, y in zip(found, expected):
            assert_array_equal(x, y, strict=True)


@pytest.mark.parametrize("index", range(6))
def test_updates_in_place_take_effect_and_gradients_do_not_accumulate(backend, rng, index):
    layer, axes = list(every_layer())[index]
    layer.dLdW.fill(0.0)
    layer.dLdb.fill(0.0)
    with_integers(layer, rng)
    A = oracles.small_integers(rng, (2, 3, 6, 6)[: axes + 2])
    Z = layer.forward(A)
    layer.backward(np.ones_like(Z))
    dLdW, dLdb, W = layer.dLdW.copy(), layer.dLdb.copy(), layer.W
    layer.W -= 0.5 * layer.dLdW
    layer.b -= 0.5 * layer.dLdb
    assert layer.W is W
    assert (layer.forward(A) != Z).any()
    layer.backward(np.ones_like(Z))
    assert_array_equal(layer.dLdW, dLdW)
    assert_array_equal(layer.dLdb, dLdb)
