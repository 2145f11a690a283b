"""The phases of a dilated input (taps.pxd), several at once: they read it together and write whole lines.

Outputs side by side belong to different phases. One after another, each would read the whole input, and
write every n-th number. Joined, their tiles run one after another on the same pixels, each with
the taps of its own phase, and their results are woven on the way to memory.
"""

from simd cimport LANES, copy_run, high, load, low, real, store, store_some, vec
from taps cimport Axis, Chunk, Grid, Side, ceil_div, phase_of, phases

cdef enum:
    # Phases of an axis that are joined at the most, and parts.
    MOST_PHASES = 16
    MOST_PARTS = 4


cdef struct Part:
    # Phases side by side that read the same inputs by as many taps: the first of them, how far it is from the
    # first of all that are joined, and how many they are.
    Axis axis
    Py_ssize_t first, count


cdef struct Joint:
    # Phases of an axis, and an axis that reads what any of them does.
    Axis whole
    Py_ssize_t phases
    int parts
    Part part[MOST_PARTS]


cdef inline Joint join(const Side* side, Py_ssize_t first, bint empty_apart) noexcept nogil:
    """Phases from that one on; with `empty_apart`, only such as taps meet, or only others.

    In the gradient of a convolution of patches, whose kernel is as wide as its stride, all are one part.
    """
    cdef Joint joint
    cdef Axis axis
    cdef Py_ssize_t begin = 0, end = 0, phase = first
    cdef Py_ssize_t last = min(side.outs, first + MOST_PHASES, phases(side.stride, side.up))
    cdef Part* part = joint.part
    joint.parts = 0
    while phase < last:
        axis = phase_of(side, phase, True)
        if joint.parts and axis.origin == part.axis.origin and axis.taps == part.axis.taps:
            part.count += 1
        elif joint.parts == MOST_PARTS:
            break
        elif empty_apart and joint.parts and (axis.taps > 0) != (begin < end):
            break
        else:
            part = &joint.part[joint.parts]
            part.axis, part.first, part.count = axis, phase - first, 1
            joint.parts += 1
            if begin == end:
                begin, end = axis.origin, axis.origin + axis.taps
            elif axis.taps:
                begin, end = min(begin, axis.origin), max(end, axis.origin + axis.taps)
        phase += 1
    joint.phases = phase - first
    joint.whole = phase_of(side, first, True)
    joint.whole.origin, joint.whole.taps = begin, end - begin
    return joint


cdef inline Py_ssize_t tabulate_part(
    const Grid* grid, const Chunk* chunk, const Axis* h, const Axis* w,
    Py_ssize_t per_channel, Py_ssize_t per_row, Py_ssize_t per_col,
    const Py_ssize_t* offsets, Py_ssize_t* columns, Py_ssize_t* weights,
) noexcept nogil:
    """Of those taps, which have such offsets, a part's: in `columns`; and in `weights`, from its first.

    They lie so far apart in a filter. Of the whole grid they are all, and `columns` may be
    `offsets`.
    """
    # Where the part's first tap lies in the chunk.
    cdef Py_ssize_t down = h.origin - grid.h.origin - chunk.u, across = w.origin - grid.w.origin - chunk.v
    cdef Py_ssize_t u_first = max(<Py_ssize_t> 0, -down), u_last = min(h.taps, chunk.us - down)
    cdef Py_ssize_t v_first = max(<Py_ssize_t> 0, -across), v_last = min(w.taps, chunk.vs - across)
    cdef Py_ssize_t c, u, v, tap, weight, i = 0
    for c in range(chunk.channels):
        for u in range(u_first, u_last):
            tap = (c * chunk.us + down + u) * chunk.vs + across
            weight = (chunk.channel + c) * per_channel + u * per_row
            for v in range(v_first, v_last):
                columns[i] = offsets[tap + v]
                weights[i] = weight + v * per_col
                i += 1
    return i


# out[i*step + j] = phase[j][at + i] for i < count and j < joined, but nothing from out[room] on.
ctypedef void (*Weaver)(
    real* out, const real** phase, Py_ssize_t at, Py_ssize_t count,
    int joined, Py_ssize_t step, Py_ssize_t room,
) noexcept nogil


cdef inline Weaver weaver_for(int joined, Py_ssize_t step) noexcept nogil:
    """By pointer, as the tiles, for the sake of registers."""
    if step == 1:
        return weave_one
    if joined == step == 2:
        return weave_two
    return weave_four if joined == step == 4 else weave_any


cdef inline void weave_one(
    real* out, const real** phase, Py_ssize_t at, Py_ssize_t count,
    int joined, Py_ssize_t step, Py_ssize_t room,
) noexcept nogil:
    copy_run(out, phase[0] + at, min(count, room))


cdef inline void weave_two(
    real* out, const real** phase, Py_ssize_t at, Py_ssize_t count,
    int joined, Py_ssize_t step, Py_ssize_t room,
) noexcept nogil:
    cdef Py_ssize_t i = 0, whole = min(count, room // 2)
    cdef vec a, b
    while i < whole and whole >= LANES:
        i = min(i, whole - LANES)  # the last vectors end with the run
        a, b = load(phase[0] + at + i), load(phase[1] + at + i)
        store(out + 2 * i, low(a, b))
        store(out + 2 * i + LANES, high(a, b))
        i += LANES
    if whole < LANES:
        a, b = load(phase[0] + at), load(phase[1] + at)
        store_some(out, low(a, b), 2 * whole)
        store_some(out + LANES, high(a, b), 2 * whole - LANES)
        i = whole
    if i < count:
        weave_any(out + 2 * i, phase, at + i, count - i, joined, step, room - 2 * i)


cdef inline void weave_four(
    real* out, const real** phase, Py_ssize_t at, Py_ssize_t count,
    int joined, Py_ssize_t step, Py_ssize_t room,
) noexcept nogil:
    cdef Py_ssize_t i = 0, whole = min(count, room // 4)
    cdef vec a, b, c, d
    while i < whole and whole >= LANES:
        i = min(i, whole - LANES)
        a, b = load(phase[0] + at + i), load(phase[1] + at + i)
        c, d = load(phase[2] + at + i), load(phase[3] + at + i)
        store(out + 4 * i, low(low(a, c), low(b, d)))
        store(out + 4 * i + LANES, high(low(a, c), low(b, d)))
        store(out + 4 * i + 2 * LANES, low(high(a, c), high(b, d)))
        store(out + 4 * i + 3 * LANES, high(high(a, c), high(b, d)))
        i += LANES
    if i < count:
        weave_any(out + 4 * i, phase, at + i, count - i, joined, step, room - 4 * i)


cdef inline void weave_any(
    real* out, const real** phase, Py_ssize_t at, Py_ssize_t count,
    int joined, Py_ssize_t step, Py_ssize_t room,
) noexcept nogil:
    cdef Py_ssize_t i, j, whole
    for j in range(joined):
        whole = count if (count - 1) * step + j < room else ceil_div(room - j, step)
        for i in range(whole):
            out[i * step + j] = phase[j][at + i]
