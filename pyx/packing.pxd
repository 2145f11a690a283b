"""Filters packed: the taps of one phase after another, so that a tile reads them from first to last.

As they are given, the numbers of a filter may lie in as many lines, at distances that may be powers of
two, so that they share few cache sets: in the gradient with respect to the input. Where a phase has every
n-th tap, a tile reads lines of which it uses little. And it reads them again for every strip.

A packed filter is, phase down by phase across, an array (channels, rows, columns) of the phase's taps. A
phase is here what a tap's row and column leave when divided by the upsampling.
"""

from buffers cimport Filters
from parallel cimport run_items
from simd cimport LANES, load, prefetch, real, store, transpose, vec
from taps cimport Axis, Side, ceil_div

cdef enum:
    # Bytes of filters from which on they are packed (less stays in the first-level cache), and at a time;
    # outputs that must use each. (AVX2, 77 KB to 5 MB, both dtypes, 98 and 196 outputs in float64, 196 to 400
    # in float32: 1.0 to 1.35 times as fast, 77 KB on two threads 0.85; half of that 0.75 to 1.2. Transposed,
    # 200 and more: 1.05 to 1.4.)
    FROM_BYTES = 1 << 15
    AT_ONCE_BYTES = 1 << 21
    LEAST_OUTPUTS = 24 * LANES
    LEAST_TRANSPOSED = 12 * LANES
    # Numbers that threads share. (19 to 74 thousand: to start threads takes as long as packing them.)
    LEAST_SHARED = 1 << 16
    # Filters of a work item; those that are transposed are read along whole lines of each channel. (Four
    # lines against one, 512 filters of 2048 channels: packing takes half as long.)
    FILTERS_AN_ITEM = 16
    TRANSPOSED_AN_ITEM = 64
    PAD = 16  # numbers between two filters
    # Channels that are fetched ahead. (256 filters of 512 channels: packing takes half as long.)
    AHEAD = 4


cdef struct Packing:
    Filters given
    Py_ssize_t up_h, up_w
    Py_ssize_t pitch, group  # numbers from one packed filter to the next, and how many at a time, or 0: none
    real* to
    bint transposed  # of one tap each, given with filters side by side
    Py_ssize_t per_item  # filters
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
    packing.transposed = taps == w.per_filter == 1
    packing.per_item = TRANSPOSED_AN_ITEM if packing.transposed else FILTERS_AN_ITEM
    packing.pitch = w.C * taps + PAD
    fitting = AT_ONCE_BYTES // (packing.pitch * <Py_ssize_t> sizeof(real))
    if (
        not in_order and fitting
        and outputs >= (LEAST_TRANSPOSED if packing.transposed else LEAST_OUTPUTS)
        and w.O * w.C * taps * <Py_ssize_t> sizeof(real) >= FROM_BYTES
    ):
        packing.group = ceil_div(w.O, ceil_div(w.O, fitting))
    return packing


cdef inline Filters pack(Packing* packing, Py_ssize_t first, int threads) except *:
    """The group of filters from that one on, in `packing.to`."""
    cdef Filters w = packing.given
    packing.first, packing.count = first, min(packing.group, w.O - first)
    if packing.count * w.C * w.KH * w.KW < LEAST_SHARED:
        threads = 1
    run_items(pack_item, packing, ceil_div(packing.count, packing.per_item), 0,
              w.KH * w.KW * sizeof(Move), threads)
    w.start, w.O, w.per_filter, w.packed = packing.to, packing.count, packing.pitch, True
    return w


cdef struct Move:
    # Of a tap: where a filter has it, and where the packed one has it, for the channel at work; and how far
    # from there the next channel has it.
    Py_ssize_t source, target, per_channel


cdef inline int pack_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """Some filters, channel by channel: as they are given, those of neighbours mostly lie side by side."""
    cdef const Packing* p = <const Packing*> problem
    cdef const Filters* w = &p.given
    cdef Py_ssize_t first = item * p.per_item, last = min(p.count, first + p.per_item)
    cdef Py_ssize_t taps = w.KH * w.KW, _c, o, t
    cdef const real* source = w.start + p.first * w.per_filter
    cdef const real* given
    cdef real* packed
    cdef Move* moves = <Move*> scratch
    if p.transposed:
        transpose_filters(p, first, last, source)
        return 0
    tabulate_moves(p, moves)
    source += first * w.per_filter
    for _c in range(w.C):
        for o in range(FILTERS_AN_ITEM):
            prefetch(source + o * w.per_filter + AHEAD * w.per_channel)
        for t in range(taps):
            given, packed = source + moves[t].source, p.to + first * p.pitch + moves[t].target
            if last - first == FILTERS_AN_ITEM:
                copy_tap(FILTERS_AN_ITEM, given, w.per_filter, packed, p.pitch)
            else:
                copy_tap(last - first, given, w.per_filter, packed, p.pitch)
            moves[t].target += moves[t].per_channel
        source += w.per_channel
    return 0


cdef inline void copy_tap(
    const Py_ssize_t count, const real* given, Py_ssize_t per_filter, real* packed, Py_ssize_t pitch,
) noexcept nogil:
    """That of `count` filters; the compiler unrolls it for a constant."""
    cdef Py_ssize_t o
    for o in range(count):
        packed[o * pitch] = given[o * per_filter]


cdef inline void tabulate_moves(const Packing* p, Move* moves) noexcept nogil:
    """Those of all taps, phase by phase, for the first channel."""
    cdef const Filters* w = &p.given
    cdef Py_ssize_t u, v, i, j, rows, cols, target
    for u in range(min(p.up_h, w.KH)):
        rows = ceil_div(w.KH - u, p.up_h)
        for v in range(min(p.up_w, w.KW)):
            cols = ceil_div(w.KW - v, p.up_w)
            target = w.C * (taps_before(w.KH, p.up_h, u) * w.KW + rows * taps_before(w.KW, p.up_w, v))
            for i in range(rows):
                for j in range(cols):
                    moves.source = (u + i * p.up_h) * w.per_row + (v + j * p.up_w) * w.per_col
                    moves.target, moves.per_channel = target + i * cols + j, rows * cols
                    moves += 1


cdef inline void transpose_filters(
    const Packing* p, Py_ssize_t first, Py_ssize_t last, const real* source,
) noexcept nogil:
    """One tap, and filters side by side."""
    cdef real* to = p.to
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
