"""The layers' definitions as plain sums, in extended precision: what every result is held against.

Nothing here calls fastconv. A 1-D convolution is a 2-D one of height 1, and all sizes are pairs.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

EXTENDED = np.longdouble


# ---- tolerances ----------------------------------------------------------------------------------


def rounding(terms, dtype):
    """Relative error of a sum of `terms` products, against the sum of their magnitudes.

    In any order of summation it is at most about terms * eps/2, and all but surely (1 in 10^7)
    under 6 * sqrt(terms) * eps/2 (Higham and Mary, 2019). Twice that: the oracle may round too.
    """
    terms = terms + 2
    return min(terms, 6 * math.sqrt(terms)) * float(np.finfo(dtype).eps)


def assert_within(actual, expected, bound):
    """Every element within its bound, and finite."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    off = np.abs(actual.astype(EXTENDED) - expected)
    wrong = ~(off <= bound)
    assert not wrong.any(), (
        f"{wrong.sum()} of {wrong.size} out of bound; worst {np.max(off / (bound + 1e-300)):.3g} times it, "
        f"first at {tuple(np.argwhere(wrong)[0])}"
    )


def small_integers(rng, shape, dtype=np.float64):
    """Numbers whose sums of products are exact in any order: results must be equal to the last bit."""
    return rng.integers(-4, 5, shape).astype(dtype)


# ---- convolution ---------------------------------------------------------------------------------


def spread(A, padding, upsampling, dtype=EXTENDED):
    """A with zeros between its neighbours, then zeros around it."""
    (ph, pw), (kh, kw) = padding, upsampling
    N, C, H, W = A.shape
    full = np.zeros((N, C, kh * (H - 1) + 1 + 2 * ph, kw * (W - 1) + 1 + 2 * pw), dtype)
    full[:, :, ph : full.shape[2] - ph : kh, pw : full.shape[3] - pw : kw] = A
    return full


def windows(A, kernel, stride=(1, 1), padding=(0, 0), upsampling=(1, 1), dtype=EXTENDED):
    """What each output sees: (N, C, Ho, Wo, KH, KW)."""
    seen = sliding_window_view(spread(A, padding, upsampling, dtype), kernel, axis=(2, 3))
    return seen[:, :, :: stride[0], :: stride[1]]


def conv(A, W, b=None, stride=(1, 1), padding=(0, 0), upsampling=(1, 1)):
    seen = windows(A, W.shape[2:], stride, padding, upsampling)
    Z = np.einsum("nchwuv,ocuv->nohw", seen, W.astype(EXTENDED))
    return Z if b is None else Z + b.astype(EXTENDED)[:, None, None]


def conv_weight_gradient(dLdZ, A, kernel, stride=(1, 1), padding=(0, 0), upsampling=(1, 1)):
    seen = windows(A, kernel, stride, padding, upsampling)
    return np.einsum("nohw,nchwuv->ocuv", dLdZ.astype(EXTENDED), seen)


def conv_bias_gradient(dLdZ):
    return dLdZ.astype(EXTENDED).sum(axis=(0, 2, 3))


def conv_input_gradient(dLdZ, A, W, stride=(1, 1), padding=(0, 0), upsampling=(1, 1)):
    """Each dLdZ scattered over the window that its output saw."""
    full = np.zeros_like(spread(A, padding, upsampling))
    (sh, sw), (Ho, Wo), dz = stride, dLdZ.shape[2:], dLdZ.astype(EXTENDED)
    for u, v in np.ndindex(W.shape[2:]):
        target = full[:, :, u : u + sh * (Ho - 1) + 1 : sh, v : v + sw * (Wo - 1) + 1 : sw]
        target += np.einsum("nohw,oc->nchw", dz, W[:, :, u, v].astype(EXTENDED))
    (ph, pw), (kh, kw) = padding, upsampling
    return full[:, :, ph : full.shape[2] - ph : kh, pw : full.shape[3] - pw : kw]


def exact_dot(a, b):
    """The sum of products of float64 vectors, rounded once."""
    one = 2.0**100  # scaling by it is exact, and leaves nothing that matters behind the point
    total = sum(int(x * one) * int(y * one) for x, y in zip(a.tolist(), b.tolist()))
    return float(Fraction(total, 2**200))


# ---- pooling -------------------------------------------------------------------------------------


def pool_windows(A, kernel, stride):
    """(index of the output, slices of A) of every window."""
    N, C, H, W = A.shape
    Ho, Wo = (H - kernel[0]) // stride[0] + 1, (W - kernel[1]) // stride[1] + 1
    for n, c, p, q in np.ndindex(N, C, Ho, Wo):
        top, left = p * stride[0], q * stride[1]
        yield (n, c, p, q), (n, c, slice(top, top + kernel[0]), slice(left, left + kernel[1]))


def pooled(A, kernel, stride):
    return np.zeros(
        (*A.shape[:2], *((n - k) // s + 1 for n, k, s in zip(A.shape[2:], kernel, stride))), EXTENDED
    )


def max_pool(A, kernel, stride):
    """Z, and (row, column) of every maximum: of the first, and of the first NaN if there is one."""
    Z = pooled(A, kernel, stride)
    indices = np.zeros((*Z.shape, 2), np.int64)
    for at, window in pool_windows(A, kernel, stride):
        best = None
        for u, v in np.ndindex(*kernel):
            value = A[window][u, v]
            if best is None or (not math.isnan(best) and (math.isnan(value) or value > best)):
                best = value
                indices[at] = window[2].start + u, window[3].start + v
        Z[at] = best
    return Z, indices


def max_pool_gradient(dLdZ, A, indices):
    dLdA = np.zeros(A.shape, EXTENDED)
    for n, c, p, q in np.ndindex(*dLdZ.shape):
        dLdA[(n, c, *indices[n, c, p, q])] += dLdZ[n, c, p, q]
    return dLdA


def mean_pool(A, kernel, stride):
    Z = pooled(A, kernel, stride)
    for at, window in pool_windows(A, kernel, stride):
        Z[at] = A[window].astype(EXTENDED).sum() / (kernel[0] * kernel[1])
    return Z


def mean_pool_gradient(dLdZ, A, kernel, stride):
    dLdA = np.zeros(A.shape, EXTENDED)
    for at, window in pool_windows(A, kernel, stride):
        dLdA[window] += EXTENDED(dLdZ[at]) / (kernel[0] * kernel[1])
    return dLdA


# ---- batch norm ----------------------------------------------------------------------------------

AXES = (0, 2, 3)


def batch_norm(Z, BW, Bb, eps):
    """BZ, NZ, M, V; the latter two of shape (1, C, 1, 1)."""
    z = Z.astype(EXTENDED)
    M = z.mean(axis=AXES, keepdims=True)
    V = ((z - M) ** 2).mean(axis=AXES, keepdims=True)
    NZ = (z - M) / np.sqrt(V + EXTENDED(eps))
    return BW * NZ + Bb, NZ, M, V


def batch_norm_gradient(dLdBZ, Z, BW, eps):
    """dLdZ, dLdBW, dLdBb by the chain rule through NZ, V and M, step by step."""
    z, dz = Z.astype(EXTENDED), dLdBZ.astype(EXTENDED)
    _, NZ, M, V = batch_norm(Z, BW, np.zeros_like(BW), eps)
    count = z.size // z.shape[1]
    spread_ = V + EXTENDED(eps)
    dLdNZ = dz * BW
    dLdV = -0.5 * (dLdNZ * (z - M) * spread_ ** EXTENDED(-1.5)).sum(axis=AXES, keepdims=True)
    dLdM = -(dLdNZ / np.sqrt(spread_)).sum(axis=AXES, keepdims=True)
    dLdM -= 2 / EXTENDED(count) * dLdV * (z - M).sum(axis=AXES, keepdims=True)
    dLdZ = dLdNZ / np.sqrt(spread_) + dLdV * 2 * (z - M) / count + dLdM / count
    return dLdZ, (dz * NZ).sum(axis=AXES, keepdims=True), dz.sum(axis=AXES, keepdims=True)


# ---- dense, activations, losses ------------------------------------------------------------------


def linear(A, W, b):
    return np.einsum("ni,oi->no", A.astype(EXTENDED), W.astype(EXTENDED)) + b.reshape(-1)


def sigmoid(Z, beta=1):
    return 1 / (1 + np.exp(-EXTENDED(beta) * Z.astype(EXTENDED)))


def tanh(Z):
    return np.tanh(Z.astype(EXTENDED))


def normal_cdf(Z):
    return np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)), otypes=[np.float64])(Z)


def normal_density(Z):
    return np.exp(-(Z.astype(EXTENDED) ** 2) / 2) / EXTENDED(math.sqrt(2 * math.pi))


def softmax(Z):
    e = np.exp(Z.astype(EXTENDED))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy(A, Y):
    return -(Y * np.log(softmax(A))).sum() / A.shape[0]


# ---- gradients -----------------------------------------------------------------------------------


def numeric_gradient(function, x, places, step=1e-4):
    """Central differences of fourth order of a scalar function, which reads x, at places of x."""
    slopes = []
    for place in places:
        kept, values = x[place], {}
        for steps in (-2, -1, 1, 2):
            x[place] = kept + steps * step
            values[steps] = float(function())
        x[place] = kept
        slopes.append((8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * step))
    return np.array(slopes)


def some_places(rng, shape, most):
    """At most so many indices into an array of that shape, spread at random."""
    every = list(np.ndindex(*shape))
    chosen = rng.permutation(len(every))[:most]
    return [every[i] for i in chosen]
