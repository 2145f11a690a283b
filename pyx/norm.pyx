"""Batch normalisation of the channels of (N, C, H, W): training forward, backward, eval; scaled planes.

Channels are independent: each is part of one work item, and small enough to stay in a cache from the sums
to the result. Sums are taken around a shift, since E[x^2] - E[x]^2 cancels when the mean is large,
and are kept in double: a float32 mean of 1e6 would be rounded by up to 1/32. What float32
arithmetic needs of such a mean is passed on as a sum of two parts (`Centre`).
"""

cimport cython
from libc.math cimport sqrt

from buffers cimport Batch, batch_of, start_of
from parallel cimport Item, run_items
from simd cimport LANES, add, horizontal_sum, load, multiply_add, real, splat, store, subtract, vec

cdef enum:
    BLOCK = 1024  # numbers summed in vectors of `real` before they are added to a double
    # At least: with 2^12, 0.3 us of work, fetching items ate a third of what a second thread saves.
    NUMBERS_AN_ITEM = 1 << 14


cdef struct Channel:
    Py_ssize_t images, pitch, size  # `images` planes of `size` numbers, `pitch` apart


# What the arguments of the functions below are, as pointers.
cdef struct Problem:
    Channel g
    Py_ssize_t C, count, at_once  # channels or planes, and how many of them an item is
    double eps
    const real* x
    const real* dz
    const real* factors
    real* out
    const double* scale
    const double* shift
    double* mean
    double* var
    double* dscale
    double* dshift


cdef Problem problem_of(x, out) except *:
    cdef Problem p
    cdef Batch image = batch_of(x)
    p.x, p.out, p.C = <const real*> image.start, <real*> start_of(out), image.C
    p.g.images, p.g.size = image.N, image.H * image.W
    p.g.pitch = image.C * p.g.size
    return p


cdef int run(Problem* p, Item work, Py_ssize_t count, Py_ssize_t size, int threads) except -1:
    """Run `work` over so many channels or planes of so many numbers."""
    p.count = count
    p.at_once = max(<Py_ssize_t> 1, NUMBERS_AN_ITEM // max(<Py_ssize_t> 1, size))
    # A number takes as long as four multiply-adds.
    run_items(work, p, (count - 1) // p.at_once + 1, 4.0 * count * size, 0, threads)
    return 0


cdef inline Py_ssize_t last_of(const Problem* p, Py_ssize_t item) noexcept nogil:
    return min(p.count, (item + 1) * p.at_once)


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


# ---- sums over one channel -----------------------------------------------------------------------

cdef enum:
    AHEAD = 4  # vectors in flight: each of the sums in one register waits for the sum before


cdef struct Sums:
    vec of_first[AHEAD]
    vec of_second[AHEAD]
    real first, second  # of what fills no vector
    Py_ssize_t numbers


cdef inline void clear(Sums* sums) noexcept nogil:
    cdef int k
    for k in range(AHEAD):
        sums.of_first[k] = sums.of_second[k] = splat(0)
    sums.first = sums.second = 0
    sums.numbers = 0


cdef inline void sums_of(
    const bint gradient, const Channel* g, const real* x, const real* y, Centre centre,
    double* first, double* second,
) noexcept nogil:
    """With d = x - centre: the sums of d and of d^2, or, for the gradient, of y and of d * y."""
    cdef Py_ssize_t n, block, last, i
    cdef Sums sums
    cdef vec d, by
    cdef real e
    cdef const real* a
    cdef const real* b
    cdef int k
    first[0] = second[0] = 0
    clear(&sums)
    for n in range(g.images):
        a, b = x + n * g.pitch, y + n * g.pitch
        for block in range((g.size + BLOCK - 1) // BLOCK):
            i = block * BLOCK
            last = min(g.size, i + BLOCK)
            if sums.numbers + last - i > BLOCK:
                add_up(&sums, first, second)
            sums.numbers += last - i
            while i + AHEAD * LANES <= last:
                for k in range(AHEAD):
                    d = centred(a + i + k * LANES, centre)
                    by = load(b + i + k * LANES) if gradient else d
                    sums.of_first[k] = add(sums.of_first[k], by)
                    sums.of_second[k] = multiply_add(sums.of_second[k], d, by)
                i += AHEAD * LANES
            while i + LANES <= last:
                d = centred(a + i, centre)
                by = load(b + i) if gradient else d
                sums.of_first[0] = add(sums.of_first[0], by)
                sums.of_second[0] = multiply_add(sums.of_second[0], d, by)
                i += LANES
            while i < last:
                e = (a[i] - centre.high) - centre.low
                sums.first += b[i] if gradient else e
                sums.second += e * (b[i] if gradient else e)
                i += 1
    add_up(&sums, first, second)


cdef inline void add_up(Sums* sums, double* first, double* second) noexcept nogil:
    cdef int k
    for k in range(1, AHEAD):
        sums.of_first[0] = add(sums.of_first[0], sums.of_first[k])
        sums.of_second[0] = add(sums.of_second[0], sums.of_second[k])
    first[0] += <double> horizontal_sum(sums.of_first[0]) + sums.first
    second[0] += <double> horizontal_sum(sums.of_second[0]) + sums.second
    clear(sums)


# ---- forward -------------------------------------------------------------------------------------

def batch_norm(x, scale, shift, double eps, mean, var, out, int threads):
    """out = scale * (x - mean) / sqrt(var + eps) + shift with the batch's own mean and variance.

    x (in), out (out) are (N, C, H, W) with at least one element a channel; scale, shift (in), mean
    and the biased variance var (out) are (C,).
    """
    cdef Problem p = problem_of(x, out)
    p.scale, p.shift = <const double*> start_of(scale), <const double*> start_of(shift)
    p.mean, p.var, p.eps = <double*> start_of(mean), <double*> start_of(var), eps
    run(&p, channels_item, p.C, p.g.images * p.g.size, threads)


cdef int channels_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t c
    for c in range(item * p.at_once, last_of(p, item)):
        measure(&p.g, p.x + c * p.g.size, &p.mean[c], &p.var[c])
        normalise(&p.g, p.x + c * p.g.size, p.mean[c], p.scale[c] / sqrt(p.var[c] + p.eps), p.shift[c],
                  p.out + c * p.g.size)
    return 0


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
    cdef Problem p = problem_of(x, out)
    p.scale, p.shift = <const double*> start_of(scale), <const double*> start_of(shift)
    p.mean, p.var, p.eps = <double*> start_of(mean), <double*> start_of(var), eps
    cdef Py_ssize_t planes = p.g.images * p.C
    p.g.images = 1  # a plane at a time: this order is that of memory
    run(&p, planes_item, planes, p.g.size, threads)


cdef int planes_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t plane, c = item * p.at_once % p.C
    for plane in range(item * p.at_once, last_of(p, item)):
        normalise(&p.g, p.x + plane * p.g.size, p.mean[c], p.scale[c] / sqrt(p.var[c] + p.eps), p.shift[c],
                  p.out + plane * p.g.size)
        c = c + 1 if c + 1 < p.C else 0
    return 0


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
    cdef Problem p = problem_of(x, dx)
    p.dz, p.scale = <const real*> start_of(dz), <const double*> start_of(scale)
    p.mean, p.var, p.eps = <double*> start_of(mean), <double*> start_of(var), eps
    p.dscale, p.dshift = <double*> start_of(dscale), <double*> start_of(dshift)
    run(&p, gradients_item, p.C, p.g.images * p.g.size, threads)


cdef int gradients_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t c
    for c in range(item * p.at_once, last_of(p, item)):
        channel_gradient(&p.g, p.x + c * p.g.size, p.dz + c * p.g.size, p.scale[c], p.mean[c],
                         1 / sqrt(p.var[c] + p.eps), p.out + c * p.g.size, &p.dscale[c], &p.dshift[c])
    return 0


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


# ---- planes --------------------------------------------------------------------------------------

def scale_planes(x, factors, out, int threads):
    """out[n,c] = x[n,c] * factors[n,c].

    x (in), out (out) are (N, C, H, W), factors (in) has N * C numbers.
    """
    cdef Problem p = problem_of(x, out)
    p.factors = <const real*> start_of(factors)
    run(&p, scaled_item, p.g.images * p.C, p.g.size, threads)


cdef int scaled_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t plane, i = item * p.at_once * p.g.size
    cdef vec by
    for plane in range(item * p.at_once, last_of(p, item)):
        by = splat(p.factors[plane])
        while i + LANES <= (plane + 1) * p.g.size:
            store(p.out + i, load(p.x + i) * by)
            i += LANES
        while i < (plane + 1) * p.g.size:
            p.out[i] = p.x[i] * p.factors[plane]
            i += 1
    return 0
