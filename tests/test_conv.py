"""functional.conv1d_*, conv2d_*: forward and all three gradients against the definition.

Mostly on small integers, whose sums are exact in any order: the results must then be *equal* to the
oracle's, so that a single wrong, missing or repeated term shows.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastconv
import oracles
from convolutions import assert_same_numbers, check_integers, compute, expect, integer_operands, operands
from fastconv import functional as F


@pytest.fixture(autouse=True, scope="module")
def direct():
    """The sums as they are; test_winograd.py has the transforms, which round."""
    with fastconv.use_conv_algorithm("direct"):
        yield


# ---- drawn problems ------------------------------------------------------------------------------


@st.composite
def axes(draw):
    """Size, kernel, stride, padding, upsampling of one axis: anything for which there is an output."""
    kernel, stride = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    padding, upsampling = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    least = max(1, -(-(kernel - 1 - 2 * padding) // upsampling) + 1)
    return least + draw(st.integers(0, 11)), kernel, stride, padding, upsampling


problems = st.fixed_dictionaries({
    "images": st.integers(1, 4),
    "channels": st.integers(1, 6),
    "filters": st.integers(1, 14),
    "seed": st.integers(0, 2**32),
    "dtype": st.sampled_from([np.float32, np.float64]),
})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems, height=axes(), width=axes())
def test_2d_equals_definition(backend, problem, height, width):
    check_integers(sizes=(height[0], width[0]), kernel=(height[1], width[1]), stride=(height[2], width[2]),
                   padding=(height[3], width[3]), upsampling=(height[4], width[4]), **problem)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems, width=axes())
def test_1d_equals_definition(backend, problem, width):
    size, kernel, *steps = width
    rng, dtype = np.random.default_rng(problem["seed"]), problem["dtype"]
    arrays = integer_operands(rng, dtype, problem["images"], problem["channels"], problem["filters"],
                              (size,), (kernel,), [(s,) for s in steps])
    lifted = [x[:, :, None] if x.ndim == 3 else x for x in arrays]
    Z, dLdA, dLdW, dLdb = expect(*lifted, (1, steps[0]), (0, steps[1]), (1, steps[2]))
    expected = Z[:, :, 0], dLdA[:, :, 0], dLdW[:, :, 0], dLdb
    assert_same_numbers(compute(*arrays, *steps), expected, dtype)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems, height=axes(), width=axes())
def test_rounding_stays_within_bound(backend, problem, height, width):
    sizes, kernel, *steps = zip(height, width)
    rng, dtype = np.random.default_rng(problem["seed"]), problem["dtype"]
    arrays = operands(lambda shape: rng.standard_normal(shape).astype(dtype), problem["images"],
                      problem["channels"], problem["filters"], sizes, kernel, steps)
    A, W, b, dLdZ = arrays
    exact, magnitudes = expect(*arrays, *steps), expect(*map(abs, arrays), *steps)
    pixels = dLdZ.size // len(b)
    terms = A.shape[1] * W[0, 0].size, len(b) * W[0, 0].size, pixels, pixels
    for found, value, magnitude, count in zip(compute(*arrays, *steps), exact, magnitudes, terms):
        oracles.assert_within(found, value, oracles.rounding(count, dtype) * magnitude)


# ---- edges of the kernels' blocks, chunks and tiles ----------------------------------------------
# images, channels, filters, (H, W), kernel, stride, padding, upsampling

EDGES = {
    "kernel as large as the image": (3, 2, 5, (9, 7), (9, 7), (1, 1), (0, 0), (1, 1)),
    "kernel as large as the padded image": (2, 2, 5, (5, 4), (9, 10), (1, 1), (2, 3), (1, 1)),
    "one output, stride beyond the image": (2, 3, 4, (6, 6), (5, 5), (9, 9), (0, 0), (1, 1)),
    "stride beyond kernel": (2, 3, 5, (23, 31), (2, 3), (5, 7), (0, 0), (1, 1)),
    "stride beyond kernel, padded": (2, 3, 5, (20, 30), (2, 1), (3, 4), (2, 3), (1, 1)),
    "padding beyond kernel": (2, 3, 4, (5, 6), (2, 3), (1, 2), (5, 6), (1, 1)),
    "row as wide as a block": (1, 2, 3, (1, 258), (1, 3), (1, 1), (0, 0), (1, 1)),
    "row wider than a block": (1, 2, 3, (1, 259), (1, 3), (1, 1), (0, 0), (1, 1)),
    "row of several blocks": (2, 2, 7, (1, 600), (1, 5), (1, 1), (0, 2), (1, 1)),
    "row of several blocks, strided": (1, 2, 20, (1, 900), (1, 4), (1, 3), (0, 1), (1, 1)),
    "column of several blocks": (2, 2, 7, (600, 1), (5, 1), (1, 1), (2, 0), (1, 1)),
    # As many as a vector has lanes: a tile then ends with a row, and lanes between rows are no outputs.
    **{f"{w} outputs a row, rows of a phase as far apart as in the image": (
        1, 2, 4, (5, 2 * w), (3, w + 1), (1, 1), (0, 0), (2, 1)) for w in (2, 4, 8, 16)},
    "rows that do not fill a block": (1, 2, 5, (7, 101), (2, 2), (1, 1), (0, 0), (1, 1)),
    "exactly a block of rows": (1, 2, 5, (16, 16), (3, 3), (1, 1), (1, 1), (1, 1)),
    "kernel wider than a chunk": (1, 2, 3, (2, 310), (2, 300), (1, 1), (0, 0), (1, 1)),
    "kernel wider than a chunk, strided": (1, 2, 3, (1, 310), (1, 270), (1, 7), (0, 9), (1, 1)),
    "kernel higher than a chunk": (1, 2, 3, (310, 2), (300, 1), (1, 1), (0, 0), (1, 1)),
    "kernel of a chunk and one more": (2, 1, 2, (5, 259), (1, 257), (1, 1), (0, 0), (1, 1)),
    "channel of more taps than a chunk": (1, 3, 4, (19, 18), (17, 16), (1, 1), (0, 0), (1, 1)),
    "many channels, taps in several chunks": (2, 97, 3, (6, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    "many channels, strided": (2, 48, 17, (7, 9), (3, 2), (2, 2), (1, 1), (1, 1)),
    "many filters": (2, 3, 97, (6, 7), (3, 3), (1, 1), (0, 0), (1, 1)),
    "filters in several parts": (1, 2, 300, (3, 4), (2, 2), (1, 1), (0, 0), (1, 1)),
    "filters in several parts, wide": (1, 1, 49, (3, 40), (2, 2), (1, 1), (0, 0), (1, 1)),
    "single pixels in a batch": (300, 3, 5, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    "tiny images in a batch": (70, 2, 5, (2, 3), (2, 2), (1, 1), (0, 0), (1, 1)),
    "tiny images in a batch, padded": (90, 2, 17, (2, 2), (3, 3), (2, 2), (1, 1), (1, 1)),
    "small images in a batch, full padding": (64, 3, 9, (4, 5), (3, 3), (1, 1), (2, 2), (1, 1)),
    "small images in a batch, wide tiles": (320, 2, 13, (5, 4), (3, 2), (1, 1), (1, 1), (1, 1)),
    "small images in a batch, strided": (64, 2, 5, (7, 6), (5, 4), (2, 3), (3, 2), (1, 1)),
    "small images in a batch, upsampled": (64, 2, 5, (4, 3), (4, 5), (1, 1), (2, 3), (2, 3)),
    "small images in a batch, smaller than the kernel": (64, 2, 5, (2, 3), (5, 6), (1, 1), (4, 4), (1, 1)),
    "single pixel, padded": (1, 1, 1, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1)),
    "upsampling beyond kernel": (2, 3, 4, (5, 6), (2, 3), (1, 1), (0, 0), (7, 5)),
    "upsampling and stride with a common factor": (2, 3, 4, (6, 7), (5, 4), (4, 6), (1, 2), (6, 4)),
    "upsampling and stride without": (2, 3, 4, (9, 8), (5, 6), (3, 2), (1, 2), (2, 5)),
    "upsampling, many filters": (2, 5, 50, (7, 8), (4, 4), (1, 1), (0, 0), (2, 2)),
    "patches": (2, 3, 7, (17, 22), (4, 5), (4, 5), (0, 0), (1, 1)),
    "patches that overlap": (2, 3, 7, (19, 26), (8, 6), (4, 3), (2, 1), (1, 1)),
    "stride 4, the last rows of memory": (1, 2, 7, (6, 39), (3, 5), (1, 4), (0, 0), (1, 1)),
    "stride 4, padded": (2, 3, 5, (9, 90), (5, 7), (4, 4), (2, 3), (1, 1)),
    "patches, rows of several blocks, many filters": (1, 13, 150, (4, 900), (2, 8), (2, 4), (0, 0), (1, 1)),
    "upsampling as wide as the kernel": (2, 5, 9, (7, 9), (3, 4), (1, 1), (0, 0), (3, 4)),
    "filters packed": (2, 50, 41, (20, 27), (5, 5), (1, 1), (2, 2), (1, 1)),
    "filters packed, in phases": (2, 50, 23, (29, 31), (5, 3), (2, 3), (1, 1), (1, 1)),
    "filters transposed": (1, 83, 50, (11, 15), (1, 1), (1, 1), (0, 0), (1, 1)),
    "strided, a gradient of more than a megabyte": (1, 3, 2, (310, 300), (3, 3), (2, 2), (1, 1), (1, 1)),
    "strided, most of it without taps": (1, 3, 2, (310, 300), (1, 2), (3, 4), (0, 0), (1, 1)),
    "strided, gradient in several chunks": (2, 3, 97, (13, 40), (5, 5), (2, 2), (1, 1), (1, 1)),
    "strided, kernel higher than a chunk": (1, 3, 2, (620, 9), (600, 4), (2, 2), (1, 1), (1, 1)),
    "patches, more phases than are joined": (2, 3, 5, (40, 90), (20, 33), (20, 33), (0, 0), (1, 1)),
    "more phases than are joined": (2, 3, 5, (45, 99), (24, 20), (18, 17), (3, 2), (1, 1)),
    "more parts than are joined": (2, 3, 5, (9, 40), (11, 13), (5, 6), (2, 3), (7, 11)),
    "single filter of many channels": (1, 3000, 1, (6, 26), (3, 3), (1, 1), (0, 0), (1, 1)),
    "single filter, rows of several blocks": (1, 2, 1, (9, 2500), (5, 3), (1, 1), (1, 1), (1, 1)),
    "single filter, columns of several blocks": (1, 2, 1, (700, 40), (3, 3), (1, 1), (1, 1), (1, 1)),
    "upsampling, rows of several blocks": (1, 2, 3, (1, 300), (1, 5), (1, 1), (0, 0), (1, 3)),
}


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES.keys())
def test_edges_equal_definition(backend, dtype, edge):
    check_integers(*edge, dtype)


def test_filters_that_are_too_many_to_pack_at_once(rng):
    # 2.2 MB of them, for the gradient with respect to A: what each channel of it is made of.
    A, W, dLdZ = (oracles.small_integers(rng, shape) for shape in (
        (1, 430, 20, 26), (640, 430, 1, 1), (1, 640, 20, 26)))
    dLdA = F.conv2d_backward(dLdZ, A, W)[0]
    assert_array_equal(dLdA, (W[:, :, 0, 0].T @ dLdZ.reshape(640, -1)).reshape(A.shape))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("channels", range(1, 21))
def test_every_count_of_channels_equals_definition(dtype, channels, padding):
    # Rows longer and shorter than a tile is wide, at every cut of filters into tiles.
    for filters in range(1, 21):
        for width in (6, 37):
            padded = padding, padding
            check_integers(1, channels, filters, (3, width), (2, 3), (1, 1), padded, (1, 1), dtype)


@pytest.mark.parametrize("width", range(1, 70))
def test_every_width_equals_definition(dtype, width):
    for filters in (1, 2, 3, 5, 17):
        check_integers(2, 2, filters, (2, width), (2, 1), (1, 1), (0, 0), (1, 1), dtype)


@pytest.mark.parametrize("kernel", [(3, 3), (4, 2), (5, 5), (7, 1), (13, 18)])
def test_single_filters_equal_definition(dtype, kernel):
    # Heights and widths around those of tiles; several chunks of channels.
    for channels, height in ((1, 3), (2, 4), (3, 5), (2, 6), (1, 7), (50, 8), (2, 11), (1, 85)):
        for width in (7, 8, 12, 15, 16, 23, 24, 25, 33, 48, 61):
            image = height + kernel[0] - 1, width + kernel[1] - 1
            check_integers(2, channels, 1, image, kernel, (1, 1), (0, 0), (1, 1), dtype)
            check_integers(1, 1, channels, image, kernel, (1, 1), (1, 1), (1, 1), dtype)


@pytest.mark.parametrize("stride", [2, 3, 4, 5])
def test_every_meeting_of_kernel_and_stride_equals_definition(dtype, stride):
    # Which inputs the phases of the gradient read, and how many, differs from each to the next.
    for kernel in range(1, 2 * stride + 2):
        for padding in range(min(kernel, stride)):
            for width in (41, 43):
                check_integers(2, 3, 7, (2, width), (1, kernel), (1, stride), (0, padding), (1, 1), dtype)
                check_integers(2, 7, 3, (width, 5), (kernel, 2), (stride, 1), (padding, 0), (1, 1), dtype)


@settings(max_examples=25, deadline=None)
@given(problem=problems, filters=st.integers(1, 60), height=axes(), width=axes(),
       larger=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_compiled_equals_pure_at_larger_sizes(problem, filters, height, width, larger):
    sizes, kernel, *steps = zip(height, width)
    sizes = sizes[0] + larger[0], sizes[1] + larger[1]
    rng, dtype = np.random.default_rng(problem["seed"]), problem["dtype"]
    arrays = integer_operands(rng, dtype, problem["images"], 3 * problem["channels"], filters,
                              sizes, kernel, steps)
    with fastconv.use_backend("pure"):
        expected = compute(*arrays, *steps)
    with fastconv.use_backend("compiled"):
        assert_same_numbers(compute(*arrays, *steps), expected, dtype)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_work_shared_by_threads_equals_definition(dtype, threads):
    before = fastconv.get_num_threads()
    fastconv.set_num_threads(threads)
    try:
        for images, filters, size, kernel in ((3, 9, 40, 3), (1, 130, 9, 3), (1, 3, 70, 1), (4, 40, 12, 5)):
            check_integers(images, 5, filters, (size, size), (kernel, kernel), (1, 1), (1, 1), (1, 1), dtype)
    finally:
        fastconv.set_num_threads(before)


# ---- accuracy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 2)])
@pytest.mark.parametrize("kernel", [3, 10])
def test_float64_is_within_1e12_at_the_largest_grader_size(kernel, stride, padding):
    rng = np.random.default_rng(kernel)
    steps = (stride,) * 2, (padding,) * 2, (1, 1)
    A, W, b, dLdZ = operands(rng.standard_normal, 4, 15, 15, (80, 80), (kernel, kernel), steps)
    Z, dLdA, dLdW, dLdb = compute(A, W, b, dLdZ, *steps)
    seen = oracles.windows(A, W.shape[2:], steps[0], steps[1], dtype=np.float64)
    around = (kernel - 1 - padding,) * 2
    full = oracles.windows(dLdZ, W.shape[2:], padding=around, upsampling=steps[0], dtype=np.float64)
    for n, o, p, q in oracles.some_places(rng, Z.shape, 300):
        exact = oracles.exact_dot(np.append(seen[n, :, p, q], b[o]), np.append(W[o], 1.0))
        assert abs(Z[n, o, p, q] - exact) <= 1e-12
    for o, c, u, v in oracles.some_places(rng, W.shape, 12):
        exact = oracles.exact_dot(dLdZ[:, o].ravel(), seen[:, c, :, :, u, v].ravel())
        assert abs(dLdW[o, c, u, v] - exact) <= 1e-12
    for o in range(15):
        exact = oracles.exact_dot(dLdZ[:, o].ravel(), np.ones(dLdZ[:, o].size))
        assert abs(dLdb[o] - exact) <= 1e-12
    for n, c, h, w in oracles.some_places(rng, (*A.shape[:2], *full.shape[2:4]), 200):
        exact = oracles.exact_dot(full[n, :, h, w].ravel(), W[:, c, ::-1, ::-1].ravel())
        assert abs(dLdA[n, c, h, w] - exact) <= 1e-12


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize(
    ("sizes", "stride"), [((7, 3), (1, 3)), ((3, 7), (5, 1)), ((7, 3), (2, 12)), ((1, 9), (1, 9))]
)
def test_one_tap_with_a_stride_beyond_one_axis(backend, dtype, sizes, stride, batch, dims):
    """One output along that axis: its stride does not matter, and what lies behind it must not be read."""
    if dims == 1:
        sizes, stride = (1, sizes[1]), (1, stride[1])
    check_integers(batch, 3, 5, sizes, (1, 1), stride, (0, 0), (1, 1), dtype)


# ---- limits ------------------------------------------------------------------------------------


def test_an_empty_batch_gives_empty_results_and_zero_gradients(backend, dtype):
    A, W, b = np.ones((0, 3, 8, 9), dtype), np.ones((4, 3, 3, 2), dtype), np.ones(4, dtype)
    Z, dLdA, dLdW, dLdb = compute(A, W, b, np.ones((0, 4, 3, 4), dtype), stride=2)
    assert (Z.shape, dLdA.shape) == ((0, 4, 3, 4), A.shape)
    assert_array_equal(dLdW, np.zeros_like(W), strict=True)
    assert_array_equal(dLdb, np.zeros_like(b), strict=True)


@pytest.mark.parametrize(
    ("shape", "kernel"), [((1, 2, 4), (5,)), ((1, 2, 4, 8), (3, 9)), ((1, 2, 4, 8), (5, 3))]
)
def test_a_kernel_larger_than_the_input_is_named_with_it(backend, shape, kernel):
    W = np.ones((3, 2, *kernel))
    forward = F.conv1d_forward if len(shape) == 3 else F.conv2d_forward
    at = [k > n for k, n in zip(kernel, shape[2:])].index(True)
    with pytest.raises(ValueError, match=f"{kernel[at]}.*{shape[2 + at]}"):
        forward(np.ones(shape), W)
    assert forward(np.ones(shape), W, padding=1).shape[0] == 1
