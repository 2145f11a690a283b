"""Max and mean pooling, forward and backward, of any window and stride.

A work item is a strip of columns of a block of rows of one plane of the result. Windows are
separable: each row of x is reduced along its length once, then rows to windows, so that a
stride of 1 costs kh + kw steps a number and not kh * kw. Vectors run over the end of a row where
there is memory to read, or the next row of the result to overwrite: no loop for the last few.
"""

from cython.parallel cimport prange, threadid
from libc.stdint cimport uint8_t
from libc.stdlib cimport free

from buffers cimport Image, image_of, start_of
from scratch cimport allocate, piece_of
from signals cimport PyErr_CheckSignals
from simd cimport (
    LANES, above, above_or_nan, add, add_lanes, choose, choose_lanes, first_lanes, high,
    horizontal_sum, lane_int, lane_ints, load, load_lanes, load_strided, low, multiply_add,
    real, splat, splat_lane, store, store_bytes, store_lanes, vec, where,
)

cdef enum:
    STRIP = 256  # columns: the rows of a strip stay in the first-level cache
    GROUP = 4  # vectors in flight: a step of one waits for the step before
    NUMBERS_AN_ITEM = 1 << 17  # some 50 us of work, ten times what starting a thread takes
    STEPS_AN_ITEM = 1 << 30  # a quarter of a second, in vectors: the time between looks at signals
    MEAN, MAX, MAX_OR_NAN


cdef struct Window:
    Py_ssize_t H, W, P, Q, kh, kw, sh, sw
    Py_ssize_t rows, blocks  # rows of the result an item, and such blocks a plane
    Py_ssize_t strip, strips  # columns an item, and such strips a row
    Py_ssize_t pitch  # numbers from row to row of the scratch
    bint wide  # windows of more than 256 elements: places are Py_ssize_t, not bytes
    const real* end  # of the source
    Py_ssize_t offsets[256]  # from the first element of a window to each, in the image


# Rows first to last, columns from j on, of one plane of the result; `places` is that plane's.
ctypedef void (*Item)(
    const Window* g, Py_ssize_t first, Py_ssize_t last, Py_ssize_t j, const real* source, real* target,
    void* places, real* scratch,
) noexcept nogil


cdef Window window_of(const Image* image, const Image* pooled, tuple kernel, tuple stride):
    cdef Window g
    g.H, g.W, g.P, g.Q = image.H, image.W, pooled.H, pooled.W
    g.kh, g.kw = kernel
    g.sh, g.sw = stride
    g.wide = g.kh * g.kw > 256
    return g


cdef Py_ssize_t round_to_vectors(Py_ssize_t numbers) noexcept nogil:
    return (numbers + LANES - 1) // LANES * LANES


cdef int run(
    Window* g, Item item, Py_ssize_t planes, const real* source, Py_ssize_t source_plane,
    real* target, Py_ssize_t rows, Py_ssize_t columns, char* places, Py_ssize_t scratch_size, int threads,
) except -1:
    """Run `item` over planes of a result of so many rows and columns."""
    cdef Py_ssize_t item_number, block, plane, first, last, items, at_once
    cdef Py_ssize_t size = scratch_size * <Py_ssize_t> sizeof(real)
    cdef Py_ssize_t place_plane = g.P * g.Q * (<Py_ssize_t> sizeof(Py_ssize_t) if g.wide else 1)
    # Steps for the rows that a window has and its neighbour above has not, and for the first window.
    cdef double row = <double> g.strip * (g.sh * g.kw + g.kh), start = <double> g.strip * g.kh * g.kw
    if planes == 0:
        return 0
    g.rows = max(8 * g.kh, <Py_ssize_t> (NUMBERS_AN_ITEM / columns))
    g.rows = min(g.rows, <Py_ssize_t> max(<double> g.kh, (STEPS_AN_ITEM - start) / row))
    g.rows = max(<Py_ssize_t> 1, min(rows, g.rows))
    g.blocks = (rows + g.rows - 1) // g.rows
    g.end = source + planes * source_plane
    items = planes * g.blocks * g.strips
    at_once = max(<Py_ssize_t> threads, <Py_ssize_t> (STEPS_AN_ITEM / (row * g.rows + start)))
    cdef char* scratch = allocate(threads, size)
    try:
        for first in range(0, items, at_once):
            last = min(items, first + at_once)
            with nogil:
                for item_number in prange(first, last, schedule="static", num_threads=threads):
                    block = item_number // g.strips
                    plane = block // g.blocks
                    item(g, (block - plane * g.blocks) * g.rows,
                         min(rows, (block - plane * g.blocks + 1) * g.rows),
                         (item_number - block * g.strips) * g.strip,
                         source + plane * source_plane, target + plane * rows * columns,
                         places + plane * place_plane, <real*> piece_of(scratch, size, threadid()))
            PyErr_CheckSignals()
    finally:
        free(scratch)
    return 0


cdef inline void store_some(real* target, vec value, Py_ssize_t count) noexcept nogil:
    """The first `count` lanes, or all."""
    cdef real lanes[16]
    cdef Py_ssize_t lane
    if count >= LANES:
        store(target, value)
        return
    store(lanes, value)
    for lane in range(count):
        target[lane] = lanes[lane]


# ---- forward -------------------------------------------------------------------------------------
# A window's maximum is the first maximum of each row, then the first of those that no other exceeds:
# the first in row-major order. Its sum is summed anew, not slid along: a sliding sum would drag an
# infinity or NaN, and rounding errors, on to windows that never saw them.

def max_pool(x, out, places, tuple kernel, tuple stride, int threads):
    """out[n,c,p,q] = maximum of the window of x at (p, q) * stride; places = its argmax.

    x (in) is (N, C, H, W), out (out) (N, C, P, Q), places (out) of the same shape: the position in
    the window, row-major, as uint8 if the window has at most 256 elements, else as intp. Ties and
    NaN go to the first; a window with a NaN gives NaN.
    """
    pool(max_rows, image_of(x), image_of(out), start_of(places), kernel, stride, threads)


def mean_pool(x, out, tuple kernel, tuple stride, int threads):
    """out[n,c,p,q] = mean of the window of x at (p, q) * stride. x (in), out (out) as in `max_pool`."""
    pool(mean_rows, image_of(x), image_of(out), NULL, kernel, stride, threads)


cdef int pool(
    Item item, Image x, Image out, char* places, tuple kernel, tuple stride, int threads,
) except -1:
    cdef Window g = window_of(&x, &out, kernel, stride)
    g.strip = g.pitch = round_to_vectors(min(<Py_ssize_t> STRIP, g.Q))
    g.strips = (g.Q - 1) // g.strip + 1
    return run(&g, item, x.N * x.C, <const real*> x.start, g.H * g.W, <real*> out.start, g.P, g.Q,
               places, 2 * g.kh * g.pitch + readable(&g, g.strip), threads)


cdef inline Py_ssize_t readable(const Window* g, Py_ssize_t count) noexcept nogil:
    """Numbers of a row that vectors of so many windows read."""
    return round_to_vectors(count) * g.sw + g.kw + LANES


cdef void mean_rows(
    const Window* g, Py_ssize_t first, Py_ssize_t last, Py_ssize_t q, const real* x, real* out,
    void* places, real* scratch,
) noexcept nogil:
    pool_rows(MEAN, g, first, last, q, x, out, places, scratch)


cdef void max_rows(
    const Window* g, Py_ssize_t first, Py_ssize_t last, Py_ssize_t q, const real* x, real* out,
    void* places, real* scratch,
) noexcept nogil:
    # One comparison a step is enough where no number is a NaN.
    if all_finite(x + first * g.sh * g.W, ((last - 1 - first) * g.sh + g.kh) * g.W):
        pool_rows(MAX, g, first, last, q, x, out, places, scratch)
    else:
        pool_rows(MAX_OR_NAN, g, first, last, q, x, out, places, scratch)


cdef inline bint all_finite(const real* x, Py_ssize_t count) noexcept nogil:
    cdef vec sums[GROUP]
    cdef vec zero = splat(0)
    cdef real rest = 0
    cdef Py_ssize_t i = 0
    cdef int k
    for k in range(GROUP):
        sums[k] = zero
    while i + GROUP * LANES <= count:
        for k in range(GROUP):
            sums[k] = multiply_add(sums[k], load(x + i + k * LANES), zero)
        i += GROUP * LANES
    while i + LANES <= count:
        sums[0] = multiply_add(sums[0], load(x + i), zero)
        i += LANES
    while i < count:
        rest += x[i] * 0
        i += 1
    for k in range(1, GROUP):
        sums[0] = add(sums[0], sums[k])
    return horizontal_sum(sums[0]) + rest == 0


cdef inline void pool_rows(
    const int kind, const Window* g, Py_ssize_t first, Py_ssize_t last, Py_ssize_t q, const real* x,
    real* out, void* places, real* scratch,
) noexcept nogil:
    cdef real* spare = scratch + 2 * g.kh * g.pitch
    cdef const real* row
    cdef Py_ssize_t count = min(g.strip, g.Q - q), p, room, i
    cdef Py_ssize_t h = first * g.sh, slot = 0  # the next row, and its place in the ring
    for p in range(first, last):
        h = max(h, p * g.sh)  # no window sees the rows between
        while h < p * g.sh + g.kh:
            row = x + h * g.W + q * g.sw
            if g.end - row < readable(g, count):
                for i in range((count - 1) * g.sw + g.kw):
                    spare[i] = row[i]
                row = spare
            if g.sw == 1:
                along_row(kind, g, row, 1, count, scratch + slot * g.pitch)
            elif g.sw == 2:
                along_row(kind, g, row, 2, count, scratch + slot * g.pitch)
            else:
                along_row(kind, g, row, g.sw, count, scratch + slot * g.pitch)
            h += 1
            slot = slot + 1 if slot + 1 < g.kh else 0
        # The next row of the ring is the oldest, and so the first of the window.
        room = (last - p) * g.Q if g.strips == 1 else count
        down_rows(kind, g, scratch, slot, count, out + p * g.Q + q, places, p * g.Q + q, room)


cdef inline void along_row(
    const int kind, const Window* g, const real* row, const Py_ssize_t step, Py_ssize_t count, real* out,
) noexcept nogil:
    """Reduce kw neighbours, for `count` windows that are `step` apart, into a row of the ring."""
    cdef Py_ssize_t j = 0
    while j + GROUP * LANES <= round_to_vectors(count):
        along(kind, GROUP, g, row + j * step, step, out + j)
        j += GROUP * LANES
    while j < count:
        along(kind, 1, g, row + j * step, step, out + j)
        j += LANES


cdef inline void along(
    const int kind, const int n, const Window* g, const real* x, const Py_ssize_t step, real* out,
) noexcept nogil:
    cdef vec best[GROUP]
    cdef lane_ints place[GROUP]
    cdef lane_ints wins, tap
    cdef vec y
    cdef Py_ssize_t v
    cdef int i
    for i in range(n):
        best[i] = load_strided(x + i * LANES * step, step)
        place[i] = splat_lane(0)
    for v in range(1, g.kw):
        tap = splat_lane(<lane_int> v)
        for i in range(n):
            y = load_strided(x + v + i * LANES * step, step)
            if kind == MEAN:
                best[i] = add(best[i], y)
            else:
                wins = above_or_nan(y, best[i]) if kind == MAX_OR_NAN else above(y, best[i])
                best[i] = choose(wins, y, best[i])
                place[i] = choose_lanes(wins, tap, place[i])
    for i in range(n):
        store(out + i * LANES, best[i])
        if kind != MEAN:
            store_lanes(<lane_int*> (out + g.kh * g.pitch + i * LANES), place[i])


cdef inline void down_rows(
    const int kind, const Window* g, const real* ring, Py_ssize_t slot, Py_ssize_t count, real* out,
    void* places, Py_ssize_t at, Py_ssize_t room,
) noexcept nogil:
    """Reduce the rows of the ring, from `slot` on, to `count` results, with room for `room`."""
    cdef Py_ssize_t j = 0
    while j + GROUP * LANES <= round_to_vectors(count):
        down(kind, GROUP, g, ring + j, slot, out + j, places, at + j, room - j)
        j += GROUP * LANES
    while j < count:
        down(kind, 1, g, ring + j, slot, out + j, places, at + j, room - j)
        j += LANES


cdef inline void down(
    const int kind, const int n, const Window* g, const real* ring, Py_ssize_t slot, real* out,
    void* places, Py_ssize_t at, Py_ssize_t room,
) noexcept nogil:
    cdef vec best[GROUP]
    cdef lane_ints place[GROUP]
    cdef lane_ints wins, taps
    cdef vec y, size = splat(<real> (g.kh * g.kw))
    cdef Py_ssize_t u
    cdef const real* row = ring + slot * g.pitch
    cdef int i
    for i in range(n):
        best[i] = load(row + i * LANES)
        if kind != MEAN:
            place[i] = load_lanes(<lane_int*> (row + g.kh * g.pitch + i * LANES))
    for u in range(1, g.kh):
        slot += 1
        row = row + g.pitch if slot < g.kh else ring
        if slot == g.kh:
            slot = 0
        taps = splat_lane(<lane_int> (u * g.kw))
        for i in range(n):
            y = load(row + i * LANES)
            if kind == MEAN:
                best[i] = add(best[i], y)
            else:
                wins = above_or_nan(y, best[i]) if kind == MAX_OR_NAN else above(y, best[i])
                best[i] = choose(wins, y, best[i])
                place[i] = choose_lanes(
                    wins, add_lanes(taps, load_lanes(<lane_int*> (row + g.kh * g.pitch + i * LANES))),
                    place[i])
    for i in range(n):
        if kind == MEAN:
            store_some(out + i * LANES, best[i] / size, room - i * LANES)
        else:
            store_some(out + i * LANES, best[i], room - i * LANES)
            store_places(g, places, at + i * LANES, place[i], room - i * LANES)


cdef inline void store_places(
    const Window* g, void* places, Py_ssize_t at, lane_ints value, Py_ssize_t count,
) noexcept nogil:
    cdef lane_int lanes[16]
    cdef Py_ssize_t lane
    if count >= LANES and not g.wide:
        store_bytes(<uint8_t*> places + at, value)
        return
    store_lanes(lanes, value)
    for lane in range(min(count, <Py_ssize_t> LANES)):
        if g.wide:
            (<Py_ssize_t*> places)[at + lane] = lanes[lane]
        else:
            (<uint8_t*> places)[at + lane] = <uint8_t> lanes[lane]


# ---- backward ------------------------------------------------------------------------------------

def max_pool_gradient(dz, places, dx, tuple kernel, tuple stride, int threads):
    """dx = dz added at each window's argmax: the gradient of `max_pool`.

    dz (in) and places (in) have the shape of its out, dx (out) of its x. Every place must lie in
    the window (functional/pool.py sees to that).
    """
    unpool(scatter_rows, image_of(dz), image_of(dx), start_of(places), kernel, stride, threads)


def mean_pool_gradient(dz, dx, tuple kernel, tuple stride, int threads):
    """dx = dz / (kh * kw) added to every element of its window: the gradient of `mean_pool`."""
    unpool(spread_rows, image_of(dz), image_of(dx), NULL, kernel, stride, threads)


cdef int unpool(
    Item item, Image dz, Image dx, char* places, tuple kernel, tuple stride, int threads,
) except -1:
    cdef Window g = window_of(&dx, &dz, kernel, stride)
    cdef Py_ssize_t columns = (g.W - 1) // g.sw + 1, i  # of one phase: what lies sw apart
    if item == scatter_rows:
        g.strip, g.strips = columns, 1
        for i in range(min(<Py_ssize_t> 256, g.kh * g.kw)):
            g.offsets[i] = i // g.kw * g.W + i % g.kw
    else:
        g.strip = round_to_vectors(min(<Py_ssize_t> STRIP, columns))
        g.strips = (columns - 1) // g.strip + 1
    g.pitch = g.strip + round_to_vectors((g.kw - 1) // g.sw + 1) + LANES
    return run(&g, item, dx.N * dx.C, <const real*> dz.start, g.P * g.Q, <real*> dx.start, g.H, g.W,
               places, 0 if item == scatter_rows else (g.sw + 1) * g.pitch, threads)


# Windows of which row h of the image is part: rows `begin` to `end` of them.
cdef struct Span:
    Py_ssize_t begin, end


cdef inline void move_down(const Window* g, Py_ssize_t h, Span* span) noexcept nogil:
    """From any row above to row h, without a division."""
    while span.end < g.P and span.end * g.sh <= h:
        span.end += 1
    while span.begin < span.end and span.begin * g.sh + g.kh <= h:
        span.begin += 1


cdef inline void join(
    const Window* g, const real* lines, Py_ssize_t width, real* row, Py_ssize_t room,
) noexcept nogil:
    """row[j * sw + c] = lines[c][j], with room for `room` numbers."""
    cdef Py_ssize_t j = 0, c
    if g.sw == 1:
        while j < width:
            store_some(row + j, load(lines + j), room - j)
            j += LANES
    elif g.sw == 2:
        while 2 * j < width:
            store_some(row + 2 * j, low(load(lines + j), load(lines + g.pitch + j)), room - 2 * j)
            store_some(row + 2 * j + LANES, high(load(lines + j), load(lines + g.pitch + j)),
                       room - 2 * j - LANES)
            j += LANES
    else:
        for c in range(g.sw):
            j = 0
            while j * g.sw + c < width:
                row[j * g.sw + c] = lines[c * g.pitch + j]
                j += 1


cdef void scatter_rows(
    const Window* g, Py_ssize_t first, Py_ssize_t last, Py_ssize_t j, const real* dz, real* dx,
    void* places, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t i, p, q, tap, u, at
    cdef Span top, bottom
    cdef bint apart = g.sh >= g.kh and g.sw >= g.kw
    top.begin = top.end = bottom.begin = bottom.end = 0
    move_down(g, first, &top)
    move_down(g, last - 1, &bottom)
    for i in range(first * g.W, last * g.W):
        dx[i] = 0
    for p in range(top.begin, bottom.end):
        if not g.wide and first <= p * g.sh and p * g.sh + g.kh <= last:
            if apart:
                scatter_row(True, g.Q, g.sw, dz + p * g.Q, <uint8_t*> places + p * g.Q, g.offsets,
                            dx + p * g.sh * g.W)
            else:
                scatter_row(False, g.Q, g.sw, dz + p * g.Q, <uint8_t*> places + p * g.Q, g.offsets,
                            dx + p * g.sh * g.W)
            continue
        for q in range(g.Q):
            at = p * g.Q + q
            tap = (<Py_ssize_t*> places)[at] if g.wide else (<uint8_t*> places)[at]
            u = tap // g.kw
            if first <= p * g.sh + u < last:
                dx[(p * g.sh + u) * g.W + q * g.sw + tap - u * g.kw] += dz[at]


cdef inline void scatter_row(
    const bint apart, Py_ssize_t count, Py_ssize_t step, const real* dz, const uint8_t* places,
    const Py_ssize_t* offsets, real* dx,
) noexcept nogil:
    cdef Py_ssize_t q
    for q in range(count):
        if apart:  # nothing else is added there
            dx[offsets[places[q]]] = dz[q]
        else:
            dx[offsets[places[q]]] += dz[q]
        dx += step


cdef void spread_rows(
    const Window* g, Py_ssize_t first, Py_ssize_t last, Py_ssize_t j, const real* dz, real* dx,
    void* places, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t left = (g.kw - 1) // g.sw, count = min(g.strip, (g.W - 1) // g.sw + 1 - j)
    cdef Py_ssize_t width = min(count * g.sw, g.W - j * g.sw), room, h, c, i, most
    cdef Py_ssize_t begin = max(-left, -j), end = min(g.Q - j, count)
    cdef Span span, before
    cdef real* sums = scratch + g.sw * g.pitch + left
    span.begin = span.end = 0
    before.begin = before.end = 0
    for i in range(left + round_to_vectors(count)):
        sums[i - left] = 0
    for c in range(g.sw):
        for i in range(count):
            scratch[c * g.pitch + i] = 0
    for h in range(first, last):
        move_down(g, h, &span)
        if span.begin != before.begin or span.end != before.end:  # else as in the row above
            before = span
            sum_rows(g, dz + span.begin * g.Q + j, span.end - span.begin, begin, end, sums)
            for c in range(min(g.sw, g.kw)):
                most = (g.kw - 1 - c) // g.sw
                i = 0
                while i + GROUP * LANES <= round_to_vectors(count):
                    spread(GROUP, g, most, sums + i, scratch + c * g.pitch + i)
                    i += GROUP * LANES
                while i < count:
                    spread(1, g, most, sums + i, scratch + c * g.pitch + i)
                    i += LANES
        room = (last - h) * g.W if g.strips == 1 else width
        join(g, scratch, width, dx + h * g.W + j * g.sw, room)


cdef inline void sum_rows(
    const Window* g, const real* dz, Py_ssize_t count, Py_ssize_t begin, Py_ssize_t end, real* sums,
) noexcept nogil:
    """sums = the sum of `count` rows of dz, in columns begin to end."""
    cdef vec sum[GROUP]
    cdef Py_ssize_t w = begin, u
    cdef real one
    cdef int i
    if count <= 0:
        for w in range(begin, end):
            sums[w] = 0
        return
    while w + GROUP * LANES <= end:
        for i in range(GROUP):
            sum[i] = load(dz + w + i * LANES)
        for u in range(1, count):
            for i in range(GROUP):
                sum[i] = add(sum[i], load(dz + u * g.Q + w + i * LANES))
        for i in range(GROUP):
            store(sums + w + i * LANES, sum[i])
        w += GROUP * LANES
    while w < end:
        if g.end - (dz + (count - 1) * g.Q + w) >= LANES:
            sum[0] = load(dz + w)
            for u in range(1, count):
                sum[0] = add(sum[0], load(dz + u * g.Q + w))
            store(sums + w, where(first_lanes(min(<Py_ssize_t> LANES, end - w)), sum[0]))
            w += LANES
        else:
            one = dz[w]
            for u in range(1, count):
                one += dz[u * g.Q + w]
            sums[w] = one
            w += 1


cdef inline void spread(
    const int n, const Window* g, Py_ssize_t most, const real* sums, real* out,
) noexcept nogil:
    """A phase of a row of the image, n vectors of it, from the sums of the windows in its rows."""
    cdef vec total[GROUP]
    cdef vec size = splat(<real> (g.kh * g.kw))
    cdef int i
    for i in range(n):
        total[i] = load(sums - most + i * LANES)
    while most > 0:
        most -= 1
        for i in range(n):
            total[i] = add(total[i], load(sums - most + i * LANES))
    for i in range(n):
        store(out + i * LANES, total[i] / size)
