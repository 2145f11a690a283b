"""Gradients of max and mean pooling, of any window and stride (window.pxd has how they run).

That of a maximum goes number by number to the place of each. That of a mean is the same sum over
windows that the mean is over numbers, and takes the same two orders.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memset

from buffers cimport Batch, batch_of, start_of
from simd cimport (
    LANES, add, copy_run, divide, first_lanes, high, lane_int, lane_ints, load, load_bytes, load_some, low,
    real, same_lanes, splat, splat_lane, store, store_some, transpose, vec, where,
)
from window cimport (
    GROUP, STRIP, WIDEST, Window, round_to_vectors, run, set_window, store_planes,
)


def max_pool_gradient(dz, places, dx, tuple kernel, tuple stride, int threads):
    """dx = dz added at each window's argmax: the gradient of `max_pool`.

    dz (in) and places (in) have the shape of its out, dx (out) of its x. Returns whether every place lies
    in the window; if not, dx is not set. One that another thread changes after that does no worse than a
    wrong number.
    """
    cdef Window g
    cdef Batch pooled = batch_of(dz), image = batch_of(dx)
    cdef Py_ssize_t i
    set_window(&g, &image, &pooled, start_of(places), kernel, stride)
    if not places_fit(&g):
        return False
    g.strip, g.strips = (g.W - 1) // g.sw + 1, 1
    memset(g.offsets, 0, sizeof(g.offsets))  # of what no place should be
    for i in range(min(<Py_ssize_t> 256, g.kh * g.kw)):
        g.offsets[i] = i // g.kw * g.W + i % g.kw
    run(&g, scatter_rows, 1, &pooled, &image, 0, threads)
    return True


cdef inline bint places_fit(const Window* g) noexcept nogil:
    cdef Py_ssize_t i, count = g.planes * g.P * g.Q, window = g.kh * g.kw, place
    cdef const uint8_t* bytes = <const uint8_t*> g.places
    cdef uint8_t most = 0
    if not g.wide:
        for i in range(count):
            most = max(most, bytes[i])
        return most < window or count == 0
    for i in range(count):
        place = (<const Py_ssize_t*> g.places)[i]
        if not 0 <= place < window:
            return False
    return True


def mean_pool_gradient(dz, dx, tuple kernel, tuple stride, int threads):
    """dx = dz / (kh * kw) added to every element of its window: the gradient of `mean_pool`."""
    cdef Window g
    cdef Batch pooled = batch_of(dz), image = batch_of(dx)
    set_window(&g, &image, &pooled, NULL, kernel, stride)
    if g.kh == g.H and g.kw == g.W:
        g.strip, g.strips = g.W, 1
        run(&g, fill_rows, 1, &pooled, &image, 0, threads)
        return
    cdef Py_ssize_t columns = (g.W - 1) // g.sw + 1  # of one phase: what lies sw apart
    g.pitch = (g.kw - 1) // g.sw + max(columns, round_to_vectors(g.Q))
    if lanes_are_planes(&g) and g.pitch <= WIDEST:
        g.strip, g.strips = columns, 1
        run(&g, spread_planes, LANES, &pooled, &image, (g.pitch + g.W + LANES) * LANES, threads)
        return
    g.strip = round_to_vectors(min(<Py_ssize_t> STRIP, columns))
    g.strips = (columns - 1) // g.strip + 1
    g.pitch = g.strip + round_to_vectors((g.kw - 1) // g.sw + 1) + LANES
    run(&g, spread_rows, 1, &pooled, &image, (g.sw + 1) * g.pitch, threads)


cdef inline bint lanes_are_planes(const Window* g) noexcept nogil:
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
    cdef Py_ssize_t p, q, tap, u, at
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
    if g.wide:
        begin = end = bottom
    if not g.wide and g.sh == g.kh and g.sw == g.kw == 2 and g.Q >= LANES:
        weave(g, begin, end, dz, <const uint8_t*> places, dx)
        clear(dx, first * g.W, begin * g.sh * g.W)
        clear(dx, end * g.sh * g.W, last * g.W)
    else:
        clear(dx, first * g.W, last * g.W)
        if g.sh >= g.kh and g.sw >= g.kw:
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
            if tap >= 0 and first <= p * g.sh + u < last:
                dx[(p * g.sh + u) * g.W + q * g.sw + tap - u * g.kw] += dz[at]


cdef inline void clear(real* x, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, last):
        x[i] = 0


cdef inline void weave(
    const Window* g, Py_ssize_t begin, Py_ssize_t end, const real* dz, const uint8_t* places, real* dx,
) noexcept nogil:
    """Rows begin to end of dz, LANES or more long, where windows lie side by side and are 2 wide.

    Each number is chosen for its column or the other, and whole vectors of dx are written, whose rows need
    not be cleared.
    """
    cdef lane_ints taps
    cdef vec z, left, right
    cdef real* row
    cdef Py_ssize_t p, q, u
    for p in range(begin, end):
        for u in range(g.kh if g.W > 2 * g.Q else 0):
            clear(dx + (p * g.kh + u) * g.W, 2 * g.Q, g.W)
        q = 0
        while q < g.Q:
            q = min(q, g.Q - LANES)  # the last vector ends with the row
            z = load(dz + p * g.Q + q)
            taps = load_bytes(places + p * g.Q + q)
            row = dx + p * g.kh * g.W + 2 * q
            for u in range(g.kh):
                left = where(same_lanes(taps, splat_lane(<lane_int> (2 * u))), z)
                right = where(same_lanes(taps, splat_lane(<lane_int> (2 * u + 1))), z)
                store(row, low(left, right))
                store(row + LANES, high(left, right))
                row += g.W
            q += LANES


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


cdef void fill_rows(
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t j,
    const real* dz, real* dx, void* places, real* scratch,
) noexcept nogil:
    """Of the mean of a whole image. (7x7: 2.7 times as fast as by windows.)"""
    cdef Py_ssize_t i
    cdef real share = dz[0] / (g.kh * g.kw)
    for i in range(first * g.W, last * g.W):
        dx[i] = share


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
            store(sums + w + i * LANES, divide(sum[i], size))
        w += GROUP * LANES
    while w < end:
        if g.end - (dz + (count - 1) * g.Q + w) >= LANES:
            sum[0] = load(dz + w)
            for u in range(1, count):
                sum[0] = add(sum[0], load(dz + u * g.Q + w))
            store(sums + w, where(first_lanes(min(<Py_ssize_t> LANES, end - w)), divide(sum[0], size)))
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
                store_planes(g, planes, results, waiting, dx, at)
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
            store(sums + (j + lane) * LANES, divide(sum[lane], size))
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
