"""Max and mean pooling of any window and stride (window.pxd has how they run).

*Along, then down*: each row of x is reduced along its length once, then rows to windows, so that a
stride of 1 costs kh + kw steps a number and not kh * kw; the lanes are neighbours. *Down, then
along*: the lanes are planes. Vectors run over the end of a row where there is memory to read, or the
next row of the result to overwrite: no loop for the last few.
"""

from libc.stdint cimport uint8_t

from buffers cimport Batch, batch_of, start_of
from simd cimport (
    LANES, above, above_or_nan, add, add_lanes, as_lanes, as_numbers, beats, choose, choose_lanes,
    divide, horizontal_sum, lane_int, lane_ints, load, load_lanes, load_some, load_strided,
    multiply_add, real, splat, splat_lane, store, store_bytes, store_lanes, store_some, transpose, vec,
)
from window cimport (
    GROUP, STRIP, WIDEST, Window, round_to_vectors, run, set_window, store_planes, transpose_back,
)

cdef enum:
    MEAN, MAX, MAX_OR_NAN


# A window's maximum is the first maximum of each row, then the first of those that no other exceeds:
# the first in row-major order. Its sum is summed anew, not slid along: a sliding sum would drag an
# infinity or NaN, and rounding errors, on to windows that never saw them.


def max_pool(x, out, places, tuple kernel, tuple stride, int threads):
    """out[n,c,p,q] = maximum of the window of x at (p, q) * stride; places = its argmax.

    x (in) is (N, C, H, W), out (out) (N, C, P, Q), places (out) of the same shape: the position in
    the window, row-major, as uint8 if the window has at most 256 elements, else as intp. Ties and
    NaN go to the first; a window with a NaN gives NaN.
    """
    pool(MAX, batch_of(x), batch_of(out), start_of(places), kernel, stride, threads)


def mean_pool(x, out, tuple kernel, tuple stride, int threads):
    """out[n,c,p,q] = mean of the window of x at (p, q) * stride. x (in), out (out) as in `max_pool`."""
    pool(MEAN, batch_of(x), batch_of(out), NULL, kernel, stride, threads)


cdef int pool(
    const int kind, Batch x, Batch out, char* places, tuple kernel, tuple stride, int threads,
) except -1:
    cdef Window g
    set_window(&g, &x, &out, places, kernel, stride)
    if lanes_are_planes(kind, &g) and set_columns(&g):
        return run(&g, mean_planes if kind == MEAN else max_planes, LANES, &x, &out,
                   2 * (g.pitch + LANES) * LANES, threads)
    g.strip = g.pitch = round_to_vectors(min(<Py_ssize_t> STRIP, g.Q))
    g.strips = (g.Q - 1) // g.strip + 1
    return run(&g, mean_rows if kind == MEAN else max_rows, 1, &x, &out,
               2 * g.kh * g.pitch + readable(&g, g.strip), threads)


cdef inline bint lanes_are_planes(const int kind, const Window* g) noexcept nogil:
    """Rows are short, or strides would make vectors of single numbers.

    Rows of less than two vectors took up to twice as long on their own; maxima of 17 to 31 (AVX-512,
    float32) took as long to half as long.
    """
    cdef Py_ssize_t few = 2 * LANES if kind == MEAN else min(2 * LANES, 16)
    return 2 * g.planes >= LANES and (g.Q < few or 2 < g.sw <= 2 * g.kw)


cdef bint set_columns(Window* g) noexcept nogil:
    """Cut rows into strips for `pool_planes`. False if it would take too much scratch."""
    g.strip = min(g.Q, max(<Py_ssize_t> LANES, STRIP // g.sw))
    g.strips = (g.Q - 1) // g.strip + 1
    g.pitch = round_to_vectors((g.strip - 1) * g.sw + g.kw)
    return g.pitch <= WIDEST


cdef inline Py_ssize_t readable(const Window* g, Py_ssize_t count) noexcept nogil:
    """Numbers of a row that vectors of so many windows read."""
    return round_to_vectors(count) * g.sw + g.kw + LANES


# Along, then down.

cdef void mean_rows(
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t q,
    const real* x, real* out, void* places, real* scratch,
) noexcept nogil:
    pool_rows(MEAN, g, first, last, q, x, out, places, scratch)


cdef void max_rows(
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t q,
    const real* x, real* out, void* places, real* scratch,
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
            store_some(out + i * LANES, divide(best[i], size), room - i * LANES)
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


# Down, then along: the lanes are planes.

cdef void mean_planes(
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t q,
    const real* x, real* out, void* places, real* scratch,
) noexcept nogil:
    pool_planes(MEAN, g, planes, first, last, q, x, out, places, scratch)


cdef void max_planes(
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t q,
    const real* x, real* out, void* places, real* scratch,
) noexcept nogil:
    pool_planes(MAX_OR_NAN, g, planes, first, last, q, x, out, places, scratch)


cdef inline void pool_planes(
    const int kind, const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t q,
    const real* x, real* out, void* places, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t count = min(g.strip, g.Q - q), at = first * g.Q + q, p, i
    cdef Py_ssize_t waiting = 0  # results, until there is one for each lane
    cdef real* results = scratch + 2 * g.pitch * LANES
    for p in range(first, last):
        down_planes(kind, g, planes, x + p * g.sh * g.W + q * g.sw, (count - 1) * g.sw + g.kw, scratch)
        for i in range(count):
            along_planes(kind, g, scratch + i * g.sw * LANES, results + waiting * LANES)
            waiting += 1
            if waiting == LANES or (i + 1 == count and (g.strips > 1 or p + 1 == last)):
                store_planes(g, planes, results, waiting, out, at)
                if kind != MEAN:
                    store_places_of_planes(g, planes, results + LANES * LANES, waiting, places, at)
                at += waiting
                waiting = 0
        if g.strips > 1:
            at = (p + 1) * g.Q + q


cdef inline void down_planes(
    const int kind, const Window* g, Py_ssize_t planes, const real* row, Py_ssize_t width, real* columns,
) noexcept nogil:
    """Reduce kh rows of each plane to one, and transpose: columns[w, lane], and for a maximum its places."""
    cdef vec best[LANES]
    cdef vec place[LANES]
    cdef const real* x
    cdef Py_ssize_t j = 0, lane
    while j < width:
        x = row + j
        for lane in range(LANES):  # those without a plane repeat the last
            if g.end - x >= (g.kh - 1) * g.W + LANES:
                down_column(kind, False, g, x, &best[lane], &place[lane])
            else:
                down_column(kind, True, g, x, &best[lane], &place[lane])
            if lane + 1 < planes:
                x += g.source_plane
        transpose(best)
        if kind != MEAN:
            transpose(place)
        for lane in range(LANES):
            store(columns + (j + lane) * LANES, best[lane])
            if kind != MEAN:
                store(columns + (g.pitch + j + lane) * LANES, place[lane])
        j += LANES


cdef inline void down_column(
    const int kind, const bint careful, const Window* g, const real* x, vec* result, vec* places,
) noexcept nogil:
    cdef vec best = load_some(x, g.end - x) if careful else load(x), y
    cdef lane_ints place = splat_lane(0), wins
    cdef Py_ssize_t u
    for u in range(1, g.kh):
        x += g.W
        y = load_some(x, g.end - x) if careful else load(x)
        if kind == MEAN:
            best = add(best, y)
        else:
            wins = above_or_nan(y, best)
            best = choose(wins, y, best)
            place = choose_lanes(wins, splat_lane(<lane_int> (u * g.kw)), place)
    result[0] = best
    if kind != MEAN:
        places[0] = as_numbers(place)


cdef inline void along_planes(
    const int kind, const Window* g, const real* columns, real* result,
) noexcept nogil:
    """Reduce kw columns. Of equals the one further up may be further right, so places are compared."""
    cdef vec best = load(columns), y
    cdef lane_ints place = splat_lane(0), other, wins
    cdef Py_ssize_t v
    if kind != MEAN:
        place = as_lanes(load(columns + g.pitch * LANES))
    for v in range(1, g.kw):
        columns += LANES
        y = load(columns)
        if kind == MEAN:
            best = add(best, y)
        else:
            other = add_lanes(as_lanes(load(columns + g.pitch * LANES)), splat_lane(<lane_int> v))
            wins = beats(y, best, other, place)
            best = choose(wins, y, best)
            place = choose_lanes(wins, other, place)
    if kind == MEAN:
        store(result, divide(best, splat(<real> (g.kh * g.kw))))
    else:
        store(result, best)
        store(result + LANES * LANES, as_numbers(place))


cdef inline void store_places_of_planes(
    const Window* g, Py_ssize_t planes, const real* results, Py_ssize_t count, void* places, Py_ssize_t at,
) noexcept nogil:
    """What `store_planes` does with the results, for their places."""
    cdef vec lines[LANES]
    cdef Py_ssize_t lane
    transpose_back(results, lines)
    for lane in range(planes):
        store_places(g, places, lane * g.P * g.Q + at, as_lanes(lines[lane]), count)
