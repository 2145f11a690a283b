"""Winograd's algorithm: its error against direct convolution, what switches it, what it does not leak."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
import oracles
from convolutions import assert_reaches_its_windows, compute, operands
from fastconv import functional as F
from fastconv.algorithm import piece_taps, points_met
from fastconv.pure_winograd import matrices, phases
from support import output_of, same_bits

# Kernel, stride, upsampling: whole kernels, and such as are cut into phases or pieces of 2 or 3 taps.
ONE = (1, 1)
CASES = [
    ((1, 3), ONE, ONE), ((1, 5), ONE, ONE), ((3, 3), ONE, ONE), ((3, 5), ONE, ONE), ((5, 3), ONE, ONE),
    ((5, 5), ONE, ONE), ((2, 2), ONE, ONE), ((1, 2), ONE, ONE),
    ((3, 3), (2, 2), ONE), ((4, 4), (2, 2), ONE), ((5, 3), (2, 2), ONE), ((6, 5), (3, 2), ONE),
    ((3, 3), ONE, (2, 2)), ((5, 4), ONE, (2, 2)), ((5, 5), ONE, (3, 2)),
    ((7, 7), ONE, ONE), ((4, 6), ONE, ONE), ((1, 11), ONE, ONE), ((3, 8), ONE, ONE),
]  # fmt: skip
# images, channels, filters, (H, W): tiles cut by the border, runs of one tile and of many, several
# groups of filters and slabs of panels, fewer tiles than lanes, lanes and rows left over.
SHAPES = [
    (2, 17, 13, (13, 11)),
    (3, 32, 40, (9, 20)),
    (1, 16, 16, (30, 67)),
    (5, 20, 33, (6, 6)),
    (1, 130, 150, (7, 9)),
    (40, 16, 18, (5, 5)),
]
# More channels, or parts of kernels, than a panel of inputs may have at once.
IN_CHUNKS = [
    (((3, 3), ONE, ONE), (1, 2300, 50, (21, 23))),
    (((11, 11), ONE, ONE), (2, 150, 40, (21, 23))),
    (((5, 5), (2, 2), ONE), (1, 600, 30, (21, 23))),
    (((3, 3), ONE, (2, 2)), (1, 2300, 20, (9, 8))),
]


def problem(rng, dtype, case, shape):
    (kernel, stride, up), (images, channels, filters, sizes) = case, shape
    steps = stride, (kernel[0] // 2, kernel[1] // 2), up
    arrays = operands(rng.standard_normal, images, channels, filters, sizes, kernel, steps)
    return [x.astype(dtype) for x in arrays], steps


def of_result(x, w, outs, steps):
    """What transformed numbers come to at most, for a convolution of x and w, if nothing cancels.

    |A'| (|G| |g| |G'| * |B'| |d| |B|) |A|, with the largest number in the place of each d. Rounding
    errors are multiples of it, by the number of operations that a result goes through.
    """
    _, w, _, _ = phases(x, w, *steps, outs)
    (A, B, G), (Aw, Bw, Gw) = ([abs(matrix) for matrix in axis] for axis in matrices(w.shape[2:]))
    inputs = B.T @ np.ones((len(B), len(Bw))) @ Bw * abs(x).max()
    return w.shape[1], (A.T @ ((G @ abs(w) @ Gw.T).sum(axis=1) * inputs) @ Aw).max()


def of_weights(x, w, dz):
    """The same for the gradient of w: |G'| (|A| |dY| |A'| * |B'| |d| |B|) |G|, summed over tiles."""
    taps = tuple(map(piece_taps, w.shape[2:]))
    (A, B, G), (Aw, Bw, Gw) = ([abs(matrix) for matrix in axis] for axis in matrices(taps))
    inputs = B.T @ np.ones((len(B), len(Bw))) @ Bw * abs(x).max()
    sides = A.shape[1], Aw.shape[1]
    gradients = A @ np.ones(sides) @ Aw.T * abs(dz).max()
    tiles = len(dz) * np.prod([-(-out // side) for out, side in zip(dz.shape[2:], sides)])
    return tiles, (G.T @ (gradients * inputs) @ Gw).max() * tiles


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_bounded(backend, dtype, case, shape):
    check_error(dtype, case, shape)


@pytest.mark.parametrize("case", [CASES[i] for i in (2, 8, 15)], ids=str)
def test_error_is_bounded_with_many_panels(dtype, case):
    # An odd number of them in float32, and the last half empty.
    check_error(dtype, case, (1, 12, 20, (104, 80)))


@pytest.mark.parametrize(("case", "shape"), IN_CHUNKS, ids=str)
def test_error_is_bounded_in_chunks_of_channels(dtype, case, shape):
    check_error(dtype, case, shape)


def check_error(dtype, case, shape):
    arrays, steps = problem(np.random.default_rng(5), dtype, case, shape)
    (kernel, stride, up), pad = case, steps[1]
    A, W, _, dLdZ = arrays
    with fc.use_conv_algorithm("direct"):
        exact = compute(*(x.astype(np.float64) for x in arrays), *steps)
    with fc.use_conv_algorithm("winograd"):
        found = compute(*arrays, *steps)
    eps = np.finfo(dtype).eps
    # Each result goes through a sum over channels (or tiles), and through two transforms of each axis
    # before it and one after, of up to 6 operations.
    backwards = up, tuple(k - 1 - p for k, p in zip(kernel, pad)), stride
    rotated = W[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    bounds = [of_result(A, W, dLdZ.shape[2:], steps), of_result(dLdZ, rotated, A.shape[2:], backwards)]
    # What it is for numbers of one size, as docs/performance.md has it, in units of the last place of
    # the largest result. (Direct convolution has 1 to 5.) Phases and pieces make sums longer, but for zeros.
    typical = [40, 40] if stride == up == ONE and set(kernel) <= {1, 2, 3, 5} else [60, 60]
    if stride == up == ONE and 2 not in map(piece_taps, kernel):
        bounds.append(of_weights(A, W, dLdZ))
        typical.append(80)
    for name, result, expected, (terms, bound), units in zip(
        ("Z", "dLdA", "dLdW"), found, exact, bounds, typical
    ):
        assert result.dtype == dtype
        error = abs(result - expected).max()
        assert error <= (terms + 36) * bound * eps / 2, name
        assert error <= units * eps * abs(expected).max(), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_goes_by_it(dtype, case):
    """Or the bounds above would say nothing of it."""
    arrays, steps = problem(np.random.default_rng(4), dtype, case, SHAPES[0])
    results = {}
    for name in ("direct", "winograd"):
        with fc.use_conv_algorithm(name):
            results[name] = compute(*arrays, *steps)
    kernel, stride, up = case
    by_it = 3 if stride == up == ONE and 2 not in map(piece_taps, kernel) else 2
    for which in range(by_it):
        assert not same_bits(results["direct"][which], results["winograd"][which])


@pytest.mark.parametrize(("kernel", "channels"), [((3, 3), 210), ((7, 8), 31)], ids=str)
def test_weights_of_so_many_channels_that_some_are_transformed_at_a_time(dtype, kernel, channels):
    # Two slabs of tiles, each in two to four parts of the channels and of the filters.
    shape = 9, channels, 140, (15, 17)
    (A, W, _, dLdZ), steps = problem(np.random.default_rng(7), dtype, (kernel, ONE, ONE), shape)
    found = {}
    for name in ("direct", "winograd"):
        with fc.use_conv_algorithm(name):
            found[name] = compute(A, W, None, dLdZ, *steps)[2]
    assert not same_bits(found["direct"], found["winograd"])
    error = abs(found["winograd"] - found["direct"]).max()
    assert error <= 80 * np.finfo(dtype).eps * abs(found["direct"]).max()


@pytest.mark.parametrize("case", [*CASES, ((1, 3), (2, 2), ONE), ((1, 3), ONE, (2, 2))], ids=str)
@pytest.mark.parametrize("pad", [-1, 0, 1, 2], ids="pad {}".format)
def test_the_choice_counts_the_products_that_are_not_left_out(case, pad):
    kernel, stride, up = case
    w = np.random.default_rng(9).standard_normal((1, 1, *kernel))
    _, parts, _, _ = phases(np.ones((1, 1, 40, 40)), w, stride, (pad, pad), up, (12, 12))
    (A, _, G), (Aw, _, Gw) = matrices(parts.shape[2:])
    met = [
        points_met(kernel[i], parts.shape[2 + i], (A, Aw)[i].shape[1], stride[i], pad, up[i]) for i in (0, 1)
    ]
    assert met[0] * met[1] == pytest.approx((G @ parts @ Gw.T != 0).mean())


@pytest.mark.parametrize("sizes", [(7, 9), (30, 34)], ids=["few tiles", "many"])
def test_more_channels_than_kernels_in_parts_may_have(dtype, sizes):
    (A, W, b, dLdZ), steps = problem(np.random.default_rng(8), dtype, ((3, 3), ONE, ONE), (1, 600, 20, sizes))
    with fc.use_conv_algorithm("direct"):
        exact = compute(*(x.astype(np.float64) for x in (A, W, b, dLdZ)), *steps)
    with fc.use_conv_algorithm("winograd"):
        found = compute(A, W, b, dLdZ, *steps)
    for result, expected, units in zip(found, exact, (40, 40, 80)):
        assert abs(result - expected).max() <= units * np.finfo(dtype).eps * abs(expected).max()


@pytest.mark.parametrize("kernel", [3, 5, 9])
def test_one_dimension(backend, dtype, kernel):
    rng = np.random.default_rng(6)
    A, W, b = rng.standard_normal((3, 17, 50)), rng.standard_normal((18, 17, kernel)), rng.standard_normal(18)
    dLdZ = rng.standard_normal((3, 18, 50))
    arrays = [x.astype(dtype) for x in (A, W, b, dLdZ)]
    with fc.use_conv_algorithm("direct"):
        exact = compute(A, W, b, dLdZ, 1, kernel // 2)
    with fc.use_conv_algorithm("winograd"):
        found = compute(*arrays, 1, kernel // 2)
    for result, expected, units in zip(found, exact, (40, 40, 80, 40)):
        assert abs(result - expected).max() <= units * np.finfo(dtype).eps * abs(expected).max()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(2, 20, 24, (14, 23)), (1, 20, 24, (4, 4))], ids=["many tiles", "few"])
@pytest.mark.parametrize("stride", [1, 2])
def test_nothing_leaks_from_what_is_not_finite(backend, dtype, value, shape, stride):
    rng = np.random.default_rng(7)
    images, channels, filters, sizes = shape
    steps = (stride, stride), ONE, ONE
    arrays = operands(lambda s: rng.uniform(0.5, 1.5, s), images, channels, filters, sizes, (3, 3), steps)
    arrays = [x.astype(dtype) for x in arrays]
    with fc.use_conv_algorithm("winograd"):
        for place in oracles.some_places(rng, arrays[0].shape, 4):
            assert_reaches_its_windows(value, place, arrays, steps)


def test_an_overflow_within_the_transforms_is_none_outside():
    A = np.full((1, 16, 8, 8), np.float32(1e38))
    W = np.zeros((16, 16, 3, 3), np.float32)
    W[:, 0, 1, 1] = 1
    with fc.use_conv_algorithm("winograd"):
        assert_array_equal(F.conv2d_forward(A, W, None, 1, 1), A)


def test_views_of_any_strides():
    rng = np.random.default_rng(8)
    A, W = rng.standard_normal((2, 18, 9, 9)), rng.standard_normal((18, 20, 3, 3))
    turned = W.transpose(1, 0, 3, 2)[:, :, ::-1]
    with fc.use_conv_algorithm("winograd"):
        assert same_bits(F.conv2d_forward(A, turned), F.conv2d_forward(A, turned.copy()))


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("case", [CASES[i] for i in (1, 2, 5, 8, 12, 15)], ids=str)
@pytest.mark.parametrize("shape", [(3, 64, 96, (17, 15)), (1, 200, 220, (6, 6))], ids=str)
def test_any_number_of_threads_gives_the_same_bits(dtype, case, shape, count):
    check_bits(dtype, case, shape, count)


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize(("case", "shape"), IN_CHUNKS, ids=str)
def test_any_number_of_threads_gives_the_same_bits_in_chunks_of_channels(dtype, case, shape, count):
    check_bits(dtype, case, shape, count)


def check_bits(dtype, case, shape, count):
    arrays, steps = problem(np.random.default_rng(9), dtype, case, shape)
    before = fc.get_num_threads()
    try:
        with fc.use_conv_algorithm("winograd"):
            fc.set_num_threads(1)
            one = compute(*arrays, *steps)
            fc.set_num_threads(count)
            many = compute(*arrays, *steps)
    finally:
        fc.set_num_threads(before)
    assert all(same_bits(x, y) for x, y in zip(one, many))


# ---- the switch ----------------------------------------------------------------------------------


def large():
    rng = np.random.default_rng(10)
    return rng.standard_normal((2, 32, 18, 18)), rng.standard_normal((32, 32, 3, 3))


def test_auto_takes_it_where_it_is_faster_and_direct_never():
    A, W = large()
    results = {}
    for name in ("auto", "direct", "winograd"):
        with fc.use_conv_algorithm(name):
            assert fc.get_conv_algorithm() == name
            results[name] = F.conv2d_forward(A, W)
    assert same_bits(results["auto"], results["winograd"])
    assert not same_bits(results["auto"], results["direct"])
    with fc.use_conv_algorithm("auto"):  # few channels: direct
        few = F.conv2d_forward(A[:, :4], W[:5, :4])
    with fc.use_conv_algorithm("direct"):
        assert same_bits(few, F.conv2d_forward(A[:, :4], W[:5, :4]))


@pytest.mark.parametrize("steps", [{"stride": 3}, {"stride": 4}, {"stride": 2, "upsampling": 2}], ids=str)
def test_what_it_has_no_transforms_for_runs_directly(steps):
    A, W = large()
    tall = np.random.default_rng(11).standard_normal((32, 32, 3, 1))
    seven = np.random.default_rng(12).standard_normal((32, 32, 7, 7))
    results = {}
    for name in ("winograd", "direct"):
        with fc.use_conv_algorithm(name):
            results[name] = [
                F.conv2d_forward(A, W, **steps), F.conv2d_forward(A, tall),
                F.conv2d_forward(A, seven, stride=2),
            ]
    assert all(same_bits(x, y) for x, y in zip(*results.values()))


def test_for_the_process_and_for_a_block():
    before = fc.get_conv_algorithm()
    try:
        fc.set_conv_algorithm("direct")
        assert fc.get_conv_algorithm() == "direct"
        with fc.use_conv_algorithm("winograd"):
            assert fc.get_conv_algorithm() == "winograd"
        assert fc.get_conv_algorithm() == "direct"
    finally:
        fc.set_conv_algorithm(before)


@pytest.mark.parametrize("name", ["Winograd", "", None, 3])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="'auto', 'direct' or 'winograd'"):
        fc.set_conv_algorithm(name)
    with pytest.raises(ValueError, match="'auto', 'direct' or 'winograd'"), fc.use_conv_algorithm(name):
        pass


def test_environment():
    code = "import fastconv; print(fastconv.get_conv_algorithm())"
    assert output_of(code, FASTCONV_CONV="direct").strip() == "direct"
    caught = "try:\n    import fastconv\nexcept ValueError as error:\n    print(error)"
    assert "FASTCONV_CONV" in output_of(caught, FASTCONV_CONV="fast")
