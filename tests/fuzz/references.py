"""Plain formulas in more precision, and how far a result may be from them.

Nothing here calls fastconv. The bounds count operations: n numbers summed in any order, each a product of
rounded factors, are off by at most gamma(n + k) times the sum of magnitudes (Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1), and by as many halves of the smallest subnormal, which
products round to. Where magnitudes come near the largest number a partial sum may overflow, depending on
the order: such results are `free`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray
LONG = np.longdouble


class Expected(NamedTuple):
    """A result: infinities and NaN exactly, other numbers within a bound; anything where it is free."""

    value: Array
    bound: Array | float
    free: Array | bool = False


class Real:
    """The number type that a result is computed in."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        limits = np.finfo(dtype)
        self.u, self.sub = LONG(limits.eps) / 2, LONG(limits.smallest_subnormal)
        self.tiny, self.large = LONG(limits.tiny), LONG(limits.max) / 4
        # Exact for products of float32; for those of float64 its own rounding is counted in gamma.
        self.wide = np.float64 if dtype == np.float32 else LONG

    def __call__(self, a: Any) -> Array:
        """As the kernels get it, in more precision."""
        return np.asarray(a).astype(self.dtype).astype(self.wide)

    def gamma(self, n: int) -> Any:
        unit = n * (self.u + np.finfo(self.wide).eps)
        return unit / (1 - unit)

    def exact(self, value: Array) -> Expected:
        return Expected(value, 0)

    def rounded(self, value: Array, operations: int) -> Expected:
        """Of so many operations, none of which cancels."""
        return Expected(value, self.gamma(operations) * finite(value) + operations * self.sub)

    def total(self, terms: Array, axes: Any, operations: int = 2) -> Expected:
        """The sum of terms, each of up to so many operations."""
        magnitude = finite(terms).sum(axis=axes)
        count = terms.size // max(1, magnitude.size)
        bound = self.gamma(count + operations) * magnitude + (count + operations) * self.sub
        return Expected(terms.sum(axis=axes), bound, magnitude >= self.large)


def finite(a: Array) -> Array:
    return np.where(np.isfinite(a), np.abs(a), 0)


# ---- convolution ---------------------------------------------------------------------------------


def conv(
    sizes: dict[str, int], real: Real, A: Any, W: Any, b: Any = None, dLdZ: Any = None
) -> list[Expected]:
    """Z without dLdZ; else dLdA, dLdW, dLdb."""
    a, w = real(A), real(W)
    stride, pad, up = ((sizes[f"{x}h"], sizes[f"{x}w"]) for x in "spu")
    (N, C, H, Wd), (O, _, KH, KW) = a.shape, w.shape
    heights, widths = up[0] * (H - 1) + 1 + 2 * pad[0], up[1] * (Wd - 1) + 1 + 2 * pad[1]
    image = np.zeros((N, C, heights, widths), real.wide)
    inner = (
        slice(None), slice(None),
        slice(pad[0], heights - pad[0], up[0]), slice(pad[1], widths - pad[1], up[1]),
    )
    image[inner] = a
    # Zeros of the padding are multiplied, those between neighbours are not. Of those of the padding that
    # are no multiple of the upsampling from the image either may be, which shows with an infinity alone.
    rows, cols = (np.arange(n) - p for n, p in zip(image.shape[2:], pad))
    number = np.logical_and.outer(rows % up[0] == 0, cols % up[1] == 0)
    between = np.logical_and.outer(
        (rows >= 0) & (rows <= up[0] * (H - 1)), (cols >= 0) & (cols <= up[1] * (Wd - 1))
    )
    steps = slice(None, None, stride[0]), slice(None, None, stride[1])
    seen = sliding_window_view(image, (KH, KW), (2, 3))[(slice(None), slice(None), *steps)]
    met, doubtful = (sliding_window_view(mask, (KH, KW))[steps] for mask in (number, ~number & ~between))
    P, Q = seen.shape[2:4]
    # A step to no other output, or between no neighbours, is none.
    by = [s if n > 1 else 1 for s, n in zip(stride, (P, Q))]
    between_inputs = [u if n > 1 else 1 for u, n in zip(up, (H, Wd))]
    kernel, rest = (KH, KW), (KH - 1 - pad[0], KW - 1 - pad[1])
    direct = sizes["algorithm"] == "direct"
    forward = None if direct else _transforms(kernel, by, pad, between_inputs)
    backward = None if direct else _transforms(kernel, between_inputs, rest, by)
    if dLdZ is None:
        every = seen[:, None] * w[:, :, None, None]
        terms = np.where(met, every, 0).transpose(0, 1, 3, 4, 2, 5, 6).reshape(N, O, P, Q, C * KH * KW)
        bias = np.broadcast_to(real(b)[:, None, None, None], (N, O, P, Q, 1))
        Z = real.total(np.concatenate([terms, bias], axis=4), 4)
        Z = Z._replace(free=Z.free | (doubtful & ~np.isfinite(every)).any(axis=(2, 5, 6)))
        return [_by_winograd(Z, real, a, w, C, *forward) if forward else Z]
    dz = real(dLdZ)
    with_w = dz[:, :, None, :, :, None, None] * w[:, :, None, None]
    every = seen[:, None] * dz[:, :, None, :, :, None, None]
    dLdW = real.total(np.where(met, every, 0), (0, 3, 4))
    dLdW = dLdW._replace(free=dLdW.free | (doubtful & ~np.isfinite(every)).any(axis=(0, 3, 4)))
    dLdA = _scattered(with_w, real, image.shape, inner, stride)
    # The full convolution multiplies zeros around dLdZ, which shows with an infinite weight alone.
    spoilt = ~np.isfinite(w).all(axis=(0, 2, 3))
    dLdA = dLdA._replace(free=dLdA.free | spoilt[:, None, None])
    if backward:
        dLdA = _by_winograd(dLdA, real, dz, w, O, *backward)
    if forward and {*by, *between_inputs} == {1} and not {*kernel} & {2, 4}:
        dLdW = _weights_by_winograd(dLdW, real, a, dz, forward[0])
    return [dLdA, dLdW, real.total(dz, (0, 2, 3))]


def _scattered(products: Array, real: Real, shape: Any, inner: Any, stride: Any) -> Expected:
    """The sum of products (N, O, C, P, Q, KH, KW) over all that an input's place takes part in."""
    P, Q, KH, KW = products.shape[3:]
    value, magnitude = (np.zeros(shape, real.wide) for _ in range(2))
    for u in range(KH):
        for v in range(KW):
            place = (
                slice(None), slice(None),
                slice(u, u + stride[0] * (P - 1) + 1, stride[0]),
                slice(v, v + stride[1] * (Q - 1) + 1, stride[1]),
            )
            value[place] += products[..., u, v].sum(axis=1)
            magnitude[place] += finite(products[..., u, v]).sum(axis=1)
    count = products.shape[1] * KH * KW
    value, magnitude = value[inner], magnitude[inner]
    bound = real.gamma(count + 2) * magnitude + (count + 2) * real.sub
    return Expected(value, bound, magnitude >= real.large)


def _winograd_matrices(taps: int, line: bool = False) -> tuple[Array, Array, Array]:
    """Magnitudes of Toom's and Cook's A (6, 7 - taps), B (6, 6), G (6, taps) at 0, 1, -1, 2, -1/2, inf.

    For 2 taps there are as many outputs as for 3, and one point less; for 5 on a line two points more.
    """
    if taps == 1:
        return (np.ones((1, 1)),) * 3
    points = np.array([0, 1, -1, 2, -0.5])[: 4 if taps == 2 else 5]
    if line and taps == 5:
        points = np.array([0, 1, -1, 2, -2, 0.5, -0.5])
    count = len(points) + 1
    A, G = (
        np.abs(np.vstack([np.vander(points, n, increasing=True), np.eye(n)[-1]]))
        for n in (count + 1 - taps, taps)
    )
    B = np.zeros((count, count))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        G[i] /= abs(np.prod(point - others))
        B[:-1, i] = np.abs(np.poly(others)[::-1])
    B[:, -1] = np.abs(np.poly(points)[::-1])
    return A, B, G


_WINOGRAD = {
    (rows, cols): (_winograd_matrices(rows), _winograd_matrices(cols, line=rows == 1))
    for rows in (1, 2, 3, 5) for cols in (2, 3, 5)
}


def _transforms(kernel: Any, stride: Any, pad: Any, up: Any) -> Any:
    """Matrices of the convolution with stride 1 that parts make of it, and of how many channels for one."""
    if max(stride) > 1 and max(up) > 1:
        return None
    if max(*stride, *up) == 1:
        taps = tuple(2 if k == 4 else 3 if k > 5 else k for k in kernel)
        pieces = math.prod(-(-k // t) for k, t in zip(kernel, taps))
        return (_WINOGRAD[taps], pieces) if taps in _WINOGRAD else None
    taps = tuple(
        # Inputs that the taps of all phases of an output meet.
        sum(i * u in range(-p, k - 1 + u - p) for i in range(-abs(p), abs(p) + k + u))
        if u > 1 else -(-k // s)
        for k, s, p, u in zip(kernel, stride, pad, up)
    )
    return (_WINOGRAD[taps], stride[0] * stride[1]) if taps in _WINOGRAD else None


# Operations of two transforms of each axis before the sum and one after.
_TRANSFORMS = 36


def _largest(a: Array) -> Any:
    return finite(a).max(initial=0)


def _by_winograd(
    direct: Expected, real: Real, x: Array, w: Array, channels: int, matrices: Any, parts: int
) -> Expected:
    """Rounding errors fall on whole tiles: they are in proportion to the largest numbers."""
    (A, B, G), (Aw, Bw, Gw) = matrices
    channels *= parts
    elements = np.outer(G.sum(1), Gw.sum(1)) * np.outer(B.sum(0), Bw.sum(0))
    of_ones = (A.T @ elements @ Aw).max() * channels
    bound = _bilinear(real, of_ones, channels, _largest(x), _largest(w))
    return direct._replace(bound=direct.bound + bound)


def _weights_by_winograd(direct: Expected, real: Real, x: Array, dz: Array, matrices: Any) -> Expected:
    (A, B, G), (Aw, Bw, Gw) = matrices
    tiles = len(dz) * math.prod(-(-n // m.shape[1]) for n, m in zip(dz.shape[2:], (A, Aw)))
    elements = np.outer(A.sum(1), Aw.sum(1)) * np.outer(B.sum(0), Bw.sum(0))
    of_ones = (G.T @ elements @ Gw).max() * tiles
    bound = _bilinear(real, of_ones, tiles, _largest(x), _largest(dz))
    return direct._replace(bound=direct.bound + bound)


def _bilinear(real: Real, of_ones: Any, terms: int, x: Any, y: Any) -> Any:
    """x and y are off by so many units of theirs, or of the smallest subnormal, and so is what they make."""
    operations = terms + _TRANSFORMS
    return of_ones * (real.gamma(operations) * x * y + operations * real.sub * (x + y + 1))


# ---- pooling -------------------------------------------------------------------------------------


def _pool_windows(a: Array, sizes: dict[str, int]) -> Array:
    """(N, C, P, Q, KH * KW)."""
    seen = sliding_window_view(a, (sizes["kh"], sizes["kw"]), (2, 3))[:, :, :: sizes["sh"], :: sizes["sw"]]
    return seen.reshape(*seen.shape[:4], sizes["kh"] * sizes["kw"])


def max_pool(sizes: dict[str, int], real: Real, A: Any, dLdZ: Any) -> list[Expected]:
    """Z, the places of the maxima, and dLdA."""
    a = real(A)
    seen = _pool_windows(a, sizes)
    places = np.where(np.isnan(seen), np.inf, seen)  # a NaN is above all
    nan = np.isnan(seen).any(axis=-1)
    places = np.where(nan, np.isnan(seen).argmax(axis=-1), places.argmax(axis=-1))
    Z = np.take_along_axis(seen, places[..., None], -1)[..., 0]
    return [real.exact(Z), real.exact(places), _pool_gradient(sizes, real, a.shape, real(dLdZ), places)]


def mean_pool(sizes: dict[str, int], real: Real, A: Any, dLdZ: Any) -> list[Expected]:
    """Z and dLdA."""
    a, dz, size = real(A), real(dLdZ), sizes["kh"] * sizes["kw"]
    Z = real.total(_pool_windows(a, sizes), 4)
    Z = Z._replace(value=Z.value / size, bound=Z.bound / size + real.sub + real.u * finite(Z.value / size))
    return [Z, _pool_gradient(sizes, real, a.shape, dz / size, None)]


def _pool_gradient(sizes: dict[str, int], real: Real, shape: Any, dz: Array, places: Any) -> Expected:
    value, magnitude = np.zeros(shape, real.wide), np.zeros(shape, real.wide)
    P, Q = dz.shape[2:]
    sh, sw = sizes["sh"], sizes["sw"]
    count = sizes["kh"] * sizes["kw"]
    for u in range(sizes["kh"]):
        for v in range(sizes["kw"]):
            here = dz if places is None else np.where(places == u * sizes["kw"] + v, dz, 0)
            place = (slice(None), slice(None),
                     slice(u, u + sh * (P - 1) + 1, sh), slice(v, v + sw * (Q - 1) + 1, sw))
            value[place] += here
            magnitude[place] += finite(here)
    bound = real.gamma(count + 2) * magnitude + (count + 2) * real.sub
    # A mean's gradient may be divided after it is summed.
    return Expected(value, bound, magnitude * (count if places is None else 1) >= real.large)


# ---- batch norm ----------------------------------------------------------------------------------

_AXES = (0, 2, 3)


def _column(x: Any) -> Array:
    return np.asarray(x, LONG).reshape(1, -1, 1, 1)


def batch_norm(real: Real, Z: Any, BW: Any, Bb: Any, eps: float) -> list[Expected]:
    """BZ, mean and variance."""
    z, scale, shift = real(Z).astype(LONG), _column(np.asarray(BW, float)), _column(np.asarray(Bb, float))
    count = max(1, z.size // z.shape[1])
    g = real.gamma(count + 10)
    M = z.sum(axis=_AXES, keepdims=True) / count
    d = z - M
    V = (d * d).sum(axis=_AXES, keepdims=True) / count
    spread = (z.max(axis=_AXES, keepdims=True) - z.min(axis=_AXES, keepdims=True)) if z.size else 0 * M
    double = LONG(np.finfo(float).eps)
    # Sums are of differences from one of the numbers, or from a mean that is itself off by as much.
    of_M = g * spread + count * double * abs(M) + real.sub
    # Squares of what is off are smaller still, and those of small numbers are rounded to subnormals.
    of_V = g * spread**2 + 4 * of_M**2 + count * real.sub
    relative = of_V / (V + eps)
    factor = scale / np.sqrt(V + eps)
    normal = d * factor
    bound = (
        abs(factor) * (of_M + 4 * real.u * abs(d) + 2 * real.sub)
        + abs(normal) * (relative + 8 * real.u)
        + 4 * real.u * (abs(normal) + abs(shift)) + (abs(d) + 4) * real.sub
    )
    large = (1 + count) * (1 + spread + abs(M) + abs(shift)) ** 2 * (1 + factor**2) >= real.large
    odd = ~np.isfinite(bound).all(axis=_AXES, keepdims=True)
    free = ~np.isfinite(M) | ~np.isfinite(V) | odd | large | (relative > 0.25)
    free = free | (finite(z).max(axis=_AXES, keepdims=True, initial=0) ** 2 * count >= real.large)
    BZ = Expected(normal + shift, bound, free)
    flat = [Expected(x.ravel(), b.ravel(), free.ravel()) for x, b in ((M, of_M), (V, of_V))]
    return [BZ, *flat]


def batch_norm_eval(real: Real, Z: Any, BW: Any, Bb: Any, M: Any, V: Any, eps: float) -> list[Expected]:
    z = real(Z).astype(LONG)
    scale, shift, mean, var = (_column(np.asarray(x, float)) for x in (BW, Bb, M, V))
    factor = scale / np.sqrt(var + eps)
    d = z - mean
    normal = d * factor
    bound = (
        real.gamma(8) * (abs(normal) + abs(shift)) + 4 * real.u**2 * abs(mean * factor)
        + (abs(d) + abs(factor) + 4) * real.sub * 4
    )
    # The mean and the factor are rounded to numbers of the dtype; a denormal one loses digits.
    large = abs(z) + abs(mean) + abs(factor) + abs(normal) + abs(shift) >= real.large
    small = (abs(factor) < real.tiny) & (factor != 0)
    free = large | small | ~np.isfinite(normal + shift + factor + mean + scale + var)
    return [Expected(normal + shift, bound, free)]


def batch_norm_gradient(
    real: Real, dLdBZ: Any, Z: Any, BW: Any, mean: Any, var: Any, eps: float
) -> list[Expected]:
    """dLdZ, dLdBW, dLdBb for given statistics."""
    z, dz = real(Z).astype(LONG), real(dLdBZ).astype(LONG)
    scale, mean, var = (_column(np.asarray(x, float)) for x in (BW, mean, var))
    count = max(1, z.size // z.shape[1])
    inverse = 1 / np.sqrt(var + eps)
    d = z - mean
    normal = d * inverse
    of_normal = real.gamma(8) * abs(normal) + 4 * real.u**2 * abs(mean) * inverse
    of_normal = of_normal + 4 * real.sub * (1 + inverse)
    shift, size = (x.sum(axis=_AXES, keepdims=True) for x in (dz, abs(dz)))
    slope, sizes = (x.sum(axis=_AXES, keepdims=True) for x in (dz * normal, abs(dz * normal)))
    g = real.gamma(count + 10)
    subs = (count + 10) * real.sub
    of_shift = g * size + subs
    of_slope = g * sizes + (abs(dz) * of_normal).sum(axis=_AXES, keepdims=True) + subs * (1 + inverse)
    factor = scale * inverse
    dLdZ = factor * (dz - shift / count - normal * slope / count)
    bound = abs(factor) * (
        real.gamma(12) * (abs(dz) + size / count + abs(normal) * sizes / count)
        + of_shift / count + abs(normal) * of_slope / count + of_normal * abs(slope) / count
    ) + 16 * real.sub * (1 + abs(dz) + abs(d) + abs(factor))
    # What the kernels multiply by are these, rounded.
    steep = abs(factor * inverse * slope / count)
    parts = (factor, inverse, steep, shift, slope, sizes, size, abs(factor) * size, z, mean)
    large = sum(abs(np.broadcast_to(x, z.shape)) for x in parts) >= np.sqrt(real.large)
    small = ((abs(factor) < real.tiny) & (factor != 0)) | ((steep < real.tiny * 2**30) & (steep != 0))
    bad = ~np.isfinite(dLdZ + bound)
    free = (large | small | bad).any(axis=_AXES, keepdims=True) if z.size else np.zeros(mean.shape, bool)
    return [Expected(dLdZ, bound, free), Expected(slope, of_slope, free), Expected(shift, of_shift, free)]


def scale_channels(real: Real, A: Any, factors: Any) -> list[Expected]:
    product = real(A) * real(factors).reshape(*np.shape(A)[:2], 1, 1)
    return [Expected(product, real.gamma(1) * finite(product) + real.sub, finite(product) >= real.large)]


# ---- resampling ----------------------------------------------------------------------------------


def spread(real: Real, A: Any, factor: int, axes: int, sizes: Any = None) -> list[Expected]:
    """`factor - 1` zeros between neighbours, to those sizes."""
    a = real(A)
    sizes = sizes or [factor * (n - 1) + 1 for n in a.shape[2:]]
    out = np.zeros((*a.shape[:2], *sizes), real.wide)
    out[_every(factor, axes)] = a
    return [real.exact(out)]


def thin(real: Real, A: Any, factor: int, axes: int) -> list[Expected]:
    return [real.exact(real(A)[_every(factor, axes)])]


def _every(factor: int, axes: int) -> tuple[slice, ...]:
    return (slice(None), slice(None), *[slice(None, None, factor)] * axes)


# ---- dense, losses -------------------------------------------------------------------------------


def linear(real: Real, A: Any, W: Any, b: Any) -> list[Expected]:
    a, w, bias = real(A), real(W), real(b).ravel()
    terms = a[:, None, :] * w
    shift = np.broadcast_to(bias[:, None], (*terms.shape[:2], 1))
    return [real.total(np.concatenate([terms, shift], axis=2), 2)]


def linear_gradient(real: Real, dLdZ: Any, A: Any, W: Any, b: Any) -> list[Expected]:
    dz, a, w = real(dLdZ), real(A), real(W)
    dLdb = real.total(dz, 0)
    shape = np.shape(b)
    return [
        real.total(dz[:, :, None] * w, 1),
        real.total(dz[:, :, None] * a[:, None, :], 0),
        Expected(*(np.reshape(x, shape) for x in dLdb)),
    ]


def mse(real: Real, A: Any, Y: Any) -> list[Expected]:
    """The loss and its gradient."""
    a, y = real(A), real(Y)
    size = a.size
    d = a - y
    with np.errstate(all="ignore"):
        value, bound, free = real.total(d * d, None, 6)
        loss = Expected(value / size, bound / size, free)
    gradient = 2 * d / max(1, size)
    bound = real.gamma(4) * finite(gradient) + 4 * real.sub * (1 + finite(d))
    return [loss, Expected(gradient, bound, (finite(d) >= real.large))]


def softmax(real: Real, Z: Any) -> list[Expected]:
    p, bound, free = _softmax(real, real(Z))
    return [Expected(p, bound, free)]


def _softmax(real: Real, z: Array) -> tuple[Array, Array, Array]:
    """Of each row; a row with a NaN is NaN, one with an infinity may be anything that is no number."""
    top = z.max(axis=1, keepdims=True)
    d = z - top
    e = np.exp(d)
    p = e / e.sum(axis=1, keepdims=True)
    # A difference is rounded, which the exponential passes on; one too far down is 0, or a subnormal.
    off = real.gamma(z.shape[1] + 12) + real.u * 2 * np.where(e > 0, finite(d), 0)
    worst = off.max(axis=1, keepdims=True)
    odd = ~np.isfinite(z).all(axis=1, keepdims=True)
    return p, (off + worst) * p + 4 * real.tiny, odd & ~np.isnan(z).any(axis=1, keepdims=True)


def softmax_gradient(real: Real, dLdA: Any, A: Any) -> list[Expected]:
    dz, a = real(dLdA), real(A)
    n = a.shape[1]
    terms = dz * a
    total, sizes = terms.sum(axis=1, keepdims=True), finite(terms).sum(axis=1, keepdims=True)
    value = a * (dz - total)
    bound = real.gamma(n + 6) * finite(a) * (finite(dz) + sizes) + (n + 6) * real.sub * (1 + finite(a))
    parts = (finite(a) + 1) * (finite(dz) + sizes + 1)
    free = (parts >= real.large).any(axis=1, keepdims=True) | ~np.isfinite(terms).all(axis=1, keepdims=True)
    return [Expected(value, bound, free)]


def cross_entropy(real: Real, A: Any, Y: Any) -> list[Expected]:
    """The loss and its gradient."""
    a, y = real(A), real(Y)
    rows, n = a.shape
    d = a - a.max(axis=1, keepdims=True)
    log = d - np.log(np.exp(d).sum(axis=1, keepdims=True))
    terms = y * log / max(1, rows)
    off = (finite(y) * (real.gamma(n + 12) * (finite(d) + finite(log) + 1))).sum() / max(1, rows)
    off += real.gamma(n * rows + 4) * finite(terms).sum() + a.size * real.sub * (1 + finite(y).sum())
    # A difference that is out of range is taken for the least number.
    odd = ~np.isfinite(d).all() or ~np.isfinite(y).all() or (finite(d).max(initial=0) >= real.large)
    with np.errstate(all="ignore"):
        loss = np.asarray(-terms.sum()) if rows else np.asarray(np.nan)
    too_large = (finite(y).sum() + 1) * (finite(log).max(initial=0) + 1) >= real.large
    p, of_p, free = _softmax(real, a)
    gradient = (p - y) / max(1, rows)
    bound = of_p + real.gamma(4) * (p + finite(y)) + 4 * real.sub
    return [
        Expected(loss, off, np.asarray(odd or too_large)),
        Expected(gradient, bound, free | (finite(y) >= real.large)),
    ]


# ---- activations ---------------------------------------------------------------------------------

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid_of(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def sigmoid(real: Real, Z: Any) -> list[Expected]:
    return [real.rounded(sigmoid_of(real(Z)), 7)]


def sigmoid_gradient(real: Real, dLdA: Any, A: Any) -> list[Expected]:
    dz, a = real(dLdA), real(A)
    return [_product(real, dz, a, 1 - a)]


def tanh(real: Real, Z: Any) -> list[Expected]:
    return [real.rounded(np.tanh(real(Z)), 8)]


def tanh_gradient(real: Real, dLdA: Any, A: Any) -> list[Expected]:
    dz, a = real(dLdA), real(A)
    slope = 1 - a * a
    # 1 - a^2 cancels: it is off by a unit of 1.
    bound = finite(dz) * (real.gamma(3) * (1 + finite(a) ** 2) + 3 * real.sub) + 3 * real.sub
    return [Expected(dz * slope, bound, (finite(dz) + 1) * (finite(a) ** 2 + 1) >= real.large)]


def _product(real: Real, *factors: Array) -> Expected:
    """Of rounded factors, in any order: parts of it may overflow or underflow."""
    value = np.ones((), real.wide)
    largest, room = np.ones((), real.wide), np.ones((), real.wide)
    for factor in factors:
        value = value * factor
        largest = largest * np.maximum(finite(factor), 1)
        room = room * (finite(factor) + 1)
    bound = real.gamma(2 * len(factors)) * finite(value) + 4 * real.sub * room
    return Expected(value, bound, largest >= real.large)


def relu(real: Real, Z: Any) -> list[Expected]:
    z = real(Z)
    return [real.exact(np.where(z < 0, 0, z) + 0)]


def relu_gradient(real: Real, dLdA: Any, Z: Any) -> list[Expected]:
    return [real.exact(np.where(real(Z) > 0, real(dLdA), 0))]


def normal_cdf(x: Array) -> Array:
    return _erfc(-np.clip(x, -1e9, 1e9).astype(float) / math.sqrt(2)) / 2


def gelu(real: Real, Z: Any) -> list[Expected]:
    z = real(Z)
    low = np.minimum(z, 0)
    # Rounding z^2 costs z^2 / 4 units in the lower tail; the formula here has float64's erfc.
    square = np.where(np.isfinite(low), low * low, 0)
    value = np.where(np.isneginf(z), 0, z * normal_cdf(z))
    units = 14 * (1 + square / 4) * real.u + 2 * (1 + square) * np.finfo(float).eps
    return [Expected(value, units * finite(value) + 64 * real.tiny)]


def gelu_gradient(real: Real, dLdA: Any, Z: Any) -> list[Expected]:
    dz, z = real(dLdA), real(Z)
    near = np.clip(z, -40, 40)
    slope = normal_cdf(z) + near * np.exp(-near * near / 2) / math.sqrt(2 * math.pi)
    value = dz * slope
    # The slope is off by 4 units of 1 anywhere, and where it is all but 0 an infinite dz has no sign.
    unsure = ~np.isfinite(dz) & (abs(slope) < 16 * real.u)
    return [Expected(value, finite(dz) * 12 * real.u + 4 * real.sub, unsure | (2 * finite(dz) >= real.large))]


def swish(real: Real, Z: Any, beta: float) -> list[Expected]:
    z, x = real(Z), real(Z) * real(beta)
    s = sigmoid_of(x)
    value = np.where(s == 0, 0, z * s)
    units = 8 * real.u + 2 * real.u * finite(x) * sigmoid_of(-x)
    bound = units * finite(value) + 4 * real.tiny * (1 + finite(z))
    return [Expected(value, bound, _far(real, z, x))]


def _far(real: Real, z: Array, x: Array) -> Array:
    """Where z * beta is out of range, or no number of it is left."""
    lost = (finite(x) >= real.large) | ((finite(x) < real.tiny) & (x != 0))
    return lost | (np.isinf(z) & ~np.isnan(x) & ~np.isinf(x)) | np.isinf(z) | np.isnan(x)


def swish_gradient(real: Real, dLdA: Any, Z: Any, beta: float) -> list[Expected]:
    """dLdZ and dLdbeta."""
    dz, z, x = real(dLdA), real(Z), real(Z) * real(beta)
    s, rest = sigmoid_of(x), sigmoid_of(-x)
    slope, of_beta = s + x * s * rest, z * z * s * rest
    relative = real.gamma(16) + 2 * real.u * finite(x)
    lost = 8 * real.tiny * (1 + finite(z)) * (1 + abs(real(beta)))
    bound = finite(dz) * (relative * (s + finite(x) * s * rest) + lost)
    free = _far(real, z, x) | ~np.isfinite(dz) | (finite(dz) * (2 + finite(x)) >= real.large)
    dLdZ = Expected(dz * slope, bound + 8 * real.sub, free)
    terms = dz * of_beta
    off = (real.gamma(terms.size + 16) + relative) * finite(terms)
    off += 8 * real.tiny * finite(dz) * (1 + finite(z)) ** 2 + 4 * real.sub * (1 + finite(z))
    lost = (free | ~np.isfinite(terms)).any() or finite(terms).sum() >= real.large
    lost = lost or ((1 + finite(z)) ** 2 * (1 + finite(dz)) >= real.large).any()
    return [dLdZ, Expected(np.asarray(terms.sum()), off.sum() + real.sub, np.asarray(lost))]
