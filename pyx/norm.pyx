"""Batch normalisation of the channels of (N, C, H, W): training forward, backward, eval.

Channels are independent: each is one work item. Statistics are taken in two passes around a shift,
since E[x^2] - E[x]^2 cancels when the mean is large, and are kept in double: a float32 mean of 1e6
would be rounded by up to 1/32. What float32 arithmetic needs of such a mean is passed on as a sum
of two parts (`Centre`).
"""

cimport cython
from cython.parallel cimport prange
from libc.math cimport sqrt

from signals cimport READS_BETWEEN_SIGNALS, PyErr_CheckSignals
from simd cimport LANES, add, horizontal_sum, load, multiply_add, real, splat, store, subtract, vec

cdef enum:
    BLOCK = 1024  # numbers summed in vectors of `real` before they are added to a double


cdef struct Channel:
    Py_ssize_t images, pitch, size  # `images` planes of `size` numbers, `pitch` apart


cdef struct Centre:
    real high, low  # a double as two reals: x - centre is (x - high) - low


cdef inline Centre centre_of(double mean) noexcept nogil:
    cdef Centre centre
    centre.high = <real> mean
    # An infinite or NaN mean is all in `high`: its difference with itself would be NaN.
    centre.low = <real> (mean - centre.high) if mean - mean == 0 else 0
    return centre


# A tracer would have to make a Python object of what this returns.
@cython.profile(False)
@cython.linetrace(False)
cdef inline vec centred(const real* x, Centre centre) noexcept nogil:
    return subtract(subtract(load(x), splat(centre.high)), splat(centre.low))


cdef Py_ssize_t channels_between_signals(Py_ssize_t numbers, Py_ssize_t channels) noexcept nogil:
    return max(<Py_ssize_t> 1, READS_BETWEEN_SIGNALS // max(<Py_ssize_t> 1, numbers // channels))


# ---- sums over one channel -----------------------------------------------------------------------

cdef double sum_of(const Channel* g, const real* x, Centre centre, bint squared) noexcept nogil:
    """Sum of x - centre, or of its square."""
    cdef double total = 0
    cdef Py_ssize_t n, block, last, i
    cdef vec sums, d
    cdef real rest, e
    cdef const real* plane
    for n in range(g.images):
        plane = x + n * g.pitch
        for block in range((g.size + BLOCK - 1) // BLOCK):
            i = block * BLOCK
            last = min(g.size, i + BLOCK)
            sums = splat(0)
            rest = 0
            while i + LANES <= last:
                d = centred(plane + i, centre)
                sums = multiply_add(sums, d, d) if squared else add(sums, d)
                i += LANES
            while i < last:
                e = (plane[i] - centre.high) - centre.low
                rest += e * e if squared else e
                i += 1
            total += horizontal_sum(sums) + rest
    return total


cdef double sum_of_products(const Channel* g, const real* x, Centre centre, const real* y) noexcept nogil:
    """Sum of (x - centre) * y."""
    cdef double total = 0
    cdef Py_ssize_t n, block, last, i
    cdef vec sums
    cdef real rest
    cdef const real* a
    cdef const real* b
    for n in range(g.images):
        a, b = x + n * g.pitch, y + n * g.pitch
        for block in range((g.size + BLOCK - 1) // BLOCK):
            i = block * BLOCK
            last = min(g.size, i + BLOCK)
            sums = splat(0)
            rest = 0
            while i + LANES <= last:
                sums = multiply_add(sums, centred(a + i, centre), load(b + i))
                i += LANES
            while i < last:
                rest += ((a[i] - centre.high) - centre.low) * b[i]
                i += 1
            total += horizontal_sum(sums) + rest
    return total


# ---- forward -------------------------------------------------------------------------------------

def batch_norm(
    const real[:, :, :, ::1] x, const double[::1] scale, const double[::1] shift, double eps,
    double[::1] mean, double[::1] var, real[:, :, :, ::1] out, int threads,
):
    """out = scale * (x - mean) / sqrt(var + eps) + shift with the batch's own mean and variance.

    x (in), out (out) are (N, C, H, W) with at least one element a channel; scale, shift (in), mean
    and the biased variance var (out) are (C,).
    """
    cdef Py_ssize_t C = x.shape[1], c, first, last
    cdef Py_ssize_t step = channels_between_signals(x.shape[0] * C * x.shape[2] * x.shape[3], C)
    cdef Channel g
    g.images, g.size = x.shape[0], x.shape[2] * x.shape[3]
    g.pitch = C * g.size
    for first in range(0, C, step):
        last = min(C, first + step)
        with nogil:
            for c in prange(first, last, schedule="static", num_threads=threads):
                measure(&g, &x[0, c, 0, 0], &mean[c], &var[c])
                normalise(&g, &x[0, c, 0, 0], mean[c], scale[c] / sqrt(var[c] + eps), shift[c],
                          &out[0, c, 0, 0])
        PyErr_CheckSignals()


cdef void measure(const Channel* g, const real* x, double* mean, double* var) noexcept nogil:
    # Differences to the first number are exact, or nearly, where a large mean would swamp a sum.
    cdef double numbers = <double> g.images * g.size
    cdef Centre first = centre_of(x[0])
    mean[0] = x[0] + sum_of(g, x, first, False) / numbers
    var[0] = sum_of(g, x, centre_of(mean[0]), True) / numbers


def batch_norm_eval(
    const real[:, :, :, ::1] x, const double[::1] scale, const double[::1] shift, double eps,
    const double[::1] mean, const double[::1] var, real[:, :, :, ::1] out, int threads,
):
    """out = scale * (x - mean) / sqrt(var + eps) + shift with given statistics (all in but out)."""
    cdef Py_ssize_t C = x.shape[1], c, first, last
    cdef Py_ssize_t step
    cdef Channel g
    if x.shape[0] == 0:
        return
    step = channels_between_signals(x.shape[0] * C * x.shape[2] * x.shape[3], C)
    g.images, g.size = x.shape[0], x.shape[2] * x.shape[3]
    g.pitch = C * g.size
    for first in range(0, C, step):
        last = min(C, first + step)
        with nogil:
            for c in prange(first, last, schedule="static", num_threads=threads):
                normalise(&g, &x[0, c, 0, 0], mean[c], scale[c] / sqrt(var[c] + eps), shift[c],
                          &out[0, c, 0, 0])
        PyErr_CheckSignals()


cdef void normalise(
    const Channel* g, const real* x, double mean, double factor, double shift, real* out,
) noexcept nogil:
    """out = (x - mean) * factor + shift."""
    cdef Centre centre = centre_of(mean)
    cdef real by = <real> factor, plus = <real> shift
    cdef vec bys = splat(by), pluses = splat(plus)
    cdef Py_ssize_t n, i
    for n in range(g.images):
        i = n * g.pitch
        while i + LANES <= n * g.pitch + g.size:
            store(out + i, multiply_add(pluses, centred(x + i, centre), bys))
            i += LANES
        while i < n * g.pitch + g.size:
            out[i] = plus + ((x[i] - centre.high) - centre.low) * by
            i += 1


# ---- backward ------------------------------------------------------------------------------------

def batch_norm_gradient(
    const real[:, :, :, ::1] x, const real[:, :, :, ::1] dz, const double[::1] scale, double eps,
    const double[::1] mean, const double[::1] var,
    real[:, :, :, ::1] dx, double[::1] dscale, double[::1] dshift, int threads,
):
    """Gradients of `batch_norm` (Ioffe and Szegedy 2015, section 3), simplified.

    With n = (x - mean) / sqrt(var + eps), m elements a channel, sums over a channel:
    dshift = sum dz, dscale = sum dz * n,
    dx = scale / sqrt(var + eps) * (dz - dshift / m - n * dscale / m).
    x, dz, scale, mean, var (in); dx, dscale, dshift (out).
    """
    cdef Py_ssize_t C = x.shape[1], c, first, last
    cdef Py_ssize_t step = channels_between_signals(x.shape[0] * C * x.shape[2] * x.shape[3], C)
    cdef Channel g
    g.images, g.size = x.shape[0], x.shape[2] * x.shape[3]
    g.pitch = C * g.size
    for first in range(0, C, step):
        last = min(C, first + step)
        with nogil:
            for c in prange(first, last, schedule="static", num_threads=threads):
                channel_gradient(&g, &x[0, c, 0, 0], &dz[0, c, 0, 0], scale[c], mean[c],
                                 1 / sqrt(var[c] + eps), &dx[0, c, 0, 0], &dscale[c], &dshift[c])
        PyErr_CheckSignals()


cdef void channel_gradient(
    const Channel* g, const real* x, const real* dz, double scale, double mean, double inverse,
    real* dx, double* dscale, double* dshift,
) noexcept nogil:
    cdef Centre centre = centre_of(mean), zero = centre_of(0)
    cdef double numbers = <double> g.images * g.size
    dshift[0] = sum_of(g, dz, zero, False)
    dscale[0] = sum_of_products(g, x, centre, dz) * inverse
    # dx = by * dz + slope * (x - mean) + plus
    cdef real by = <real> (scale * inverse)
    cdef real slope = <real> (-scale * inverse * inverse * dscale[0] / numbers)
    cdef real plus = <real> (-scale * inverse * dshift[0] / numbers)
    cdef vec bys = splat(by), slopes = splat(slope), pluses = splat(plus)
    cdef Py_ssize_t n, i
    for n in range(g.images):
        i = n * g.pitch
        while i + LANES <= n * g.pitch + g.size:
            store(dx + i, multiply_add(multiply_add(pluses, slopes, centred(x + i, centre)),
                                       bys, load(dz + i)))
            i += LANES
        while i < n * g.pitch + g.size:
            dx[i] = plus + slope * ((x[i] - centre.high) - centre.low) + by * dz[i]
            i += 1
