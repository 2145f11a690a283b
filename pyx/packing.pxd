"""Filters packed: each whole in memory, as those of the gradient with respect to the input are not.

There, the numbers of a filter lie in as many lines, at distances that may be powers of two, so that they
share few cache sets; and a tile reads them again for every panel.
"""

from buffers cimport Filters
from parallel cimport run_items
from simd cimport real
from taps cimport ceil_div

cdef enum:
    # Bytes of filters from which on they are packed (less stays in the first-level cache), and at a time;
    # outputs that must use each. (AVX2, 100 KB to 3 MB, both dtypes: 1.0 to 1.35 times as fast; with 64
    # outputs 0.7.)
    FROM_BYTES = 1 << 15
    AT_ONCE_BYTES = 1 << 21
    LEAST_OUTPUTS = 512
    FILTERS_AN_ITEM = 8
    PAD = 16  # numbers between two filters


cdef struct Packing:
    Filters given
    Py_ssize_t pitch, group  # numbers from one packed filter to the next, and how many at a time, or 0: none
    real* to
    Py_ssize_t first, count  # those at work


cdef inline Packing packing_of(const Filters* w, Py_ssize_t outputs) noexcept nogil:
    """How to pack filters of which each has so many outputs."""
    cdef Packing packing
    cdef Py_ssize_t taps = w.KH * w.KW, fitting
    cdef bint whole = (
        w.per_channel == taps and (w.per_row == w.KW or w.KH == 1) and (w.per_col == 1 or w.KW == 1)
    )
    packing.given, packing.group = w[0], 0
    packing.pitch = w.C * taps + PAD
    fitting = AT_ONCE_BYTES // (packing.pitch * <Py_ssize_t> sizeof(real))
    if (
        not whole and fitting and outputs >= LEAST_OUTPUTS
        and w.O * w.C * taps * <Py_ssize_t> sizeof(real) >= FROM_BYTES
    ):
        packing.group = ceil_div(w.O, ceil_div(w.O, fitting))
    return packing


cdef inline Filters pack(Packing* packing, Py_ssize_t first, int threads) except *:
    """The group of filters from that one on, in `packing.to`."""
    cdef Filters w = packing.given
    packing.first, packing.count = first, min(packing.group, w.O - first)
    run_items(pack_item, packing, ceil_div(packing.count, FILTERS_AN_ITEM), 0, 0, threads)
    w.start, w.O, w.per_filter = packing.to, packing.count, packing.pitch
    w.per_channel, w.per_row, w.per_col = w.KH * w.KW, w.KW, 1
    return w


cdef inline int pack_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """Some filters, side by side: given, neighbours mostly lie so."""
    cdef const Packing* p = <const Packing*> problem
    cdef const Filters* w = &p.given
    cdef Py_ssize_t first = item * FILTERS_AN_ITEM, last = min(p.count, first + FILTERS_AN_ITEM)
    cdef Py_ssize_t c, o, _u, v
    cdef const real* source
    cdef real* to
    for c in range(w.C):
        for o in range(first, last):
            source = w.start + (p.first + o) * w.per_filter + c * w.per_channel
            to = p.to + o * p.pitch + c * w.KH * w.KW
            for _u in range(w.KH):
                for v in range(w.KW):
                    to[v] = source[v * w.per_col]
                to += w.KW
                source += w.per_row
    return 0
