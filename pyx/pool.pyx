"""Max and mean pooling, forward and backward, of any window and stride.

Windows are separable, and there are two orders. *Along, then down*: each row of x is reduced along
its length once, then rows to windows, so that a stride of 1 costs kh + kw steps a number and not
kh * kw; the lanes are neighbours. *Down, then along*, for strides that would pick lanes one by one
and for rows shorter than a vector: LANES planes side by side, transposed in between, so that the
lanes are planes.

A work item is a strip of columns of a block of rows of the result, in one plane or, of small ones, several.
Vectors run over the end of a row where there is memory to read, or the next row of the result to
overwrite: no loop for the last few.
"""

from libc.stdint cimport uint8_t

from buffers cimport Batch, batch_of, start_of
from parallel cimport run_items
from simd cimport (
    LANES, above, above_or_nan, add, add_lanes, as_lanes, as_numbers, beats, choose, choose_lanes,
    copy_run, first_lanes, high, horizontal_sum, lane_int, lane_ints, load, load_lanes, load_some,
    load_strided, low, multiply_add, real, splat, splat_lane, store, store_bytes, store_lanes, store_some,
    transpose, vec, where,
)

cdef enum:
    STRIP = 256  # columns: the rows of a strip stay in the first-level cache
    WIDEST = 2048  # columns of LANES planes that scratch holds
    GROUP = 4  # vectors in flight: a step of one waits for the step before
    NUMBERS_AN_ITEM = 1 << 13  # some 2 us of work, twenty times what a thread takes to fetch an item
    STEPS_AN_ITEM = 1 << 30  # a quarter of a second: the time between looks at signals
    MEAN, MAX, MAX_OR_NAN


# Rows first to last, columns from j on, of one plane of the result, or of `planes` side by side, up to
# LANES. Pointers are to the first of these.
ctypedef void (*Block)(
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t j,
    const real* source, real* target, void* places, real* scratch,
) noexcept nogil


cdef struct Window:
    Py_ssize_t H, W, P, Q, kh, kw, sh, sw
    Py_ssize_t planes, at_once, side_by_side  # in all, an item, and a call of `work`
    Py_ssize_t source_plane, target_plane, place_plane  # numbers of each, and bytes
    Py_ssize_t height, rows, blocks  # rows of the result in all and an item, and such blocks a plane
    Py_ssize_t strip, strips  # columns an item, and such strips a row
    Py_ssize_t pitch  # numbers from row to row of the scratch, or columns of it
    bint wide  # windows of more than 256 elements: places are Py_ssize_t, not bytes
    Block work
    const real* source
    const real* end  # of it
    real* target
    char* places
    Py_ssize_t offsets[256]  # from the first element of a window to each, in the image


cdef int set_window(
    Window* g, const Batch* image, const Batch* pooled, char* places, tuple kernel, tuple stride,
) except -1:
    g.H, g.W, g.P, g.Q, g.planes = image.H, image.W, pooled.H, pooled.W, image.N * image.C
    g.kh, g.kw = kernel
    g.sh, g.sw = stride
    g.wide = g.kh * g.kw > 256
    g.places = places
    g.place_plane = g.P * g.Q * (<Py_ssize_t> sizeof(Py_ssize_t) if g.wide else 1)
    return 0


cdef Py_ssize_t round_to_vectors(Py_ssize_t numbers) noexcept nogil:
    return (numbers + LANES - 1) // LANES * LANES


cdef int run(
    Window* g, Block work, Py_ssize_t side_by_side, const Batch* source, const Batch* target,
    Py_ssize_t scratch, int threads,
) except -1:
    """Run `work` over all of the result, with so many numbers of scratch."""
    # Steps for the rows that a window has and its neighbour above has not, and for the first window.
    cdef double strip = <double> g.strip * side_by_side, row = strip * (g.sh * g.kw + g.kh)
    cdef double start = strip * g.kh * g.kw
    g.work, g.side_by_side = work, side_by_side
    g.source, g.target, g.height = source.start, target.start, target.H
    g.source_plane, g.target_plane = source.H * source.W, target.H * target.W
    g.end = g.source + g.planes * g.source_plane
    if side_by_side > 1:
        row = start = strip * (g.sw * g.kh + g.kw)
    g.rows = max(8 * g.kh, NUMBERS_AN_ITEM // (target.W * side_by_side))
    g.rows = min(g.rows, <Py_ssize_t> max(<double> g.kh, (STEPS_AN_ITEM - start) / row))
    g.rows = max(<Py_ssize_t> 1, min(g.height, g.rows))
    g.blocks = (g.height + g.rows - 1) // g.rows
    cdef Py_ssize_t planes = NUMBERS_AN_ITEM // (max(g.source_plane, g.target_plane) * side_by_side)
    g.at_once = side_by_side * max(<Py_ssize_t> 1, planes)
    cdef Py_ssize_t items = (g.planes + g.at_once - 1) // g.at_once * g.blocks * g.strips
    run_items(block_item, g, items, items * (row * g.rows + start) * g.at_once / side_by_side,
              scratch * sizeof(real), threads)
    return 0


cdef int block_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Window* g = <const Window*> problem
    cdef Py_ssize_t block = item // g.strips, j = (item - block * g.strips) * g.strip
    cdef Py_ssize_t group = block // g.blocks, first = (block - group * g.blocks) * g.rows
    cdef Py_ssize_t plane = group * g.at_once, end = min(g.planes, plane + g.at_once)
    while plane < end:
        g.work(g, min(g.side_by_side, end - plane), first, min(g.height, first + g.rows), j,
               g.source + plane * g.source_plane, g.target + plane * g.target_plane,
               g.places + plane * g.place_plane, <real*> scratch)
        plane += g.side_by_side
    return 0


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
    pool(MAX, batch_of(x), batch_of(out), start_of(places), kernel, stride, threads)


def mean_pool(x, out, tuple kernel, tuple stride, int threads):
    """out[n,c,p,q] = mean of the window of x at (p, q) * stride. x (in), out (out) as in `max_pool`."""
    pool(MEAN, batch_of(x), batch_of(out), NULL, kernel, stride, threads)


cdef int pool(
    const int kind, Batch x, Batch out, char* places, tuple kernel, tuple stride, int threads,
) except -1:
    cdef Window g
    set_window(&g, &x, &out, places, kernel, stride)
    if lanes_are_planes(&g) and set_columns(&g):
        return run(&g, mean_planes if kind == MEAN else max_planes, LANES, &x, &out,
                   2 * (g.pitch + LANES) * LANES, threads)
    g.strip = g.pitch = round_to_vectors(min(<Py_ssize_t> STRIP, g.Q))
    g.strips = (g.Q - 1) // g.strip + 1
    return run(&g, mean_rows if kind == MEAN else max_rows, 1, &x, &out,
               2 * g.kh * g.pitch + readable(&g, g.strip), threads)


cdef inline bint lanes_are_planes(const Window* g) noexcept nogil:
    """Rows are short, or strides would make vectors of single numbers.

    Rows of less than two vectors, 14 x 14 and smaller, took up to twice as long on their own.
    """
    return 2 * g.planes >= LANES and (g.Q < 2 * LANES or 2 < g.sw <= 2 * g.kw)


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
                spread_results(kind, g, planes, results, waiting, out, places, at)
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
        store(result, best / splat(<real> (g.kh * g.kw)))
    else:
        store(result, best)
        store(result + LANES * LANES, as_numbers(place))


cdef inline void spread_results(
    const int kind, const Window* g, Py_ssize_t planes, const real* results, Py_ssize_t count,
    real* out, void* places, Py_ssize_t at,
) noexcept nogil:
    """Transpose back: `count` results of each plane, from `at` on."""
    cdef vec lines[LANES]
    cdef Py_ssize_t lane
    for lane in range(LANES):
        lines[lane] = load(results + lane * LANES)
    transpose(lines)
    for lane in range(planes):
        store_some(out + lane * g.target_plane + at, lines[lane], count)
    if kind == MEAN:
        return
    for lane in range(LANES):
        lines[lane] = load(results + (LANES + lane) * LANES)
    transpose(lines)
    for lane in range(planes):
        store_places(g, places, lane * g.P * g.Q + at, as_lanes(lines[lane]), count)


# ---- backward ------------------------------------------------------------------------------------

def max_pool_gradient(dz, places, dx, tuple kernel, tuple stride, int threads):
    """dx = dz added at each window's argmax: the gradient of `max_pool`.

    dz (in) and places (in) have the shape of its out, dx (out) of its x. Every place must lie in
    the window (functional/pool.py sees to that).
    """
    unpool(MAX, batch_of(dz), batch_of(dx), start_of(places), kernel, stride, threads)


def mean_pool_gradient(dz, dx, tuple kernel, tuple stride, int threads):
    """dx = dz / (kh * kw) added to every element of its window: the gradient of `mean_pool`."""
    unpool(MEAN, batch_of(dz), batch_of(dx), NULL, kernel, stride, threads)


cdef int unpool(
    const int kind, Batch dz, Batch dx, char* places, tuple kernel, tuple stride, int threads,
) except -1:
    cdef Window g
    set_window(&g, &dx, &dz, places, kernel, stride)
    cdef Py_ssize_t columns = (g.W - 1) // g.sw + 1, i  # of one phase: what lies sw apart
    if kind == MAX:
        g.strip, g.strips = columns, 1
        for i in range(min(<Py_ssize_t> 256, g.kh * g.kw)):
            g.offsets[i] = i // g.kw * g.W + i % g.kw
        return run(&g, scatter_rows, 1, &dz, &dx, 0, threads)
    g.strip = columns
    g.strips = 1
    g.pitch = (g.kw - 1) // g.sw + max(columns, round_to_vectors(g.Q))
    if lanes_are_planes_back(&g) and g.pitch <= WIDEST:
        return run(&g, spread_planes, LANES, &dz, &dx, (g.pitch + g.W + LANES) * LANES, threads)
    g.strip = round_to_vectors(min(<Py_ssize_t> STRIP, columns))
    g.strips = (columns - 1) // g.strip + 1
    g.pitch = g.strip + round_to_vectors((g.kw - 1) // g.sw + 1) + LANES
    return run(&g, spread_rows, 1, &dz, &dx, (g.sw + 1) * g.pitch, threads)


cdef inline bint lanes_are_planes_back(const Window* g) noexcept nogil:
    # 14 x 14 takes 0.5 to 0.8 of what it takes row by row, 28 x 28 up to 1.3 times as long.
    return 2 * g.planes >= LANES and g.W <= 16


# Windows of which row h of the image is part: rows `begin` to `end` of them.
cdef struct Span:
    Py_ssize_t begin, end


cdef inline void move_down(const Window* g, Py_ssize_t h, Span* span) noexcept nogil:
    """From any row above to row h, without a division."""
    while span.end < g.P and span.end * g.sh <= h:
        span.end += 1
    while span.begin < span.end and span.begin * g.sh + g.kh <= h:
        span.begin += 1


cdef inline bint windows_apart(const Window* g) noexcept nogil:
    return 2 < g.sw <= LANES and g.kw <= g.sw


cdef inline void join(
    const Window* g, const real* lines, Py_ssize_t width, real* row, Py_ssize_t room,
) noexcept nogil:
    """row[j * sw + c] = lines[c][j], with room for `room` numbers."""
    cdef Py_ssize_t j = 0, c
    cdef lane_ints inside
    if g.sw == 1:
        while j < width:
            store_some(row + j, load(lines + j), room - j)
            j += LANES
    elif windows_apart(g):  # each number kw times, then zeros
        inside = first_lanes(g.kw)
        while j < width:
            store_some(row + j, where(inside, splat(lines[0])), room - j)
            lines += 1
            j += g.sw
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
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t j,
    const real* dz, real* dx, void* places, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t i, p, q, tap, u, at
    cdef Py_ssize_t top = 0, bottom = g.P  # windows that these rows are part of
    cdef Py_ssize_t begin, end  # windows that lie in them
    if first > 0:
        top = (first - g.kh) // g.sh + 1 if first >= g.kh else 0
    if last < g.H:
        bottom = min(g.P, (last - 1) // g.sh + 1)
    begin = min(bottom, (first + g.sh - 1) // g.sh) if first > 0 else 0
    end = bottom
    while end > begin and (end - 1) * g.sh + g.kh > last:
        end -= 1
    for i in range(first * g.W, last * g.W):
        dx[i] = 0
    if g.wide:
        begin = end = bottom
    elif g.sh >= g.kh and g.sw >= g.kw:
        scatter(True, g, begin, end, dz, <const uint8_t*> places, dx)
    else:
        scatter(False, g, begin, end, dz, <const uint8_t*> places, dx)
    for p in range(top, bottom):
        if begin <= p < end:
            continue
        for q in range(g.Q):
            at = p * g.Q + q
            tap = (<Py_ssize_t*> places)[at] if g.wide else (<uint8_t*> places)[at]
            u = tap // g.kw
            if first <= p * g.sh + u < last:
                dx[(p * g.sh + u) * g.W + q * g.sw + tap - u * g.kw] += dz[at]


cdef inline void scatter(
    const bint apart, const Window* g, Py_ssize_t begin, Py_ssize_t end, const real* dz,
    const uint8_t* places, real* dx,
) noexcept nogil:
    """Rows begin to end of dz."""
    cdef Py_ssize_t p, _q, at = begin * g.Q
    cdef real* window
    for p in range(begin, end):
        window = dx + p * g.sh * g.W
        for _q in range(g.Q):
            if apart:  # nothing else is added there
                window[g.offsets[places[at]]] = dz[at]
            else:
                window[g.offsets[places[at]]] += dz[at]
            window += g.sw
            at += 1


cdef void spread_rows(
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t j,
    const real* dz, real* dx, void* places, real* scratch,
) noexcept nogil:
    cdef Py_ssize_t left = (g.kw - 1) // g.sw, count = min(g.strip, (g.W - 1) // g.sw + 1 - j)
    cdef Py_ssize_t width = min(count * g.sw, g.W - j * g.sw), room, h, c, i, most
    cdef Py_ssize_t begin = max(-left, -j), end = min(g.Q - j, count)
    cdef Span span, before
    cdef real* row
    cdef real* sums = scratch + g.sw * g.pitch + left
    span.begin = span.end = 0
    before.begin = before.end = 0
    for i in range(left + round_to_vectors(count)):
        sums[i - left] = 0
    for c in range(g.sw):
        for i in range(count):
            scratch[c * g.pitch + i] = 0
    for h in range(first, last):
        row = dx + h * g.W + j * g.sw
        move_down(g, h, &span)
        if h > first and span.begin == before.begin and span.end == before.end:
            copy_run(row, row - g.W, width)
            continue
        before = span
        sum_rows(g, dz + span.begin * g.Q + j, span.end - span.begin, begin, end, sums)
        for c in range(1 if windows_apart(g) else min(g.sw, g.kw)):
            most = (g.kw - 1 - c) // g.sw
            i = 0
            while i + GROUP * LANES <= round_to_vectors(count):
                spread(GROUP, g, most, sums + i, scratch + c * g.pitch + i)
                i += GROUP * LANES
            while i < count:
                spread(1, g, most, sums + i, scratch + c * g.pitch + i)
                i += LANES
        room = (last - h) * g.W if g.strips == 1 else width
        join(g, scratch, width, row, room)


cdef inline void sum_rows(
    const Window* g, const real* dz, Py_ssize_t count, Py_ssize_t begin, Py_ssize_t end, real* sums,
) noexcept nogil:
    """sums = the sum of `count` rows of dz over the size of a window, in columns begin to end."""
    cdef vec sum[GROUP]
    cdef vec size = splat(<real> (g.kh * g.kw))
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
            store(sums + w + i * LANES, sum[i] / size)
        w += GROUP * LANES
    while w < end:
        if g.end - (dz + (count - 1) * g.Q + w) >= LANES:
            sum[0] = load(dz + w)
            for u in range(1, count):
                sum[0] = add(sum[0], load(dz + u * g.Q + w))
            store(sums + w, where(first_lanes(min(<Py_ssize_t> LANES, end - w)), sum[0] / size))
            w += LANES
        else:
            one = dz[w]
            for u in range(1, count):
                one += dz[u * g.Q + w]
            sums[w] = one / <real> (g.kh * g.kw)
            w += 1


cdef inline void spread(
    const int n, const Window* g, Py_ssize_t most, const real* sums, real* out,
) noexcept nogil:
    """A phase of a row of the image, n vectors of it, from the sums of the windows in its rows."""
    cdef vec total[GROUP]
    cdef int i
    for i in range(n):
        total[i] = load(sums - most + i * LANES)
    while most > 0:
        most -= 1
        for i in range(n):
            total[i] = add(total[i], load(sums - most + i * LANES))
    for i in range(n):
        store(out + i * LANES, total[i])


cdef void spread_planes(
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t j,
    const real* dz, real* dx, void* places, real* scratch,
) noexcept nogil:
    """Of LANES planes side by side, transposed in between: the lanes are planes."""
    cdef Py_ssize_t left = (g.kw - 1) // g.sw, at = first * g.W, waiting = 0, h, w, i
    cdef Span span, before
    cdef real* sums = scratch + left * LANES
    cdef real* row = scratch + g.pitch * LANES
    cdef real* results = row + g.W * LANES
    span.begin = span.end = 0
    before.begin = before.end = 0
    for i in range(left):
        store(scratch + i * LANES, splat(0))
    for h in range(first, last):
        move_down(g, h, &span)
        if h == first or span.begin != before.begin or span.end != before.end:  # else as in the row above
            before = span
            sum_planes(g, planes, dz + span.begin * g.Q, span.end - span.begin, sums)
            along_row_of_planes(g, sums, row)
        for w in range(g.W):
            store(results + waiting * LANES, load(row + w * LANES))
            waiting += 1
            if waiting == LANES or (h + 1 == last and w + 1 == g.W):
                spread_results(MEAN, g, planes, results, waiting, dx, places, at)
                at += waiting
                waiting = 0


cdef inline void sum_planes(
    const Window* g, Py_ssize_t planes, const real* dz, Py_ssize_t count, real* sums,
) noexcept nogil:
    """sums[q, lane] = the same of each plane, and zeros up to the last column of the image."""
    cdef vec sum[LANES]
    cdef vec size = splat(<real> (g.kh * g.kw))
    cdef const real* x
    cdef Py_ssize_t j = 0, lane, u
    while j < g.Q:
        x = dz + j
        for lane in range(LANES):  # those without a plane repeat the last
            sum[lane] = splat(0)
            for u in range(count):
                sum[lane] = add(sum[lane], load_some(x + u * g.Q, g.end - (x + u * g.Q)))
            if lane + 1 < planes:
                x += g.source_plane
        transpose(sum)
        for lane in range(LANES):
            store(sums + (j + lane) * LANES, sum[lane] / size)
        j += LANES
    for j in range(g.Q, g.strip):
        store(sums + j * LANES, splat(0))


cdef inline void along_row_of_planes(const Window* g, const real* sums, real* row) noexcept nogil:
    cdef vec total
    cdef Py_ssize_t w = 0, c, most
    while w < g.W:
        for c in range(min(g.sw, g.W - w)):
            total = splat(0)
            most = (g.kw - 1 - c) // g.sw if c < g.kw else -1
            while most >= 0:
                total = add(total, load(sums - most * LANES))
                most -= 1
            store(row + (w + c) * LANES, total)
        w += g.sw
        sums += LANES
