"""The two ends of Winograd's convolution: filters, transformed, and results, transformed back and written.

The input's end, which the gradient with respect to the weights has as well, is in transforms.pxd.
"""

from buffers cimport Filters
from simd cimport (
    LANES, add, copy_run, high, horizontal_sum, load, low, prefetch_run, real, splat, store, subtract,
    transpose, vec,
)
from taps cimport ceil_div
from transforms cimport (
    CHANNELS_AHEAD, LINE, MOST_SIDE, MOST_TAPS, PANEL, REACH, Images, Run, Side, Tiling, collect,
    transform_output, transform_weights,
)


cdef struct Problem:
    Images images
    Filters w
    const real* bias
    real* out
    Py_ssize_t P, Q
    # Channels that the products are of: as many for each part of the input and each phase of the output.
    # Those of the input lie part by part, those of the output channel by channel.
    Py_ssize_t C, O
    const real* w_end  # beyond the last number of w
    Tiling tiling
    Py_ssize_t most_terms  # channels of a chunk, those of all parts counted
    Py_ssize_t channel, channels  # the chunk of input channels at work, of each part
    Py_ssize_t split_pitch, pitch  # of a chunk's, of a part and of all: each rounded up to whole vectors
    Py_ssize_t first, filters  # the group of filters at work; each has a row for each phase
    real* weights  # theirs, transformed: [element][row][channel]
    Py_ssize_t panel, panels  # the slab of panels at work
    real* inputs  # theirs, transformed: [panel][element][channel][tile]; NULL: each item makes its own
    real* sums  # of the chunks before, a piece for each item; NULL: all channels are multiplied at once
    Py_ssize_t together  # panels of an item
    Py_ssize_t parts  # that the filters of a group are cut in, one to an item
    Py_ssize_t weights_plane, input_plane, output_plane  # numbers from one element to the next


# ---- filters -------------------------------------------------------------------------------------

cdef struct Taps:
    # Of the kernel of one part of the input and one phase of the output: tap i of an axis is the kernel's
    # tap first + i*step, if it has one.
    Py_ssize_t first_row, first_col


cdef inline Taps taps_of(const Problem* p, Py_ssize_t split, Py_ssize_t up) noexcept nogil:
    cdef const Side* h = &p.tiling.h
    cdef const Side* w = &p.tiling.w
    cdef Taps taps
    taps.first_row = h.first + split // w.split * h.apart - up // w.up
    taps.first_col = w.first + split % w.split * w.apart - up % w.up
    return taps


cdef inline void transform_filters(
    const Problem* p, const real* w, Taps taps, Py_ssize_t per_lane, Py_ssize_t lanes,
    real* to, Py_ssize_t plane,
) noexcept nogil:
    """Transform `lanes` filters, `per_lane` numbers apart, to to[element * plane + lane]."""
    cdef vec g[MOST_TAPS * MOST_TAPS]  # lanes beyond the last hold what they may: nobody reads them
    cdef vec half[REACH * MOST_TAPS]
    cdef Py_ssize_t rows = p.tiling.h.taps, cols = p.tiling.w.taps, wide = p.tiling.w.reach, i, j
    if p.tiling.splits == p.tiling.ups == 1:
        gather_filters(p, w, per_lane, lanes, g)
    else:
        gather_part(p, w, taps, per_lane, lanes, <real*> g)
    if rows == 1:
        transform_weights(g, 1, <vec*> to, plane // LANES, &p.tiling.w)
        return
    for j in range(cols):
        transform_weights(g + j, cols, half + j, cols, &p.tiling.h)
    for i in range(p.tiling.h.reach):
        transform_weights(half + cols * i, 1, <vec*> (to + wide * i * plane), plane // LANES, &p.tiling.w)


cdef inline void gather_part(
    const Problem* p, const real* w, Taps taps, Py_ssize_t per_lane, Py_ssize_t lanes, real* g,
) noexcept nogil:
    """g[tap, lane] = the taps of `lanes` filters, `per_lane` numbers apart, that belong to a part."""
    cdef Py_ssize_t lane, i, j, u, v
    for i in range(p.tiling.h.taps):
        u = taps.first_row + i * p.tiling.h.step
        for j in range(p.tiling.w.taps):
            v = taps.first_col + j * p.tiling.w.step
            if 0 <= u < p.w.KH and 0 <= v < p.w.KW:
                for lane in range(lanes):
                    g[lane] = w[lane * per_lane + u * p.w.per_row + v * p.w.per_col]
            else:
                for lane in range(lanes):
                    g[lane] = 0
            g += LANES


cdef inline void gather_filters(
    const Problem* p, const real* w, Py_ssize_t per_lane, Py_ssize_t lanes, vec* g,
) noexcept nogil:
    """g[tap][lane] = the taps of `lanes` filters, `per_lane` numbers apart."""
    cdef real* filters = <real*> g
    cdef vec corner[LANES]
    cdef Py_ssize_t rows = p.tiling.h.taps, cols = p.tiling.w.taps, taps = rows * cols
    cdef Py_ssize_t lane, tap = 0, i, j
    # Filters are mostly whole in memory, or back to front for the gradient with respect to the input.
    cdef bint turned = p.w.per_col == -1 and (rows == 1 or p.w.per_row == -cols)
    cdef const real* first = w - (taps - 1) if turned else w
    if lanes == LANES and (turned or p.w.per_col == 1 and (rows == 1 or p.w.per_row == cols)):
        while tap < taps and first + (per_lane * (LANES - 1) if per_lane > 0 else 0) + tap + LANES <= p.w_end:
            for lane in range(LANES):
                corner[lane] = load(first + lane * per_lane + tap)
            transpose(corner)
            for i in range(min(<Py_ssize_t> LANES, taps - tap)):
                g[taps - 1 - tap - i if turned else tap + i] = corner[i]
            tap += LANES
        if tap >= taps:
            return
    for lane in range(lanes):
        for i in range(rows):
            for j in range(cols):
                filters[(cols * i + j) * LANES + lane] = w[i * p.w.per_row + j * p.w.per_col]
        w += per_lane


# ---- results -------------------------------------------------------------------------------------

cdef struct Place:
    # Of a run of tiles in one channel of the result.
    real* start
    Py_ssize_t rows, cols


cdef inline Place place_of(const Problem* p, const Run* run, Py_ssize_t o, Py_ssize_t phase) noexcept nogil:
    cdef const Side* h = &p.tiling.h
    cdef const Side* w = &p.tiling.w
    cdef Py_ssize_t row = run.row * h.outs, col = run.col * w.outs
    cdef Py_ssize_t down = phase // w.up, across = phase % w.up
    cdef Place place
    place.start = p.out + ((run.image * p.w.O + o) * p.P + row * h.up + down) * p.Q + col * w.up + across
    place.rows = min(h.outs, ceil_div(p.P - down, h.up) - row)
    place.cols = min(run.tiles * w.outs * w.up, p.Q - across - col * w.up)
    return place


cdef inline int write_tiles(
    const Problem* p, Py_ssize_t o, Py_ssize_t phase, Py_ssize_t phases, int VN, int run_count,
    const Run* runs, const real* outputs, Py_ssize_t per_phase,
) noexcept nogil:
    """The panel's VN vectors of tiles of one output channel, from outputs[element, tile].

    They are of one phase, or of both phases of the columns, which are so far apart. `outputs` lies on whole
    vectors. Returns 1 if one is not finite.
    """
    cdef const vec* m = <const vec*> outputs
    cdef vec half[MOST_SIDE * REACH]
    cdef vec y[MOST_SIDE]
    cdef real lines[2 * MOST_SIDE * MOST_SIDE * PANEL + LANES]  # [row, phase, tile and column]
    cdef real both[2 * LINE]
    cdef vec zeros = splat(0), bias = splat(p.bias[o] if p.bias != NULL else 0)
    cdef const Side* h = &p.tiling.h
    cdef const Side* w = &p.tiling.w
    cdef real* row
    cdef const real* line
    cdef Py_ssize_t tall = h.outs, wide = w.outs, reach = w.reach, step = p.output_plane // LANES
    cdef Py_ssize_t i, j, k, v
    cdef Place place
    cdef int run
    if o + CHANNELS_AHEAD < p.w.O:
        for run in range(run_count):
            place = place_of(p, &runs[run], o + CHANNELS_AHEAD, phase)
            for i in range(place.rows):
                prefetch_run(place.start + i * h.up * p.Q, place.cols)
    for k in range(phases):
        for v in range(VN):
            for j in range(reach):
                if h.reach == 1:
                    half[j] = m[j * step + v]
                else:
                    transform_output(m + j * step + v, reach * step, half + j, reach, h)
            for i in range(tall):
                transform_output(half + reach * i, 1, y, 1, w)
                for j in range(wide):
                    y[j] = add(y[j], bias)
                    zeros = add(zeros, subtract(y[j], y[j]))
                collect(y, wide, lines + ((2 * i + k) * PANEL + v * LANES) * wide)
        m += per_phase // LANES
    for run in range(run_count):
        place = place_of(p, &runs[run], o, phase)
        for i in range(place.rows):
            row = place.start + i * h.up * p.Q
            line = lines + (2 * i * PANEL + runs[run].lane) * wide
            if w.up == 1:
                copy_run(row, line, place.cols)
            elif phases == 2:
                weave(line, line + PANEL * wide, runs[run].tiles * wide, both)
                copy_run(row, both, place.cols)
            else:
                for j in range(ceil_div(place.cols, w.up)):
                    row[j * w.up] = line[j]
    return horizontal_sum(zeros) != 0


cdef inline void weave(const real* a, const real* b, Py_ssize_t count, real* to) noexcept nogil:
    """to[2*i] = a[i] and to[2*i + 1] = b[i], for i < count and up to LANES - 1 more."""
    cdef Py_ssize_t i = 0
    while i < count:
        store(to + 2 * i, low(load(a + i), load(b + i)))
        store(to + 2 * i + LANES, high(load(a + i), load(b + i)))
        i += LANES
