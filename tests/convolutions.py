"""Convolution problems and their four results, computed and expected: for the tests of convolution."""

import numpy as np
from numpy.testing import assert_array_equal

import oracles
from fastconv import functional as F

FOUR = ("Z", "dLdA", "dLdW", "dLdb")


def compute(A, W, b, dLdZ, stride=1, padding=0, upsampling=1):
    steps = {"stride": stride, "padding": padding, "upsampling": upsampling}
    forward, backward = (
        (F.conv1d_forward, F.conv1d_backward) if A.ndim == 3 else (F.conv2d_forward, F.conv2d_backward)
    )
    return forward(A, W, b, **steps), *backward(dLdZ, A, W, **steps)


def expect(A, W, b, dLdZ, stride=(1, 1), padding=(0, 0), upsampling=(1, 1)):
    steps = stride, padding, upsampling
    return (
        oracles.conv(A, W, b, *steps),
        oracles.conv_input_gradient(dLdZ, A, W, *steps),
        oracles.conv_weight_gradient(dLdZ, A, W.shape[2:], *steps),
        oracles.conv_bias_gradient(dLdZ),
    )


def out_sizes(sizes, kernel, stride, padding, upsampling):
    return tuple(
        (up * (n - 1) + 1 + 2 * p - k) // s + 1
        for n, k, s, p, up in zip(sizes, kernel, stride, padding, upsampling)
    )


def operands(draw_numbers, images, channels, filters, sizes, kernel, steps):
    """A, W, b and dLdZ of that problem."""
    outs = out_sizes(sizes, kernel, *steps)
    shapes = (images, channels, *sizes), (filters, channels, *kernel), (filters,), (images, filters, *outs)
    return tuple(draw_numbers(shape) for shape in shapes)


def integer_operands(rng, dtype, *problem):
    return operands(lambda shape: oracles.small_integers(rng, shape, dtype), *problem)


def assert_same_numbers(found, expected, dtype):
    for name, x, y in zip(FOUR, found, expected):
        assert x.dtype == dtype, name
        assert_array_equal(x, y.astype(dtype), err_msg=name, strict=True)


def check_integers(images, channels, filters, sizes, kernel, stride, padding, upsampling, dtype, seed=0):
    rng, steps = np.random.default_rng(seed), (stride, padding, upsampling)
    arrays = integer_operands(rng, dtype, images, channels, filters, sizes, kernel, steps)
    assert_same_numbers(compute(*arrays, *steps), expect(*arrays, *steps), dtype)


def assert_reaches_its_windows(value, place, arrays, steps):
    """An infinity or NaN at one place of A reaches the results whose window holds it, and no other."""
    A, W, b, dLdZ = arrays
    bad, only = A.copy(), np.zeros(A.shape, bool)
    bad[place], only[place] = value, True
    held = oracles.windows(only, W.shape[2:], *steps, dtype=bool)
    Z, dLdA, dLdW, _ = compute(bad, W, b, dLdZ, *steps)
    in_output = np.broadcast_to(held.any(axis=(1, 4, 5))[:, None], Z.shape)
    in_weights = np.broadcast_to(held.any(axis=(0, 2, 3)), dLdW.shape)
    assert_array_equal(Z[in_output], np.full(in_output.sum(), value))
    assert_array_equal(dLdW[in_weights], np.full(in_weights.sum(), value))
    assert np.isfinite(Z[~in_output]).all()
    assert np.isfinite(dLdW[~in_weights]).all()
    assert np.isfinite(dLdA).all()
