"""Outputs that do not lie side by side: those of several phases, or of every n-th row or column.

Tiles write them aside, part by part, for each strip. There they wait until all chunks of taps are summed, and
are then put where they belong: neighbours of all phases woven into one run.
"""

from packing cimport Layout
from phases cimport MOST_PHASES, Part, weaver_for
from simd cimport LANES, prefetch_run, real
from strips cimport Job, Problem, Span, Strip, Taps, most_strips, vectors_of
from taps cimport ceil_div
from tile cimport MAX_ROWS, rows_for, rows_in_tiles, tile_for


cdef inline Py_ssize_t rows_beside(const Problem* p, Py_ssize_t rows) noexcept nogil:
    """Rows that results of a strip take aside, at the most, of so many output channels.

    There may be several chunks, and then all channels wait for the next; else those of one round of tiles.
    """
    cdef Py_ssize_t parts = p.down.parts * p.across.parts
    if p.grid.chunks == 1:
        rows = min(rows, p.together)
    # Each part in whole tiles, which may have three rows too many.
    return rows * p.down.phases * p.across.phases + 3 * parts * ceil_div(rows, p.together) + MAX_ROWS


cdef inline Py_ssize_t aside_size(const Problem* p, Py_ssize_t rows) noexcept nogil:
    """Bytes of them, for so many channels of an item."""
    cdef Py_ssize_t width = vectors_of(p, rows) * LANES
    cdef Py_ssize_t strips = most_strips(&p.grid, width) if p.grid.chunks > 1 else 1
    return strips * rows_beside(p, rows) * width * sizeof(real)


cdef inline void multiply_aside(
    Job* job, const Strip* strip, int VN, Py_ssize_t o, int count, real* aside,
) noexcept nogil:
    """Outputs that do not lie side by side are made aside, and in the end put where they belong."""
    cdef const Problem* p = job.p
    cdef real* to = aside
    cdef int d, a
    if job.last and p.far:
        fetch_results(job, strip, o, count)
    for d in range(p.down.parts):
        for a in range(p.across.parts):
            multiply_part(job, strip, VN, o, count, d, a, to)
            to += rows_of_part(p, count, d, a, VN) * VN * LANES
    if job.last:
        put(job, strip, o, count, VN, aside)


cdef inline void fetch_results(const Job* job, const Strip* strip, Py_ssize_t o, int count) noexcept nogil:
    """The lines that `put` will write. (Inline, or GCC 12 leaves out a call that seems to do nothing.)"""
    cdef const Problem* p = job.p
    cdef const Span* span
    cdef const real* out
    cdef Py_ssize_t h
    cdef int _i, s
    for s in range(strip.first, strip.first + strip.count):
        span = &job.span[s]
        out = p.out + o * p.out_per_channel + span.target
        for _i in range(count):
            for h in range(min(p.down.phases, span.rows)):
                prefetch_run(out + h * p.Q, span.length * p.grid.w.out_step)
            out += p.out_per_channel


cdef inline Py_ssize_t rows_aside(const Problem* p, int count, int d, int a) noexcept nogil:
    """Of two parts and so many channels: channel by channel, phases down, then across."""
    return count * p.down.part[d].count * p.across.part[a].count


cdef inline Py_ssize_t rows_of_part(const Problem* p, int count, int d, int a, int VN) noexcept nogil:
    """So many; but whole tiles, if they wait for another chunk: else what is beyond, others write over."""
    cdef Py_ssize_t rows = rows_aside(p, count, d, a)
    return rows if p.grid.chunks == 1 else rows_in_tiles(rows, VN)


cdef inline Py_ssize_t rows_of(const Problem* p, int count, int VN) noexcept nogil:
    """Of all parts."""
    cdef Py_ssize_t rows = 0
    cdef int d, a
    for d in range(p.down.parts):
        for a in range(p.across.parts):
            rows += rows_of_part(p, count, d, a, VN)
    return rows


cdef inline void multiply_part(
    Job* job, const Strip* strip, int VN, Py_ssize_t o, int count, int d, int a, real* aside,
) noexcept nogil:
    cdef const Problem* p = job.p
    cdef const Part* down = &p.down.part[d]
    cdef const Part* across = &p.across.part[a]
    cdef const Taps* taps = &job.part[d * p.across.parts + a]
    cdef const Layout* layout = &p.layout[d * p.across.parts + a]
    cdef const real* filters[MAX_ROWS]
    cdef real biases[MAX_ROWS]
    cdef bint with_bias = p.bias != NULL and not job.accumulate
    cdef const real* columns = strip.columns + taps.first_column
    cdef Py_ssize_t left = rows_aside(p, count, d, a), row = 0, col = 0, width = VN * LANES
    cdef int R, r
    while left > 0:
        R = rows_for(left, VN)
        for r in range(R):
            filters[r] = (
                layout.first + taps.first_weight
                + o * p.w.per_filter + row * layout.down + col * layout.across
            )
            if with_bias:
                biases[r] = p.bias[o]
            if left > r + 1:  # else rows beyond repeat the last
                col += 1
                if col == across.count:
                    col, row = 0, row + 1
                if row == down.count:
                    row, o = 0, o + 1
        tile_for(R, VN)(
            taps.count, filters, taps.weights, columns, taps.columns, aside, width,
            biases if with_bias else NULL, job.accumulate,
        )
        aside += R * width
        left -= R


cdef inline void put(
    const Job* job, const Strip* strip, Py_ssize_t o, int count, int VN, const real* part,
) noexcept nogil:
    """The results of a strip, from aside to where they belong."""
    cdef const Problem* p = job.p
    cdef const Part* down
    cdef const Span* span
    cdef const real* at
    cdef const real* phase[MOST_PHASES]
    cdef real* out
    cdef Py_ssize_t step = p.grid.w.out_step, width = VN * LANES, row, i, j, h
    cdef int d, a, s, joined
    for d in range(p.down.parts):
        down = &p.down.part[d]
        for row in range(down.count):
            h = down.first + row
            for i in range(count):
                at, joined = part, 0
                for a in range(p.across.parts):
                    for j in range(p.across.part[a].count):
                        phase[joined] = at + ((i * down.count + row) * p.across.part[a].count + j) * width
                        joined += 1
                    at += rows_of_part(p, count, d, a, VN) * width
                out = p.out + (o + i) * p.out_per_channel + h * p.Q
                for s in range(strip.first, strip.first + strip.count):
                    span = &job.span[s]
                    if h < span.rows:
                        weaver_for(joined, step)(
                            out + span.target, phase, span.lane, span.length, joined, step, span.cols
                        )
        for a in range(p.across.parts):
            part += rows_of_part(p, count, d, a, VN) * width
