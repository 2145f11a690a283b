"""Max and mean pooling, forward and backward, of any window and stride.

Planes (one channel of one image) are independent: each is one work item. Rows are computed in
strips short enough to stay in registers and the first-level cache, by loops that the compiler
vectorises; strides 1 and 2 get copies of those loops in which the stride is constant.
"""

from cython.parallel cimport prange, threadid
from libc.stdint cimport uint8_t
from libc.stdlib cimport free
from libc.string cimport memset

from scratch cimport allocate, piece_of
from signals cimport READS_BETWEEN_SIGNALS, PyErr_CheckSignals
from simd cimport lane_int, real

ctypedef fused place_t:  # how the argmax is kept: the position in the window
    uint8_t
    Py_ssize_t

cdef enum:
    STRIP = 64


cdef struct Window:
    Py_ssize_t H, W, P, Q, kh, kw, sh, sw
    Py_ssize_t planes, rows


cdef Window window_of(
    const real[:, :, :, :] image, const real[:, :, :, :] pooled, tuple kernel, tuple stride, int threads,
):
    cdef Window g
    g.H, g.W, g.P, g.Q = image.shape[2], image.shape[3], pooled.shape[2], pooled.shape[3]
    g.kh, g.kw = kernel
    g.sh, g.sw = stride
    cut(&g, threads)
    return g


cdef void cut(Window* g, int threads) noexcept nogil:
    """Choose how many planes, and rows of each, to compute between looks at pending signals."""
    cdef double row = <double> g.W * g.sh + <double> g.Q * g.kh * g.kw
    g.planes = <Py_ssize_t> max(<double> threads, READS_BETWEEN_SIGNALS / (row * g.P))
    g.rows = <Py_ssize_t> max(1.0, min(<double> g.P, READS_BETWEEN_SIGNALS / (row * g.planes)))


# ---- max -----------------------------------------------------------------------------------------

def max_pool(
    const real[:, :, :, ::1] x, real[:, :, :, ::1] out, places, tuple kernel, tuple stride, int threads,
):
    """out[n,c,p,q] = maximum of the window of x at (p, q) * stride; places = its argmax.

    x (in) is (N, C, H, W), out (out) (N, C, P, Q), places (out) of the same shape: the position in
    the window, row-major, as uint8 if the window has at most 256 elements, else as intp. Ties and
    NaN go to the first; a window with a NaN gives NaN.
    """
    cdef Window g = window_of(x, out, kernel, stride, threads)
    cdef Py_ssize_t planes = x.shape[0] * x.shape[1], plane, first, last, row, end
    cdef uint8_t[:, :, :, ::1] narrow = None
    cdef Py_ssize_t[:, :, :, ::1] wide = None
    if planes == 0:
        return
    if g.kh * g.kw <= 256:
        narrow = places
    else:
        wide = places
    for first in range(0, planes, g.planes):
        last = min(planes, first + g.planes)
        for row in range(0, g.P, g.rows):
            end = min(g.P, row + g.rows)
            with nogil:
                for plane in prange(first, last, schedule="static", num_threads=threads):
                    if g.kh * g.kw <= 256:
                        max_plane(&g, row, end, &x[0, 0, 0, 0] + plane * g.H * g.W,
                                  &out[0, 0, 0, 0] + plane * g.P * g.Q,
                                  &narrow[0, 0, 0, 0] + plane * g.P * g.Q)
                    else:
                        max_plane(&g, row, end, &x[0, 0, 0, 0] + plane * g.H * g.W,
                                  &out[0, 0, 0, 0] + plane * g.P * g.Q,
                                  &wide[0, 0, 0, 0] + plane * g.P * g.Q)
            PyErr_CheckSignals()


cdef void max_plane(
    const Window* g, Py_ssize_t first, Py_ssize_t last, const real* x, real* out, place_t* places,
) noexcept nogil:
    """Rows first to last of one plane's result."""
    cdef Py_ssize_t p, strip, q, count
    for p in range(first, last):
        for strip in range((g.Q + STRIP - 1) // STRIP):
            q = strip * STRIP
            count = min(<Py_ssize_t> STRIP, g.Q - q)
            if g.sw == 1:
                max_strip(g, x + p * g.sh * g.W + q, 1, count, out + p * g.Q + q, places + p * g.Q + q)
            elif g.sw == 2:
                max_strip(g, x + p * g.sh * g.W + q * 2, 2, count, out + p * g.Q + q, places + p * g.Q + q)
            else:
                max_strip(g, x + p * g.sh * g.W + q * g.sw, g.sw, count,
                          out + p * g.Q + q, places + p * g.Q + q)


cdef inline void max_strip(
    const Window* g, const real* x, const Py_ssize_t step, Py_ssize_t count, real* out, place_t* places,
) noexcept nogil:
    cdef real best[STRIP]
    cdef lane_int place[STRIP]
    cdef const real* line
    cdef lane_int tap = 0
    cdef Py_ssize_t u, v, q
    cdef bint wins
    for q in range(count):
        best[q] = x[q * step]
        place[q] = 0
    for u in range(g.kh):
        for v in range(g.kw):
            line = x + u * g.W + v
            for q in range(count):
                # True as well for a NaN that meets a number, and never for a NaN that is there.
                wins = (not line[q * step] <= best[q]) & (best[q] == best[q])
                place[q] = tap if wins else place[q]
                best[q] = line[q * step] if wins else best[q]
            tap += 1
    for q in range(count):
        out[q] = best[q]
        places[q] = <place_t> place[q]


def max_pool_gradient(
    const real[:, :, :, ::1] dz, places, real[:, :, :, ::1] dx, tuple kernel, tuple stride, int threads,
):
    """dx = dz added at each window's argmax: the gradient of `max_pool`.

    dz (in) and places (in) have the shape of its out, dx (out) of its x. Every place must lie in
    the window (functional/pool.py sees to that).
    """
    cdef Window g = window_of(dx, dz, kernel, stride, threads)
    cdef Py_ssize_t planes = dx.shape[0] * dx.shape[1], plane, first, last, row, end
    cdef const uint8_t[:, :, :, ::1] narrow = None
    cdef const Py_ssize_t[:, :, :, ::1] wide = None
    if planes == 0:
        return
    if g.kh * g.kw <= 256:
        narrow = places
    else:
        wide = places
    for first in range(0, planes, g.planes):
        last = min(planes, first + g.planes)
        for row in range(0, g.P, g.rows):
            end = min(g.P, row + g.rows)
            with nogil:
                for plane in prange(first, last, schedule="static", num_threads=threads):
                    if g.kh * g.kw <= 256:
                        max_gradient_plane(&g, row, end, &dz[0, 0, 0, 0] + plane * g.P * g.Q,
                                           <uint8_t*> &narrow[0, 0, 0, 0] + plane * g.P * g.Q,
                                           &dx[0, 0, 0, 0] + plane * g.H * g.W)
                    else:
                        max_gradient_plane(&g, row, end, &dz[0, 0, 0, 0] + plane * g.P * g.Q,
                                           <Py_ssize_t*> &wide[0, 0, 0, 0] + plane * g.P * g.Q,
                                           &dx[0, 0, 0, 0] + plane * g.H * g.W)
            PyErr_CheckSignals()


cdef void max_gradient_plane(
    const Window* g, Py_ssize_t first, Py_ssize_t last, const real* dz, place_t* places, real* dx,
) noexcept nogil:
    """What rows first to last of one plane of dz add to dx."""
    cdef Py_ssize_t offsets[256]
    cdef Py_ssize_t u, v, p, q, tap, at
    if first == 0:
        memset(dx, 0, g.H * g.W * sizeof(real))
    if place_t is uint8_t:
        for u in range(g.kh):
            for v in range(g.kw):
                offsets[u * g.kw + v] = u * g.W + v
    for p in range(first, last):
        for q in range(g.Q):
            tap = places[p * g.Q + q]
            at = p * g.sh * g.W + q * g.sw
            if place_t is uint8_t:
                at += offsets[tap]
            else:
                at += tap // g.kw * g.W + tap % g.kw
            dx[at] += dz[p * g.Q + q]


# ---- mean ----------------------------------------------------------------------------------------
# A window's sum is separable: columns first, then rows, kh + kw additions instead of kh * kw. Each
# window is summed anew, not slid along: a sliding sum would drag an infinity or NaN, and rounding
# errors, on to windows that never saw them.

def mean_pool(
    const real[:, :, :, ::1] x, real[:, :, :, ::1] out, tuple kernel, tuple stride, int threads,
):
    """out[n,c,p,q] = mean of the window of x at (p, q) * stride. x (in), out (out) as in `max_pool`."""
    cdef Window g = window_of(x, out, kernel, stride, threads)
    cdef Py_ssize_t planes = x.shape[0] * x.shape[1], plane, first, last, row, end
    cdef Py_ssize_t size = g.W * <Py_ssize_t> sizeof(real)
    if planes == 0:
        return
    cdef char* scratch = allocate(threads, size)
    try:
        for first in range(0, planes, g.planes):
            last = min(planes, first + g.planes)
            for row in range(0, g.P, g.rows):
                end = min(g.P, row + g.rows)
                with nogil:
                    for plane in prange(first, last, schedule="static", num_threads=threads):
                        mean_plane(&g, row, end, &x[0, 0, 0, 0] + plane * g.H * g.W,
                                   &out[0, 0, 0, 0] + plane * g.P * g.Q,
                                   <real*> piece_of(scratch, size, threadid()))
                PyErr_CheckSignals()
    finally:
        free(scratch)


cdef void mean_plane(
    const Window* g, Py_ssize_t first, Py_ssize_t last, const real* x, real* out, real* sums,
) noexcept nogil:
    cdef Py_ssize_t p
    for p in range(first, last):
        sum_rows(x + p * g.sh * g.W, g.W, g.kh, sums)
        if g.sw == 1:
            mean_row(g, sums, 1, out + p * g.Q)
        elif g.sw == 2:
            mean_row(g, sums, 2, out + p * g.Q)
        else:
            mean_row(g, sums, g.sw, out + p * g.Q)


cdef inline void sum_rows(const real* x, Py_ssize_t W, Py_ssize_t count, real* sums) noexcept nogil:
    cdef Py_ssize_t u, w
    for w in range(W):
        sums[w] = x[w]
    for u in range(1, count):
        for w in range(W):
            sums[w] += x[u * W + w]


cdef inline void mean_row(const Window* g, const real* sums, const Py_ssize_t step, real* out) noexcept nogil:
    cdef Py_ssize_t v, q
    cdef real size = <real> (g.kh * g.kw)
    for q in range(g.Q):
        out[q] = sums[q * step]
    for v in range(1, g.kw):
        for q in range(g.Q):
            out[q] += sums[q * step + v]
    for q in range(g.Q):
        out[q] /= size


def mean_pool_gradient(
    const real[:, :, :, ::1] dz, real[:, :, :, ::1] dx, tuple kernel, tuple stride, int threads,
):
    """dx = dz / (kh * kw) added to every element of its window: the gradient of `mean_pool`."""
    cdef Window g = window_of(dx, dz, kernel, stride, threads)
    cdef Py_ssize_t planes = dx.shape[0] * dx.shape[1], plane, first, last, row, end
    cdef Py_ssize_t size = g.W * <Py_ssize_t> sizeof(real)
    if planes == 0:
        return
    cdef char* scratch = allocate(threads, size)
    try:
        for first in range(0, planes, g.planes):
            last = min(planes, first + g.planes)
            for row in range(0, g.P, g.rows):
                end = min(g.P, row + g.rows)
                with nogil:
                    for plane in prange(first, last, schedule="static", num_threads=threads):
                        mean_gradient_plane(&g, row, end, &dz[0, 0, 0, 0] + plane * g.P * g.Q,
                                            &dx[0, 0, 0, 0] + plane * g.H * g.W,
                                            <real*> piece_of(scratch, size, threadid()))
                PyErr_CheckSignals()
    finally:
        free(scratch)


cdef void mean_gradient_plane(
    const Window* g, Py_ssize_t first, Py_ssize_t last, const real* dz, real* dx, real* spread,
) noexcept nogil:
    cdef Py_ssize_t p, u, w
    if first == 0:
        memset(dx, 0, g.H * g.W * sizeof(real))
    for p in range(first, last):
        if g.sw == 1:
            spread_row(g, dz + p * g.Q, 1, spread)
        elif g.sw == 2:
            spread_row(g, dz + p * g.Q, 2, spread)
        else:
            spread_row(g, dz + p * g.Q, g.sw, spread)
        for u in range(g.kh):
            for w in range(g.W):
                dx[(p * g.sh + u) * g.W + w] += spread[w]


cdef inline void spread_row(
    const Window* g, const real* dz, const Py_ssize_t step, real* spread,
) noexcept nogil:
    cdef Py_ssize_t v, q
    cdef real size = <real> (g.kh * g.kw)
    memset(spread, 0, g.W * sizeof(real))
    for v in range(g.kw):
        for q in range(g.Q):
            spread[q * step + v] += dz[q] / size
