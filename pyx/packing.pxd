"""Filters packed: the taps of one phase after another, so that a tile reads them from first to last.

As they are given, the numbers of a filter may lie in as many lines, at distances that may be powers of
two, so that they share few cache sets: in the gradient with respect to the input. Where a phase has every
n-th tap, a tile reads lines of which it uses little. And it reads them again for every strip.

A packed filter is, phase down by phase across, an array (channels, rows, columns) of the phase's taps. A
phase is here what a tap's row and column leave when divided by the upsampling.
"""

from buffers cimport Filters
from parallel cimport run_items
from simd cimport LANES, load, real, store, transpose, vec
from taps cimport Axis, Side, ceil_div

cdef enum:
    # Bytes of filters from which on they are packed (less stays in the first-level cache), and at a time;
    # outputs that must use each. (AVX2, 100 KB to 3 MB, both dtypes, 500 outputs and more: 1.0 to 1.35 times
    # as fast; 400 in float32, 200 in float64 0.9 to 1.27; half of that 0.7 to 0.95. Transposed, 200 and more:
    # 1.05 to 1.4.)
    FROM_BYTES = 1 << 15
    AT_ONCE_BYTES = 1 << 21
    LEAST_OUTPUTS = 50 * LANES
    LEAST_TRANSPOSED = 12 * LANES
    FILTERS_AN_ITEM = 16
    PAD = 16  # numbers between two filters


cdef struct Packing:
    Filters given
    Py_ssize_t up_h, up_w
    Py_ssize_t pitch, group  # numbers from one packed filter to the next, and how many at a time, or 0: none
    real* to
    Py_ssize_t first, count  # those at work


cdef struct Layout:
    # Where filters have the taps of a part: the first tap of the first filter, the distances from one to the
    # next, and to those of the next phase of the part, down and across.
    const real* first
    Py_ssize_t per_channel, per_row, per_col, down, across


cdef inline Layout layout_of(
    const Filters* w, const Axis* h, const Axis* v, const Side* down, const Side* across,
) noexcept nogil:
    cdef Layout layout
    cdef Py_ssize_t before_h, before_v
    layout.first = w.start
    if w.packed:
        before_h = taps_before(w.KH, h.tap_step, h.tap_first)
        before_v = taps_before(w.KW, v.tap_step, v.tap_first)
        layout.first += w.C * (before_h * w.KW + h.taps * before_v)
        layout.per_channel, layout.per_row, layout.per_col = h.taps * v.taps, v.taps, 1
        layout.down, layout.across = w.C * h.taps * w.KW, w.C * h.taps * v.taps
    else:
        layout.first += h.tap_first * w.per_row + v.tap_first * w.per_col
        layout.per_channel = w.per_channel
        layout.per_row, layout.per_col = h.tap_step * w.per_row, v.tap_step * w.per_col
        layout.down, layout.across = w.per_row, w.per_col
    # The first tap of a phase is so many before that of the one before.
    layout.down *= -down.stride
    layout.across *= -across.stride
    return layout


cdef inline Py_ssize_t taps_before(Py_ssize_t kernel, Py_ssize_t up, Py_ssize_t phase) noexcept nogil:
    """Of a kernel, those of the phases before."""
    return phase * (kernel // up) + min(phase, kernel % up)


cdef inline Packing packing_of(
    const Filters* w, Py_ssize_t up_h, Py_ssize_t up_w, Py_ssize_t outputs,
) noexcept nogil:
    """How to pack filters of which each has so many outputs."""
    cdef Packing packing
    cdef Py_ssize_t taps = w.KH * w.KW, fitting
    cdef bint in_order = (
        w.per_channel == taps and (w.per_row == w.KW or w.KH == 1) and (w.per_col == 1 or w.KW == 1)
        and (up_h == 1 or w.KH == 1) and (up_w == 1 or w.KW == 1)
    )
    packing.given, packing.group = w[0], 0
    packing.up_h, packing.up_w = up_h, up_w
    packing.pitch = w.C * taps + PAD
    fitting = AT_ONCE_BYTES // (packing.pitch * <Py_ssize_t> sizeof(real))
    if (
        not in_order and fitting
        and outputs >= (LEAST_TRANSPOSED if taps == w.per_filter == 1 else LEAST_OUTPUTS)
        and w.O * w.C * taps * <Py_ssize_t> sizeof(real) >= FROM_BYTES
    ):
        packing.group = ceil_div(w.O, ceil_div(w.O, fitting))
    return packing


cdef inline Filters pack(Packing* packing, Py_ssize_t first, int threads) except *:
    """The group of filters from that one on, in `packing.to`."""
    cdef Filters w = packing.given
    packing.first, packing.count = first, min(packing.group, w.O - first)
    run_items(pack_item, packing, ceil_div(packing.count, FILTERS_AN_ITEM), 0, 0, threads)
    w.start, w.O, w.per_filter, w.packed = packing.to, packing.count, packing.pitch, True
    return w


cdef inline int pack_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """Some filters, phase by phase."""
    cdef const Packing* p = <const Packing*> problem
    cdef const Filters* w = &p.given
    cdef Py_ssize_t first = item * FILTERS_AN_ITEM, last = min(p.count, first + FILTERS_AN_ITEM)
    cdef Py_ssize_t u, v, rows, cols
    cdef const real* source
    cdef real* to
    for u in range(min(p.up_h, w.KH)):
        rows = ceil_div(w.KH - u, p.up_h)
        for v in range(min(p.up_w, w.KW)):
            cols = ceil_div(w.KW - v, p.up_w)
            source = w.start + p.first * w.per_filter + u * w.per_row + v * w.per_col
            to = p.to + w.C * (
                taps_before(w.KH, p.up_h, u) * w.KW + rows * taps_before(w.KW, p.up_w, v)
            )
            if rows == cols == w.per_filter == 1:
                transpose_phase(p, first, last, source, to)
            else:
                copy_phase(p, first, last, rows, cols, source, to)
    return 0


cdef inline void copy_phase(
    const Packing* p, Py_ssize_t first, Py_ssize_t last, Py_ssize_t rows, Py_ssize_t cols,
    const real* source, real* to,
) noexcept nogil:
    """Channel by channel: as they are given, those of neighbouring filters mostly lie side by side."""
    cdef Py_ssize_t per_row = p.up_h * p.given.per_row, per_col = p.up_w * p.given.per_col
    cdef Py_ssize_t c, o, i, j
    cdef const real* given
    cdef real* packed
    for c in range(p.given.C):
        for o in range(first, last):
            given = source + o * p.given.per_filter + c * p.given.per_channel
            packed = to + o * p.pitch + c * rows * cols
            for i in range(rows):
                for j in range(cols):
                    packed[i * cols + j] = given[i * per_row + j * per_col]


cdef inline void transpose_phase(
    const Packing* p, Py_ssize_t first, Py_ssize_t last, const real* source, real* to,
) noexcept nogil:
    """One tap, and filters side by side."""
    cdef vec corner[LANES]
    cdef Py_ssize_t c = 0, o, i
    while c + LANES <= p.given.C:
        o = first
        while o + LANES <= last:
            for i in range(LANES):
                corner[i] = load(source + o + (c + i) * p.given.per_channel)
            transpose(corner)
            for i in range(LANES):
                store(to + (o + i) * p.pitch + c, corner[i])
            o += LANES
        while o < last:
            for i in range(LANES):
                to[o * p.pitch + c + i] = source[o + (c + i) * p.given.per_channel]
            o += 1
        c += LANES
    while c < p.given.C:
        for o in range(first, last):
            to[o * p.pitch + c] = source[o + c * p.given.per_channel]
        c += 1
