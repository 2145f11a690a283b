"""The kernels in plain NumPy, written as the course's students write them.

Same names and arguments as the compiled ones in `pyx/`, which document them: the reference they
are tested against, and the contrast they are profiled against. Convolutions loop over output
positions, pools over positions in the window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .pure_winograd import in_silence as _in_silence
from .pure_winograd import winograd as winograd
from .pure_winograd import winograd_weights as winograd_weights

Array = NDArray[np.floating]
Pair = tuple[int, int]


def _windows(
    x: Array, kernel: Pair, outs: Pair, stride: Pair, pad: Pair, up: Pair
) -> Iterator[tuple[int, int, Array, slice, slice]]:
    """For each output position: what it sees of x, and which of the kernel's taps see it.

    Position p and tap u meet at p*stride + u - pad of the dilated x, so the taps that meet a number
    and not an inserted zero are every up-th.
    """
    spans = []
    for axis in range(2):
        positions = []
        for p in range(outs[axis]):
            start = p * stride[axis] - pad[axis]
            taps = range(-start % up[axis], kernel[axis], up[axis])
            positions.append((taps, (start + taps.start) // up[axis]))
        below = max([0, *(-at for _, at in positions)])
        above = max([0, *(at + len(taps) - x.shape[2 + axis] for taps, at in positions)])
        spans.append(
            (below, above, [(slice(t.start, None, t.step), len(t), at + below) for t, at in positions])
        )
    (top, bottom, rows), (left, right, cols) = spans
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    for p, (u, us, row) in enumerate(rows):
        for q, (v, vs, col) in enumerate(cols):
            yield p, q, x[:, :, row : row + us, col : col + vs], u, v


def _all_finite(*arrays: Array) -> bool:
    return all(np.isfinite(a).all() for a in arrays)


# Where one of two matrices is a vector, BLAS leaves out products with its zeros, and 0 * infinity is lost:
# what is not finite is multiplied number by number.


@_in_silence
def correlate(
    x: Array, w: Array, b: Array | None, out: Array, stride: Pair, pad: Pair, up: Pair, threads: int
) -> None:
    by_blas = _all_finite(x, w)
    for p, q, seen, u, v in _windows(x, w.shape[2:], out.shape[2:], stride, pad, up):
        filters = w[:, :, u, v]
        if by_blas:
            out[:, :, p, q] = np.tensordot(seen, filters, axes=((1, 2, 3), (1, 2, 3)))
        else:
            out[:, :, p, q] = (seen[:, None] * filters).sum(axis=(2, 3, 4))
    if b is not None:
        out += b[:, None, None]


@_in_silence
def correlate_weights(
    x: Array, dz: Array, dw: Array, db: Array, stride: Pair, pad: Pair, up: Pair, threads: int
) -> None:
    dw[...] = 0
    sum_channels(dz, db, threads)
    by_blas = _all_finite(x, dz)
    for p, q, seen, u, v in _windows(x, dw.shape[2:], dz.shape[2:], stride, pad, up):
        if by_blas:
            dw[:, :, u, v] += np.tensordot(dz[:, :, p, q], seen, axes=(0, 0))
        else:
            dw[:, :, u, v] += (dz[:, :, p, q, None, None, None] * seen[:, None]).sum(axis=0)


@_in_silence
def sum_channels(dz: Array, db: Array, threads: int) -> None:
    db[...] = dz.sum(axis=(0, 2, 3))


def _taps(
    image: Array, outs: Pair, kernel: Pair, stride: Pair
) -> Iterator[tuple[int, Array]]:
    """For each position in the window, row-major: the elements of the image that windows have there."""
    for u in range(kernel[0]):
        for v in range(kernel[1]):
            rows = slice(u, u + (outs[0] - 1) * stride[0] + 1, stride[0])
            cols = slice(v, v + (outs[1] - 1) * stride[1] + 1, stride[1])
            yield u * kernel[1] + v, image[:, :, rows, cols]


@_in_silence
def max_pool(
    x: Array, out: Array, places: NDArray[np.integer], kernel: Pair, stride: Pair, threads: int
) -> None:
    for tap, seen in _taps(x, out.shape[2:], kernel, stride):
        if tap == 0:
            out[...], places[...] = seen, 0
        else:
            wins = ~(seen <= out) & ~np.isnan(out)  # the first NaN wins, and stays
            np.copyto(out, seen, where=wins)
            places[wins] = tap


@_in_silence
def max_pool_gradient(
    dz: Array, places: NDArray[np.integer], dx: Array, kernel: Pair, stride: Pair, threads: int
) -> bool:
    if places.size and not 0 <= places.min() <= places.max() < kernel[0] * kernel[1]:
        return False
    dx[...] = 0
    for tap, seen in _taps(dx, dz.shape[2:], kernel, stride):
        np.add(seen, dz, out=seen, where=places == tap)
    return True


@_in_silence
def mean_pool(x: Array, out: Array, kernel: Pair, stride: Pair, threads: int) -> None:
    out[...] = 0
    for _, seen in _taps(x, out.shape[2:], kernel, stride):
        out += seen
    out /= kernel[0] * kernel[1]


@_in_silence
def mean_pool_gradient(dz: Array, dx: Array, kernel: Pair, stride: Pair, threads: int) -> None:
    dx[...] = 0
    share = dz / (kernel[0] * kernel[1])
    for _, seen in _taps(dx, dz.shape[2:], kernel, stride):
        np.add(seen, share, out=seen)


def _per_channel(values: NDArray[np.float64], like: Array) -> Array:
    return values.astype(like.dtype).reshape(1, -1, 1, 1)


def _centred(x: Array, mean: NDArray[np.float64]) -> Array:
    """x - mean in the dtype of x, with the mean as two such numbers where one would round it."""
    high = _per_channel(mean, x)
    rest = np.where(np.isfinite(mean), mean - high.ravel(), 0.0)  # an infinite mean has no rest
    return (x - high) - _per_channel(rest, x)


@_in_silence
def batch_norm(
    x: Array, scale: NDArray[np.float64], shift: NDArray[np.float64], eps: float,
    mean: NDArray[np.float64], var: NDArray[np.float64], out: Array, threads: int,
) -> None:
    mean[...] = x.mean(axis=(0, 2, 3), dtype=np.float64)
    var[...] = ((x - mean.reshape(1, -1, 1, 1)) ** 2).mean(axis=(0, 2, 3), dtype=np.float64)
    batch_norm_eval(x, scale, shift, eps, mean, var, out, threads)


@_in_silence
def batch_norm_eval(
    x: Array, scale: NDArray[np.float64], shift: NDArray[np.float64], eps: float,
    mean: NDArray[np.float64], var: NDArray[np.float64], out: Array, threads: int,
) -> None:
    factor = scale / np.sqrt(var + eps)
    out[...] = _centred(x, mean) * _per_channel(factor, x) + _per_channel(shift, x)


@_in_silence
def batch_norm_gradient(
    x: Array, dz: Array, scale: NDArray[np.float64], eps: float,
    mean: NDArray[np.float64], var: NDArray[np.float64],
    dx: Array, dscale: NDArray[np.float64], dshift: NDArray[np.float64], threads: int,
) -> None:
    numbers = x.size // x.shape[1]
    inverse = 1 / np.sqrt(var + eps)
    normal = _centred(x, mean) * _per_channel(inverse, x)
    dshift[...] = dz.sum(axis=(0, 2, 3), dtype=np.float64)
    dscale[...] = (dz * normal).sum(axis=(0, 2, 3), dtype=np.float64)
    dx[...] = _per_channel(scale * inverse, x) * (
        dz - _per_channel(dshift / numbers, x) - normal * _per_channel(dscale / numbers, x)
    )


@_in_silence
def scale_planes(x: Array, factors: Array, out: Array, threads: int) -> None:
    np.multiply(x, factors.reshape(*x.shape[:2], 1, 1), out=out)


@_in_silence
def relu(x: Array, out: Array, threads: int) -> None:
    np.maximum(x, 0, out=out)


@_in_silence
def relu_gradient(dz: Array, x: Array, out: Array, threads: int) -> None:
    out[...] = np.where(x > 0, dz, 0)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, 1) / (1 + e))


@_in_silence
def sigmoid(x: Array, out: Array, threads: int) -> None:
    out[...] = _sigmoid(x)


@_in_silence
def sigmoid_gradient(dz: Array, a: Array, out: Array, threads: int) -> None:
    out[...] = dz * (a * (1 - a))


def tanh(x: Array, out: Array, threads: int) -> None:
    np.tanh(x, out=out)


@_in_silence
def tanh_gradient(dz: Array, a: Array, out: Array, threads: int) -> None:
    out[...] = dz * (1 - a * a)


def _normal_cdf(x: Array) -> Array:
    values = [math.erfc(-value / math.sqrt(2)) / 2 for value in x.ravel().tolist()]
    return np.array(values, x.dtype).reshape(x.shape)


@_in_silence
def gelu(x: Array, out: Array, threads: int) -> None:
    # From -40 down the factor is 0, and stays so for an infinite x.
    out[...] = np.maximum(x, -40) * _normal_cdf(x)


@_in_silence
def gelu_gradient(dz: Array, x: Array, out: Array, threads: int) -> None:
    near = np.clip(x, -40, 40)
    density = np.exp(-near * near / 2) / math.sqrt(2 * math.pi)
    out[...] = dz * (_normal_cdf(x) + near * density)


def _product(x: Array, factor: Array) -> Array:
    """x * factor, and 0 where factor is 0 even if x is infinite."""
    return np.asarray(np.where(factor != 0, x * factor, 0))


@_in_silence
def swish(x: Array, beta: float, out: Array, threads: int) -> None:
    out[...] = _product(x, _sigmoid(x * x.dtype.type(beta)))


@_in_silence
def swish_gradient(dz: Array, x: Array, beta: float, out: Array, threads: int) -> float:
    scaled = x * x.dtype.type(beta)
    s = _sigmoid(scaled)
    steep = _product(x, s * _sigmoid(-scaled))  # sigmoid(-x) is 1 - sigmoid(x), exact for s near 1
    out[...] = dz * (s + steep * x.dtype.type(beta))
    return float((dz * _product(x, steep)).sum(dtype=np.float64))


@_in_silence
def softmax(x: Array, out: Array, columns: int, threads: int) -> None:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    out[...] = e / e.sum(axis=1, keepdims=True)


@_in_silence
def softmax_gradient(dz: Array, a: Array, out: Array, columns: int, threads: int) -> None:
    out[...] = a * (dz - (dz * a).sum(axis=1, keepdims=True))


@_in_silence
def squared_error(a: Array, y: Array, threads: int) -> float:
    return float(((a - y) ** 2).sum(dtype=np.float64))


@_in_silence
def scaled_difference(a: Array, y: Array, factor: float, out: Array, threads: int) -> None:
    out[...] = (a - y) * a.dtype.type(factor)


@_in_silence
def cross_entropy(x: Array, y: Array, columns: int, threads: int) -> float:
    # A difference beyond the range of the dtype would be -inf, and times a zero of y a NaN.
    shifted = np.maximum(x - x.max(axis=1, keepdims=True), np.finfo(x.dtype).min)
    log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-((log * y).sum(axis=1, dtype=np.float64) / len(x)).sum())


@_in_silence
def cross_entropy_gradient(x: Array, y: Array, out: Array, columns: int, threads: int) -> None:
    softmax(x, out, columns, threads)
    out -= y
    out /= len(x)


def multiply_adds(out: Array, rounds: int, threads: int) -> int:
    side = 128
    a = np.full((side, side), 1 / side, out.dtype)
    times = max(1, rounds * out.size >> 10)
    for _ in range(times):
        a = a @ a
    out[...] = a[0, 0]
    return 2 * side**3 * times


def copy(source: Array, target: Array, times: int, threads: int) -> None:
    for _ in range(times):
        target[...] = source
