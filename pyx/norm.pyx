"""Batch normalisation of the channels of (N, C, H, W): training forward, backward, eval.

Channels are independent: each is one work item, and small enough to stay in a cache from the sums
to the result. Sums are taken around a shift, since E[x^2] - E[x]^2 cancels when the mean is large,
and are kept in double: a float32 mean of 1e6 would be rounded by up to 1/32. What float32
arithmetic needs of such a mean is passed on as a sum of two parts (`Centre`).
"""

cimport cython
from cython.parallel cimport prange
from libc.math cimport sqrt

from buffers cimport Image, image_of, start_of
from signals cimport READS_BETWEEN_SIGNALS, PyErr_CheckSignals
from simd cimport LANES, add, horizontal_sum, load, multiply_add, real, splat, store, subtract, vec

cdef enum:
    BLOCK = 1024  # numbers summed in vectors of `real` before they are added to a double


cdef struct Channel:
    Py_ssize_t images, pitch, size  # `images` planes of `size` numbers, `pitch` apart


cdef Channel channel_of(const Image* image) noexcept nogil:
    cdef Channel g
    g.images, g.size = image.N, image.H * image.W
    g.pitch = image.C * g.size
    return g


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

cdef enum:
    AHEAD = 4  # vectors in flight: each of the sums in one register waits for the sum before


cdef inline void sums_of(
    const bint gradient, const Channel* g, const real* x, const real* y, Centre centre,
    double* first, double* second,
) noexcept nogil:
    """With d = x - centre: the sums of d and of d^2, or, for the gradient, of y and of d * y."""
    cdef Py_ssize_t n, block, last, i
    cdef vec sums[AHEAD]
    cdef vec products[AHEAD]
    cdef vec d, by
    cdef real rest, rest_products, e
    cdef const real* a
    cdef const real* b
    cdef int k
    first[0] = second[0] = 0
    for n in range(g.images):
        a, b = x + n * g.pitch, y + n * g.pitch
        for block in range((g.size + BLOCK - 1) // BLOCK):
            i = block * BLOCK
            last = min(g.size, i + BLOCK)
            for k in range(AHEAD):
                sums[k] = products[k] = splat(0)
            while i + AHEAD * LANES <= last:
                for k in range(AHEAD):
                    d = centred(a + i + k * LANES, centre)
                    by = load(b + i + k * LANES) if gradient else d
                    sums[k] = add(sums[k], by)
                    products[k] = multiply_add(products[k], d, by)
                i += AHEAD * LANES
            while i + LANES <= last:
                d = centred(a + i, centre)
                by = load(b + i) if gradient else d
                sums[0] = add(sums[0], by)
                products[0] = multiply_add(products[0], d, by)
                i += LANES
            rest = rest_products = 0
            while i < last:
                e = (a[i] - centre.high) - centre.low
                rest += b[i] if gradient else e
                rest_products += e * (b[i] if gradient else e)
                i += 1
            for k in range(1, AHEAD):
                sums[0], products[0] = add(sums[0], sums[k]), add(products[0], products[k])
            first[0] += <double> horizontal_sum(sums[0]) + rest
            second[0] += <double> horizontal_sum(products[0]) + rest_products


# ---- forward -------------------------------------------------------------------------------------

def batch_norm(x, scale, shift, double eps, mean, var, out, int threads):
    """out = scale * (x - mean) / sqrt(var + eps) + shift with the batch's own mean and variance.

    x (in), out (out) are (N, C, H, W) with at least one element a channel; scale, shift (in), mean
    and the biased variance var (out) are (C,).
    """
    cdef Image image = image_of(x)
    cdef const real* numbers = <const real*> image.start
    cdef const double* scales = <const double*> start_of(scale)
    cdef const double* shifts = <const double*> start_of(shift)
    cdef double* means = <double*> start_of(mean)
    cdef double* vars = <double*> start_of(var)
    cdef real* results = <real*> start_of(out)
    cdef Channel g = channel_of(&image)
    cdef Py_ssize_t C = image.C, c, first, last
    cdef Py_ssize_t step = channels_between_signals(C * g.images * g.size, C)
    for first in range(0, C, step):
        last = min(C, first + step)
        with nogil:
            for c in prange(first, last, schedule="static", num_threads=threads):
                measure(&g, numbers + c * g.size, &means[c], &vars[c])
                normalise(&g, numbers + c * g.size, means[c], scales[c] / sqrt(vars[c] + eps), shifts[c],
                          results + c * g.size)
        PyErr_CheckSignals()


cdef void measure(const Channel* g, const real* x, double* mean, double* var) noexcept nogil:
    """One pass around a guess at the mean, the first number; another if it was a bad one."""
    cdef double numbers = <double> g.images * g.size, off, squares
    sums_of(False, g, x, x, centre_of(x[0]), &off, &squares)
    off /= numbers
    mean[0] = x[0] + off
    var[0] = squares / numbers - off * off
    # The difference loses the bits that off^2 has above var: one at most is allowed.
    if not off * off <= var[0]:
        sums_of(False, g, x, x, centre_of(mean[0]), &off, &squares)
        off /= numbers
        var[0] = squares / numbers - off * off


def batch_norm_eval(x, scale, shift, double eps, mean, var, out, int threads):
    """out = scale * (x - mean) / sqrt(var + eps) + shift with given statistics (all in but out)."""
    cdef Image image = image_of(x)
    cdef const real* numbers = <const real*> image.start
    cdef const double* scales = <const double*> start_of(scale)
    cdef const double* shifts = <const double*> start_of(shift)
    cdef const double* means = <const double*> start_of(mean)
    cdef const double* vars = <const double*> start_of(var)
    cdef real* results = <real*> start_of(out)
    cdef Channel g = channel_of(&image)
    cdef Py_ssize_t C = image.C, planes = image.N * C, plane, c, first, last
    cdef Py_ssize_t step = channels_between_signals(planes * g.size, max(<Py_ssize_t> 1, planes))
    g.images = 1  # an item is a plane: this order is that of memory
    for first in range(0, planes, step):
        last = min(planes, first + step)
        with nogil:
            for plane in prange(first, last, schedule="static", num_threads=threads):
                c = plane % C
                normalise(&g, numbers + plane * g.size, means[c], scales[c] / sqrt(vars[c] + eps),
                          shifts[c], results + plane * g.size)
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

def batch_norm_gradient(x, dz, scale, double eps, mean, var, dx, dscale, dshift, int threads):
    """Gradients of `batch_norm` (Ioffe and Szegedy 2015, section 3), simplified.

    With n = (x - mean) / sqrt(var + eps), m elements a channel, sums over a channel:
    dshift = sum dz, dscale = sum dz * n,
    dx = scale / sqrt(var + eps) * (dz - dshift / m - n * dscale / m).
    x, dz, scale, mean, var (in); dx, dscale, dshift (out).
    """
    cdef Image image = image_of(x)
    cdef const real* numbers = <const real*> image.start
    cdef const real* gradients = <const real*> start_of(dz)
    cdef const double* scales = <const double*> start_of(scale)
    cdef const double* means = <const double*> start_of(mean)
    cdef const double* vars = <const double*> start_of(var)
    cdef real* results = <real*> start_of(dx)
    cdef double* dscales = <double*> start_of(dscale)
    cdef double* dshifts = <double*> start_of(dshift)
    cdef Channel g = channel_of(&image)
    cdef Py_ssize_t C = image.C, c, first, last
    cdef Py_ssize_t step = channels_between_signals(C * g.images * g.size, C)
    for first in range(0, C, step):
        last = min(C, first + step)
        with nogil:
            for c in prange(first, last, schedule="static", num_threads=threads):
                channel_gradient(&g, numbers + c * g.size, gradients + c * g.size, scales[c], means[c],
                                 1 / sqrt(vars[c] + eps), results + c * g.size, &dscales[c], &dshifts[c])
        PyErr_CheckSignals()


cdef void channel_gradient(
    const Channel* g, const real* x, const real* dz, double scale, double mean, double inverse,
    real* dx, double* dscale, double* dshift,
) noexcept nogil:
    cdef Centre centre = centre_of(mean)
    cdef double numbers = <double> g.images * g.size
    sums_of(True, g, x, dz, centre, dshift, dscale)
    dscale[0] *= inverse
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
