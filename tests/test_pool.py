"""Max and mean pooling against loops over windows."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastconv as fc
import oracles
from fastconv import functional as F

SIZES = {
    # (N, C, H, W), kernel, stride
    "window of one": ((2, 3, 5, 6), (1, 1), (1, 1)),
    "window as large as the image": ((2, 3, 5, 6), (5, 6), (1, 1)),
    "stride beyond window": ((2, 2, 11, 13), (2, 3), (4, 5)),
    "tail that no window sees": ((1, 2, 9, 10), (3, 3), (4, 4)),
    "row": ((1, 2, 1, 20), (1, 3), (1, 2)),
    "column": ((1, 2, 20, 1), (3, 1), (2, 1)),
    "row of several strips": ((1, 1, 2, 135), (2, 2), (1, 1)),
    "row of several strips, stride 2": ((1, 1, 2, 262), (2, 3), (1, 2)),
    "row of several strips, stride 3": ((1, 1, 2, 390), (2, 3), (1, 3)),
    "window of 256": ((1, 2, 18, 17), (16, 16), (1, 1)),
    "window of 272": ((1, 2, 19, 18), (17, 16), (1, 1)),
    "window of 400, strided": ((1, 1, 23, 44), (20, 20), (2, 7)),
    "window of one row of 300": ((1, 1, 2, 310), (1, 300), (1, 4)),
}


def assert_max_equals_definition(A, kernel, stride, dLdZ):
    Z, workspace = F.max_pool2d_forward(A, kernel, stride)
    expected, indices = oracles.max_pool(A, kernel, stride)
    assert_array_equal(Z, expected.astype(A.dtype), strict=True)
    assert_array_equal(workspace.max_indices, indices, strict=True)
    dLdA = F.max_pool2d_backward(dLdZ, workspace)
    assert_array_equal(dLdA, oracles.max_pool_gradient(dLdZ, A, indices).astype(A.dtype), strict=True)


def assert_mean_equals_definition(A, kernel, stride, dLdZ):
    Z, workspace = F.mean_pool2d_forward(A, kernel, stride)
    slack = oracles.rounding(kernel[0] * kernel[1], A.dtype)
    magnitude = oracles.mean_pool(abs(A), kernel, stride)
    assert Z.dtype == A.dtype
    oracles.assert_within(Z, oracles.mean_pool(A, kernel, stride), slack * magnitude)
    dLdA = F.mean_pool2d_backward(dLdZ, workspace)
    assert dLdA.dtype == A.dtype
    oracles.assert_within(
        dLdA,
        oracles.mean_pool_gradient(dLdZ, A, kernel, stride),
        slack * oracles.mean_pool_gradient(abs(dLdZ), A, kernel, stride),
    )


def out_shape(shape, kernel, stride):
    return (*shape[:2], *((n - k) // s + 1 for n, k, s in zip(shape[2:], kernel, stride)))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_max_equals_definition(backend, dtype, rng, sizes):
    shape, kernel, stride = sizes
    # Few different numbers: most windows hold ties.
    A = oracles.small_integers(rng, shape, dtype)
    assert_max_equals_definition(A, kernel, stride, oracles.small_integers(rng, out_shape(*sizes), dtype))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_mean_equals_definition(backend, dtype, rng, sizes):
    shape, kernel, stride = sizes
    A, dLdZ = (rng.standard_normal(s).astype(dtype) for s in (shape, out_shape(*sizes)))
    assert_mean_equals_definition(A, kernel, stride, dLdZ)


axes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.integers(1, 3), axes, axes, st.integers(0, 2**32), st.data())
def test_any_pool_equals_definition(backend, dtype, N, C, height, width, seed, data):
    (kernel, stride, more), rng = zip(height, width), np.random.default_rng(seed)
    shape = N, C, kernel[0] + more[0], kernel[1] + more[1]
    A = oracles.small_integers(rng, shape, dtype)
    dLdZ = oracles.small_integers(rng, out_shape(shape, kernel, stride), dtype)
    assert_mean_equals_definition(A, kernel, stride, dLdZ)
    special = data.draw(st.sampled_from([None, np.nan, np.inf, -np.inf]))
    if special is not None:
        A[rng.random(shape) < data.draw(st.sampled_from([0.05, 0.5, 1.0]))] = special
    assert_max_equals_definition(A, kernel, stride, dLdZ)


@pytest.mark.parametrize("kernel", [2, 3, 17])
def test_ties_go_to_the_first(backend, dtype, kernel):
    layer = fc.MaxPool2d_stride1(kernel)
    A = np.full((1, 1, 20, 21), 3.0, dtype)
    Z = layer.forward(A)
    rows, cols = np.indices(Z.shape[2:])
    assert_array_equal(layer.max_indices[0, 0], np.stack((rows, cols), axis=-1))
    expected = np.zeros_like(A)
    expected[:, :, : Z.shape[2], : Z.shape[3]] = 1
    assert_array_equal(layer.backward(np.ones_like(Z)), expected)


def test_zeros_of_either_sign_tie(backend, dtype):
    _, workspace = F.max_pool2d_forward(np.array([[[[-0.0, 0.0]]]], dtype), (1, 2))
    assert workspace.max_indices.ravel().tolist() == [0, 0]


@pytest.mark.parametrize("kernel", [3, 17])
def test_a_window_with_nan_gives_its_first_nan(backend, dtype, rng, kernel):
    A = rng.standard_normal((1, 2, 24, 25)).astype(dtype)
    A[0, 0, 5, 6] = A[0, 0, 5, 8] = A[0, 0, 6, 2] = np.nan
    layer = fc.MaxPool2d_stride1(kernel)
    Z = layer.forward(A)
    expected, indices = oracles.max_pool(A, (kernel, kernel), (1, 1))
    assert np.isnan(Z).any()
    assert_array_equal(Z, expected)
    assert_array_equal(layer.max_indices, indices)


@pytest.mark.parametrize("kernel", [3, 17])
def test_a_window_of_minus_infinity_has_its_index_inside(backend, dtype, kernel):
    layer = fc.MaxPool2d_stride1(kernel)
    A = np.full((1, 1, 20, 20), -np.inf, dtype)
    A[0, 0, 0, 0] = -1
    Z = layer.forward(A)
    assert_array_equal(Z, oracles.max_pool(A, (kernel, kernel), (1, 1))[0])
    rows, cols = np.indices(Z.shape[2:])
    assert_array_equal(layer.max_indices[0, 0], np.stack((rows, cols), axis=-1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_numbers_stay_in_the_means_of_their_windows(backend, dtype, value):
    A = np.ones((2, 2, 12, 70), dtype)
    A[0, 1, 5, 30] = value
    Z, _ = F.mean_pool2d_forward(A, (3, 4))
    held = np.zeros(Z.shape, bool)
    held[0, 1, 3:6, 27:31] = True
    assert_array_equal(Z, np.where(held, value, 1))


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["max", "mean"])
def test_strided_equals_stride1_downsampled(backend, dtype, rng, kind, stride):
    name = f"{kind.capitalize()}Pool2d"
    layer = getattr(fc, name)(4, stride)
    inner, downsample = getattr(layer, f"{kind}pool2d_stride1"), layer.downsample2d
    assert (layer.kernel, layer.stride) == (inner.kernel, downsample.downsampling_factor) == (4, stride)
    assert type(inner) is getattr(fc, f"{name}_stride1")
    A = oracles.small_integers(rng, (2, 3, 13, 12), dtype)  # a mean of 16 of them is exact
    Z = downsample.forward(inner.forward(A))
    assert_array_equal(layer.forward(A), Z, strict=True)
    dLdZ = oracles.small_integers(rng, Z.shape, dtype)
    assert_array_equal(layer.backward(dLdZ), inner.backward(downsample.backward(dLdZ)), strict=True)
    if kind == "max":
        assert_array_equal(layer.max_indices, inner.max_indices[:, :, ::stride, ::stride], strict=True)


def test_max_indices_are_pairs_of_integers_in_the_input(backend, rng):
    layer = fc.MaxPool2d(3, 2)
    A = rng.standard_normal((2, 3, 8, 9))
    Z = layer.forward(A)
    assert layer.A is A
    assert layer.max_indices.shape == (*Z.shape, 2)
    assert layer.max_indices.dtype.kind == "i"
    n, c = np.indices(Z.shape)[:2]
    rows, cols = np.moveaxis(layer.max_indices, -1, 0)
    assert_array_equal(A[n, c, rows, cols], Z)


@pytest.mark.parametrize("name", ["MaxPool2d_stride1", "MeanPool2d_stride1"])
def test_an_empty_batch_gives_empty_results(backend, dtype, name):
    layer = getattr(fc, name)(3)
    Z = layer.forward(np.zeros((0, 2, 5, 6), dtype))
    assert Z.shape == (0, 2, 3, 4)
    assert layer.backward(Z).shape == (0, 2, 5, 6)


@pytest.mark.parametrize("name", ["MaxPool2d_stride1", "MeanPool2d_stride1"])
def test_integers_pool_as_float64(backend, rng, name):
    layer = getattr(fc, name)(2)
    A = rng.integers(0, 255, (1, 2, 5, 6)).astype(np.uint8)
    expected = layer.forward(A.astype(np.float64))
    assert_array_equal(layer.forward(A), expected, strict=True)
    assert layer.backward(np.ones(expected.shape, np.int64)).dtype == np.float64


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_every_width_around_whole_vectors(backend, dtype, rng, kernel, stride):
    for width in [*range(kernel, 20), 31, 32, 33, 34, 63, 64, 65, 66, 67]:
        A = oracles.small_integers(rng, (1, 2, 6, width), dtype)
        A[0, 1, rng.integers(6), rng.integers(width)] = np.nan
        dLdZ = oracles.small_integers(rng, out_shape(A.shape, (kernel,) * 2, (stride,) * 2), dtype)
        assert_max_equals_definition(A, (kernel,) * 2, (stride,) * 2, dLdZ)
        assert_mean_equals_definition(np.nan_to_num(A), (kernel,) * 2, (stride,) * 2, dLdZ)


@pytest.mark.parametrize("planes", [1, 7, 9, 33])  # around whole vectors of them
@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [((7, 7), 2, 2), ((7, 5), 3, 1), ((6, 17), 3, 3), ((12, 12), 3, 2), ((20, 3), 3, 1), ((8, 70), 4, 3),
     ((9, 9), 2, 4), ((18, 19), 17, 3), ((5, 300), 4, 3), ((1, 1), 1, 1)],
    ids=str,
)
def test_small_planes_side_by_side(backend, dtype, rng, planes, size, kernel, stride):
    kernel = min(kernel, size[0]), kernel
    shape, stride = (planes, 1, *size), (stride, stride)
    A = oracles.small_integers(rng, shape, dtype)
    dLdZ = oracles.small_integers(rng, out_shape(shape, kernel, stride), dtype)
    assert_mean_equals_definition(A, kernel, stride, dLdZ)
    A[rng.random(shape) < 0.1] = np.nan
    A[rng.random(shape) < 0.1] = -np.inf
    assert_max_equals_definition(A, kernel, stride, dLdZ)


def test_ties_go_to_the_first_beside_a_nan(backend, dtype, rng):
    A = rng.choice(np.array([-0.0, 0.0, 0.0, np.nan], dtype), (2, 3, 9, 41))
    for kernel, stride in ((2, 2), (3, 1), (3, 2), (4, 3)):
        dLdZ = oracles.small_integers(rng, out_shape(A.shape, (kernel,) * 2, (stride,) * 2), dtype)
        assert_max_equals_definition(A, (kernel,) * 2, (stride,) * 2, dLdZ)


@pytest.mark.parametrize(
    ("kernel", "stride"), [((2, 4), (2, 4)), ((4, 2), (1, 2)), ((4, 4), (3, 1))], ids=str
)
def test_a_plane_of_several_items_equals_the_pure_set(dtype, rng, kernel, stride):
    A = oracles.small_integers(rng, (1, 2, 700, 400), dtype)
    dLdZ = oracles.small_integers(rng, out_shape(A.shape, kernel, stride), dtype)
    results = []
    for name in ("compiled", "pure"):
        with fc.use_backend(name):
            Z, workspace = F.max_pool2d_forward(A, kernel, stride)
            mean, mean_workspace = F.mean_pool2d_forward(A, kernel, stride)
            results.append((
                Z, workspace.places, F.max_pool2d_backward(dLdZ, workspace),
                mean, F.mean_pool2d_backward(dLdZ, mean_workspace),  # an eighth or less: exact
            ))
    for compiled, pure in zip(*results):
        assert_array_equal(compiled, pure, strict=True)
