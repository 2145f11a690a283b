"""Convolution with stride 1 by Winograd's algorithm: forward, and gradient with respect to the input.

transforms.pxd has the algorithm. The weights of a group of output channels are transformed first, by
all threads; then each work item takes one panel of tiles from the input to the output.
"""

from libc.stdlib cimport free

from buffers cimport Batch, Filters, batch_of, bias_of, filters_of
from parallel cimport allocate, carve, on_line, round_to_line, run_items
from simd cimport LANES, add, copy_run, horizontal_sum, load, real, splat, subtract, transpose, vec
from taps cimport ceil_div
from tile cimport MAX_ROWS, rows_for, tile_for
from transforms cimport (
    MOST_ELEMENTS, MOST_SIDE, MOST_TAPS, PAD, PANEL, REACH, Images, Run, Tiling, collect, images_of,
    read_tiles, runs_of, tiling_of, transform_output, transform_weights,
)

cdef enum:
    # Bytes of transformed weights, and of transformed inputs, that all threads share.
    WEIGHTS_BYTES = 1 << 20
    INPUTS_BYTES = 2 << 20
    # Input channels of one item of their transform.
    CHANNELS = 16
    # With fewer panels than this for each of several threads, items are parts of the output channels.
    FEW_PANELS = 2
    FEWEST_ROWS = 24
    # The tiles that are few: such as would not fill a vector, or such as all weights, where they are too
    # many for the cache, had to be transformed for again and again. (64 tiles of 14x14 images, 512
    # channels: 1.6 times as fast as panels.)
    FEW_TILES = 64
    FEW_BYTES = 5 << 19  # of their transformed inputs
    FEW_CHANNELS = 128  # input channels whose transformed weights an item holds: 600 KB with AVX-512


cdef struct Problem:
    Images images
    Filters w
    const real* bias
    real* out
    Py_ssize_t C, O, P, Q
    const real* w_end  # beyond the last number of w
    Tiling tiling
    Py_ssize_t pitch  # C, rounded up to whole vectors
    Py_ssize_t first, rows  # the group of output channels at work
    real* weights  # theirs, transformed: [element][row][channel]
    Py_ssize_t panel, panels  # the slab of panels at work
    real* inputs  # theirs, transformed: [panel][element][channel][tile]; NULL: each item makes its own
    Py_ssize_t parts  # that the rows of a group are cut in, one to an item
    Py_ssize_t weights_plane, input_plane, output_plane  # numbers from one element to the next


def winograd(x, w, b, out, tuple pad, int threads):
    """What `correlate` computes for kernels of 1, 3 or 5 rows and 3 or 5 columns, without stride and
    upsampling.

    Returns whether all results are finite. If they are not, none may be used: an infinity or a NaN
    (or an overflow within the transforms) spreads over a whole tile.
    """
    cdef Problem p
    cdef Batch results = batch_of(out)
    p.images = images_of(x, pad)
    p.w = filters_of(w)
    p.bias = bias_of(b)
    if p.images.N == 0:
        return True
    p.w_end = p.w.start + 1 + (
        max(<Py_ssize_t> 0, (p.w.O - 1) * p.w.per_filter) + max(<Py_ssize_t> 0, (p.w.C - 1) * p.w.per_channel)
        + max(<Py_ssize_t> 0, (p.w.KH - 1) * p.w.per_row) + max(<Py_ssize_t> 0, (p.w.KW - 1) * p.w.per_col)
    )
    p.out, p.C, p.O, p.P, p.Q = results.start, p.images.C, results.C, results.H, results.W
    p.tiling = tiling_of(p.images.N, p.P, p.Q, p.w.KH, p.w.KW)
    return convolve_few(&p, threads) if are_few(&p) else convolve(&p, threads)


cdef bint convolve(Problem* p, int threads) except -1:
    cdef Py_ssize_t panels = ceil_div(p.tiling.count, PANEL), slab = panels
    cdef Py_ssize_t group, row_size, panel_size, weights_size, size
    cdef double macs
    cdef bint shared_inputs
    cdef char* shared
    p.pitch = ceil_div(p.C, LANES) * LANES
    row_size = p.tiling.elements * p.pitch * sizeof(real)
    group = min(p.O, max(<Py_ssize_t> 6, WEIGHTS_BYTES // row_size))
    group = ceil_div(p.O, ceil_div(p.O, group))
    p.input_plane = p.C * PANEL + PAD
    p.output_plane = (group + MAX_ROWS) * PANEL + PAD
    p.weights_plane = group * p.pitch + PAD
    panel_size = p.tiling.elements * p.input_plane * sizeof(real)
    p.parts = 1
    if threads > 1 and panels < FEW_PANELS * threads:
        p.parts = min(ceil_div(FEW_PANELS * threads, panels), ceil_div(group, FEWEST_ROWS))
    shared_inputs = group < p.O or p.parts > 1
    if shared_inputs:  # several groups, or items, need the same inputs
        slab = min(panels, max(<Py_ssize_t> 1, INPUTS_BYTES // panel_size))
        slab = ceil_div(panels, ceil_div(panels, slab))
    weights_size = round_to_line(p.tiling.elements * p.weights_plane * sizeof(real))
    shared = allocate(1, weights_size + (slab * panel_size if shared_inputs else 0))
    p.weights = <real*> on_line(shared)
    p.inputs = <real*> (on_line(shared) + weights_size) if shared_inputs else NULL
    size = item_scratch(p)
    try:
        for p.panel in range(0, panels, slab):
            p.panels = min(slab, panels - p.panel)
            macs = <double> p.panels * PANEL * p.tiling.elements * p.C
            if p.inputs != NULL:
                run_items(inputs_item, p, p.panels * ceil_div(p.C, CHANNELS), macs, 0, threads)
            for p.first in range(0, p.O, group):
                p.rows = min(group, p.O - p.first)
                run_items(weights_item, p, p.rows, <double> p.rows * row_size, 0, threads)
                if run_items(panel_item, p, p.panels * p.parts, macs * p.rows, size, threads):
                    return False
    finally:
        free(shared)
    return True


cdef inline void transform_filters(
    const Problem* p, const real* w, Py_ssize_t per_lane, Py_ssize_t lanes, real* to, Py_ssize_t plane,
) noexcept nogil:
    """Transform `lanes` filters, `per_lane` numbers apart, to to[element * plane + lane]."""
    cdef vec g[MOST_TAPS * MOST_TAPS]  # lanes beyond the last hold what they may: nobody reads them
    cdef vec half[REACH * MOST_TAPS]
    cdef Py_ssize_t rows = p.tiling.h.taps, cols = p.tiling.w.taps, i, j
    gather_filters(p, w, per_lane, lanes, g)
    if rows == 1:
        transform_weights(g, 1, <vec*> to, plane // LANES, cols)
        return
    for j in range(cols):
        transform_weights(g + j, cols, half + j, cols, rows)
    for i in range(REACH):
        transform_weights(half + cols * i, 1, <vec*> (to + REACH * i * plane), plane // LANES, cols)


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


cdef int weights_item(const void* problem, Py_ssize_t row, char* scratch) noexcept nogil:
    """Transform the weights of one output channel, a vector of input channels at a time."""
    cdef const Problem* p = <const Problem*> problem
    cdef const real* w = p.w.start + (p.first + row) * p.w.per_filter
    cdef real* to = p.weights + row * p.pitch
    cdef Py_ssize_t block, c
    for block in range(p.pitch // LANES):
        c = block * LANES
        transform_filters(p, w + c * p.w.per_channel, p.w.per_channel, min(<Py_ssize_t> LANES, p.C - c),
                          to + c, p.weights_plane)
    return 0


cdef int inputs_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """Transform some channels of one panel."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t panel = item % p.panels, first = item // p.panels * CHANNELS, c
    cdef Run runs[PANEL]
    cdef int run_count = runs_of(&p.tiling, (p.panel + panel) * PANEL, runs)
    for c in range(first, min(p.C, first + CHANNELS)):
        read_tiles(
            &p.images, &p.tiling, c, run_count, runs,
            p.inputs + panel * p.tiling.elements * p.input_plane + c * PANEL, p.input_plane,
        )
    return 0


cdef Py_ssize_t item_scratch(const Problem* p) noexcept nogil:
    """Bytes that `panel_item` carves from its scratch."""
    return (
        2 * round_to_line(p.C * sizeof(Py_ssize_t))
        + round_to_line(p.tiling.elements * p.output_plane * sizeof(real))
        + (round_to_line(p.tiling.elements * p.input_plane * sizeof(real)) if p.inputs == NULL else 0)
    )


cdef int panel_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """A part of the rows for one panel of tiles; returns 1 if a result is not finite."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t panel = item // p.parts, part = item % p.parts
    cdef Py_ssize_t o_first = p.rows * part // p.parts, o_last = p.rows * (part + 1) // p.parts
    cdef Py_ssize_t* channels = <Py_ssize_t*> carve(&scratch, p.C * sizeof(Py_ssize_t))
    cdef Py_ssize_t* input_rows = <Py_ssize_t*> carve(&scratch, p.C * sizeof(Py_ssize_t))
    cdef real* outputs = <real*> carve(&scratch, p.tiling.elements * p.output_plane * sizeof(real))
    cdef real* inputs = p.inputs
    cdef const real* rows[MAX_ROWS]
    cdef Run runs[PANEL]
    cdef int run_count = runs_of(&p.tiling, (p.panel + panel) * PANEL, runs)
    cdef int R, r, VN = 2, bad = 0
    cdef Py_ssize_t c, o, e
    for c in range(p.C):
        channels[c] = c
        input_rows[c] = c * PANEL
    if inputs != NULL:
        inputs += panel * p.tiling.elements * p.input_plane
    else:
        inputs = <real*> scratch
        for c in range(p.C):
            read_tiles(&p.images, &p.tiling, c, run_count, runs, inputs + c * PANEL, p.input_plane)
    if runs[run_count - 1].lane + runs[run_count - 1].tiles <= LANES:
        VN = 1
    for e in range(p.tiling.elements):
        o = o_first
        while o < o_last:
            R = rows_for(o_last - o, VN)
            for r in range(R):
                rows[r] = p.weights + e * p.weights_plane + min(o + r, o_last - 1) * p.pitch
            tile_for(R, VN)(p.C, rows, channels, inputs + e * p.input_plane, input_rows,
                            outputs + e * p.output_plane + o * PANEL, PANEL, NULL, False)
            o += R
    for o in range(o_first, o_last):
        bad |= write_tiles(p, p.first + o, VN, run_count, runs, outputs + o * PANEL)
    return bad


# ---- few tiles -----------------------------------------------------------------------------------
# A handful of tiles, as 4x4 images have, would leave most lanes of a panel empty. Output channels are
# the lanes then, and tiles the rows; each item transforms the weights of its channels and uses them at
# once.

cdef bint are_few(const Problem* p) noexcept nogil:
    cdef Py_ssize_t panels = ceil_div(p.tiling.count, PANEL)
    cdef Py_ssize_t bytes_a_channel = p.tiling.elements * sizeof(real)
    if p.tiling.count <= LANES:
        return True
    return (
        p.tiling.count <= FEW_TILES
        and p.O * p.C * bytes_a_channel > WEIGHTS_BYTES
        and panels * PANEL * p.C * bytes_a_channel <= FEW_BYTES
    )


cdef bint convolve_few(Problem* p, int threads) except -1:
    cdef double macs = <double> p.tiling.count * p.tiling.elements * p.C
    cdef char* shared
    p.panel, p.panels = 0, ceil_div(p.tiling.count, PANEL)
    p.input_plane, p.output_plane = p.C * PANEL + PAD, PANEL
    shared = allocate(1, p.panels * p.tiling.elements * p.input_plane * sizeof(real))
    p.inputs = <real*> on_line(shared)
    try:
        run_items(inputs_item, p, p.panels * ceil_div(p.C, CHANNELS), macs, 0, threads)
        return not run_items(
            few_item, p, ceil_div(p.O, PANEL), macs * p.O, few_scratch(p), threads
        )
    finally:
        free(shared)


cdef Py_ssize_t few_scratch(const Problem* p) noexcept nogil:
    """Bytes that `few_item` carves from its scratch."""
    return (
        round_to_line(FEW_CHANNELS * sizeof(Py_ssize_t))
        + round_to_line(p.tiling.elements * (FEW_CHANNELS * PANEL + PAD) * sizeof(real))
        + round_to_line(p.tiling.elements * (p.tiling.count + MAX_ROWS) * PANEL * sizeof(real))
    )


cdef int few_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """PANEL output channels of all tiles; returns 1 if a result is not finite."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t first = item * PANEL, count = min(<Py_ssize_t> PANEL, p.O - first)
    cdef Py_ssize_t plane = FEW_CHANNELS * PANEL + PAD, sums_plane = (p.tiling.count + MAX_ROWS) * PANEL
    cdef Py_ssize_t* channels = <Py_ssize_t*> carve(&scratch, FEW_CHANNELS * sizeof(Py_ssize_t))
    # [element][c][lane]
    cdef real* weights = <real*> carve(&scratch, p.tiling.elements * plane * sizeof(real))
    cdef real* sums = <real*> scratch  # [element][tile][lane]
    cdef vec aligned[MOST_ELEMENTS * 2]
    cdef real* outputs = <real*> aligned  # [element][tile] of one channel
    cdef const real* rows[MAX_ROWS]
    cdef Run runs[PANEL]
    cdef int run_count, VN = 1 if p.tiling.count <= LANES else 2, R, r, v, bad = 0
    cdef Py_ssize_t from_c = 0, c, cs, e, t, o, panel, tiles
    cdef const real* inputs
    for c in range(FEW_CHANNELS):
        channels[c] = c * PANEL
    while from_c < p.C:
        cs = min(<Py_ssize_t> FEW_CHANNELS, p.C - from_c)
        for c in range(cs):
            for v in range(2):
                transform_filters(
                    p, p.w.start + (first + v * LANES) * p.w.per_filter + (from_c + c) * p.w.per_channel,
                    p.w.per_filter, max(<Py_ssize_t> 0, min(<Py_ssize_t> LANES, count - v * LANES)),
                    weights + c * PANEL + v * LANES, plane,
                )
        for e in range(p.tiling.elements):
            t = 0
            while t < p.tiling.count:
                R = rows_for(p.tiling.count - t, 2)
                for r in range(R):
                    tiles = min(t + r, p.tiling.count - 1)
                    inputs = p.inputs + tiles // PANEL * p.tiling.elements * p.input_plane
                    rows[r] = inputs + e * p.input_plane + from_c * PANEL + tiles % PANEL
                tile_for(R, 2)(cs, rows, channels, weights + e * plane, channels,
                               sums + e * sums_plane + t * PANEL, PANEL, NULL, from_c > 0)
                t += R
        from_c += cs
    for panel in range(p.panels):
        run_count = runs_of(&p.tiling, panel * PANEL, runs)
        tiles = min(<Py_ssize_t> PANEL, p.tiling.count - panel * PANEL)
        for o in range(count):
            for e in range(p.tiling.elements):
                for t in range(tiles):
                    outputs[e * PANEL + t] = sums[e * sums_plane + (panel * PANEL + t) * PANEL + o]
                for t in range(tiles, VN * LANES):
                    outputs[e * PANEL + t] = 0
            bad |= write_tiles(p, first + o, VN, run_count, runs, outputs)
    return bad


# ---- results -------------------------------------------------------------------------------------

cdef inline int write_tiles(
    const Problem* p, Py_ssize_t o, int VN, int run_count, const Run* runs, const real* outputs,
) noexcept nogil:
    """The panel's VN vectors of tiles of one output channel, from outputs[element, tile].

    `outputs` lies on whole vectors. Returns 1 if one is not finite.
    """
    cdef const vec* m = <const vec*> outputs
    cdef vec half[MOST_SIDE * REACH]
    cdef vec y[MOST_SIDE]
    cdef real lines[MOST_SIDE * MOST_SIDE * PANEL]
    cdef vec zeros = splat(0), bias = splat(p.bias[o] if p.bias != NULL else 0)
    cdef real* row
    cdef Py_ssize_t high = p.tiling.h.outs, wide = p.tiling.w.outs, step = p.output_plane // LANES
    cdef Py_ssize_t i, j, v, rows, cols
    cdef int run
    for v in range(VN):
        for j in range(REACH):
            if p.tiling.h.reach == 1:
                half[j] = m[j * step + v]
            else:
                transform_output(m + j * step + v, REACH * step, half + j, REACH, high)
        for i in range(high):
            transform_output(half + REACH * i, 1, y, 1, wide)
            for j in range(wide):
                y[j] = add(y[j], bias)
                zeros = add(zeros, subtract(y[j], y[j]))
            collect(y, wide, lines + (i * PANEL + v * LANES) * wide)
    for run in range(run_count):
        rows = min(high, p.P - runs[run].row * high)
        cols = min(runs[run].tiles * wide, p.Q - runs[run].col * wide)
        row = (
            p.out + ((runs[run].image * p.O + o) * p.P + runs[run].row * high) * p.Q
            + runs[run].col * wide
        )
        for i in range(rows):
            copy_run(row, lines + (i * PANEL + runs[run].lane) * wide, cols)
            row += p.Q
    return horizontal_sum(zeros) != 0
