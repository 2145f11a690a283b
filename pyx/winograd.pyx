"""Convolution by Winograd's algorithm: forward, and gradient with respect to the input.

transforms.pxd has the algorithm. The weights of a group of output channels are transformed first, by
all threads; then each work item takes one panel of tiles, or two, from the input to the output.
"""

from libc.string cimport memset

from buffers cimport Batch, Filters, batch_of, bias_of, filters_of
from parallel cimport allocate, carve, on_line, release, round_to_line, run_items
from simd cimport (
    LANES, add, copy_run, high, horizontal_sum, load, low, prefetch, prefetch_run, real, splat, store,
    subtract, transpose, vec,
)
from taps cimport ceil_div
from tile cimport MAX_ROWS, SPARE_ROWS, rows_for, tile_for
from transforms cimport (
    CHANNELS_AHEAD, LINE, MOST_ELEMENTS, MOST_SIDE, MOST_TAPS, PAD, PANEL, REACH, Images, Run, Side,
    Tiling, collect, images_of, meets, read_tiles, runs_of, tiling_of, transform_output, transform_weights,
)

cdef enum:
    # Bytes of transformed weights, which all threads share, and of transformed inputs, for each thread. What
    # does not fit has the weights transformed again. (Two threads: as many inputs as for one took up to
    # 1.36 times as long.) All weights go at once where both, a panel of inputs and one of outputs for each
    # thread take no more: then inputs need not be kept. (1 to 3 MB of weights, AVX2, both dtypes: 1.0 to 1.2
    # times as fast, 7x7 1.1 to 1.5. With two threads up to 4.7 MB; more was not measured.)
    WEIGHTS_BYTES = 1 << 20
    INPUTS_BYTES = 5 << 19
    MOST_WEIGHTS_BYTES = 7 << 20
    # Panels that an item has together, so that what it reads of the weights serves them all; but only so many
    # bytes of inputs and outputs for each byte of a number (two threads: and where there are so many panels
    # for each). (AVX2, float64: 32 to 128 channels 1.03 to 1.1 times as fast, 256 0.98; float32: 32 to 64
    # channels 1.03, 128 0.95 to 1.0. Three and four: as two, or less.)
    TOGETHER = 2
    TOGETHER_BYTES = 5 << 15
    MANY_PANELS = 8
    # Input channels of one item of their transform; and of weights of few tiles that are transformed for a
    # vector of filters before the next. (Memory of all in turn, 512 channels: 1.25 times as long.)
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
    # Channels. Filters at distances of a power of two share cache sets. (512 channels: 1.5 times as fast.)
    AHEAD = 16


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
    Py_ssize_t split_pitch, pitch  # input channels, each part rounded up to whole vectors
    Py_ssize_t first, filters  # the group of filters at work; each has a row for each phase
    real* weights  # theirs, transformed: [element][row][channel]
    Py_ssize_t panel, panels  # the slab of panels at work
    real* inputs  # theirs, transformed: [panel][element][channel][tile]; NULL: each item makes its own
    Py_ssize_t together  # panels of an item
    Py_ssize_t parts  # that the filters of a group are cut in, one to an item
    Py_ssize_t weights_plane, input_plane, output_plane  # numbers from one element to the next


def winograd(x, w, b, out, tuple stride, tuple pad, tuple up, int threads):
    """What `correlate` computes, for kernels that come to 1, 2, 3 or 5 rows and 2, 3 or 5 columns, or
    pieces of so many (transforms.pxd says how), with a stride or upsampling, not both.

    Returns whether it could, and all results are finite. If not, none may be used: an infinity or a NaN
    (or an overflow within the transforms) spreads over a whole tile. It cannot if a panel of
    transformed inputs takes more than INPUTS_BYTES.
    """
    cdef Problem p
    cdef Batch results = batch_of(out)
    p.images = images_of(x)
    p.w = filters_of(w)
    p.bias = bias_of(b)
    if p.images.N == 0:
        return True
    p.w_end = p.w.start + 1 + (
        max(<Py_ssize_t> 0, (p.w.O - 1) * p.w.per_filter) + max(<Py_ssize_t> 0, (p.w.C - 1) * p.w.per_channel)
        + max(<Py_ssize_t> 0, (p.w.KH - 1) * p.w.per_row) + max(<Py_ssize_t> 0, (p.w.KW - 1) * p.w.per_col)
    )
    p.out, p.P, p.Q = results.start, results.H, results.W
    p.tiling = tiling_of(p.images.N, p.P, p.Q, p.w.KH, p.w.KW, stride, pad, up)
    p.C, p.O = p.images.C * p.tiling.splits, p.w.O * p.tiling.ups
    if p.tiling.elements * p.C * PANEL * <Py_ssize_t> sizeof(real) > INPUTS_BYTES:
        return False  # (AVX-512, 3x3: from 569 channels on)
    return convolve_few(&p, threads) if are_few(&p) else convolve(&p, threads)


cdef bint convolve(Problem* p, int threads) except -1:
    cdef Py_ssize_t panels = ceil_div(p.tiling.count, PANEL), slab = panels
    cdef Py_ssize_t group, filter_size, panel_size, output_size, weights_size, inputs_size, size
    cdef double macs
    cdef bint shared_inputs, few_panels
    cdef char* shared
    cdef char* piece
    p.split_pitch = ceil_div(p.images.C, LANES) * LANES
    p.pitch = p.split_pitch * p.tiling.splits
    filter_size = p.tiling.ups * p.tiling.elements * p.pitch * sizeof(real)
    p.input_plane = p.C * PANEL + PAD
    panel_size = p.tiling.elements * p.input_plane * sizeof(real)
    output_size = p.tiling.elements * p.w.O * p.tiling.ups * PANEL * sizeof(real)
    few_panels = threads > 1 and panels < FEW_PANELS * threads
    group, inputs_size = p.w.O, (panels if few_panels else <Py_ssize_t> threads) * panel_size
    if group * filter_size > min(
        <Py_ssize_t> MOST_WEIGHTS_BYTES,
        threads * (WEIGHTS_BYTES + INPUTS_BYTES - output_size) - inputs_size,
    ):
        group = min(p.w.O, max(ceil_div(6, p.tiling.ups), WEIGHTS_BYTES // filter_size))
        group = ceil_div(p.w.O, ceil_div(p.w.O, group))
    p.output_plane = (group * p.tiling.ups + SPARE_ROWS) * PANEL + PAD
    p.weights_plane = group * p.tiling.ups * p.pitch + PAD
    p.parts = 1
    if few_panels:
        p.parts = min(ceil_div(FEW_PANELS * threads, panels), ceil_div(group * p.tiling.ups, FEWEST_ROWS))
    shared_inputs = group < p.w.O or p.parts > 1
    if shared_inputs:  # several groups, or items, need the same inputs
        slab = min(panels, max(<Py_ssize_t> 1, threads * INPUTS_BYTES // panel_size))
        slab = ceil_div(panels, ceil_div(panels, slab))
    weights_size = p.tiling.elements * p.weights_plane * sizeof(real)
    inputs_size = slab * panel_size if shared_inputs else 0
    shared = allocate(1, round_to_line(weights_size) + round_to_line(inputs_size))
    piece = on_line(shared)
    p.weights = <real*> carve(&piece, weights_size)
    p.inputs = <real*> carve(&piece, inputs_size) if shared_inputs else NULL
    p.together = 1
    panel_size += output_size
    if (
        not shared_inputs and panels >= MANY_PANELS * threads
        and TOGETHER * panel_size <= TOGETHER_BYTES * <Py_ssize_t> sizeof(real)
        and weights_size + threads * TOGETHER * panel_size <= threads * (WEIGHTS_BYTES + INPUTS_BYTES)
    ):
        p.together = TOGETHER
    size = item_scratch(p)
    try:
        for p.panel in range(0, panels, slab):
            p.panels = min(slab, panels - p.panel)
            macs = <double> p.panels * PANEL * p.tiling.elements * p.C
            if p.inputs != NULL:
                run_items(inputs_item, p, p.panels * ceil_div(p.C, CHANNELS), macs, 0, threads)
            for p.first in range(0, p.w.O, group):
                p.filters = min(group, p.w.O - p.first)
                run_items(weights_item, p, p.filters, <double> p.filters * filter_size, 0, threads)
                if run_items(panels_item, p, ceil_div(p.panels, p.together) * p.parts,
                             macs * p.filters * p.tiling.ups, size, threads):
                    return False
    finally:
        release(shared)
    return True


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


cdef int weights_item(const void* problem, Py_ssize_t filter, char* scratch) noexcept nogil:
    """Transform one filter, a vector of input channels at a time."""
    cdef const Problem* p = <const Problem*> problem
    cdef const real* w = p.w.start + (p.first + filter) * p.w.per_filter
    cdef real* to = p.weights + filter * p.tiling.ups * p.pitch
    cdef Py_ssize_t up, split, block, c
    for up in range(p.tiling.ups):
        for split in range(p.tiling.splits):
            for block in range(p.split_pitch // LANES):
                c = block * LANES
                transform_filters(p, w + c * p.w.per_channel, taps_of(p, split, up), p.w.per_channel,
                                  min(<Py_ssize_t> LANES, p.images.C - c), to + c, p.weights_plane)
            to += p.split_pitch
    return 0


cdef int inputs_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """Transform some channels of one panel."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t panel = item % p.panels, first = item // p.panels * CHANNELS
    cdef Run runs[PANEL]
    cdef int run_count = runs_of(&p.tiling, (p.panel + panel) * PANEL, runs)
    read_tiles(
        &p.images, &p.tiling, run_count, runs, first, min(p.C, first + CHANNELS),
        p.inputs + panel * p.tiling.elements * p.input_plane + first * PANEL, PANEL, p.input_plane,
    )
    return 0


cdef Py_ssize_t item_scratch(const Problem* p) noexcept nogil:
    """Bytes that `panels_item` carves from its scratch."""
    return (
        2 * round_to_line(p.C * sizeof(Py_ssize_t))
        + round_to_line(p.together * p.tiling.elements * p.output_plane * sizeof(real))
        + (
            round_to_line(p.together * p.tiling.elements * p.input_plane * sizeof(real))
            if p.inputs == NULL else 0
        )
    )


cdef struct Job:
    # A part of the filters at work, for some panels.
    const Problem* p
    Py_ssize_t first, filters  # of the group
    Py_ssize_t count  # panels
    int VN
    const Py_ssize_t* channels  # where a filter, and a plane of inputs, have them; NULL: one after another
    const Py_ssize_t* input_rows
    const real* inputs
    Py_ssize_t inputs_size, outputs_size  # of a panel
    real* outputs  # [panel][element][phase][filter][tile]


cdef int panels_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """A part of the filters for some panels of tiles; returns 1 if a result is not finite."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t first = item // p.parts * p.together, part = item % p.parts, ups = p.tiling.ups
    cdef Py_ssize_t* channels = <Py_ssize_t*> carve(&scratch, p.C * sizeof(Py_ssize_t))
    cdef Py_ssize_t* input_rows = <Py_ssize_t*> carve(&scratch, p.C * sizeof(Py_ssize_t))
    cdef real* inputs = p.inputs
    cdef Job job
    cdef Run runs[TOGETHER][PANEL]
    cdef int run_count[TOGETHER]
    cdef const Run* last
    cdef int bad = 0
    cdef Py_ssize_t c, o, i, up, together = 2 if p.tiling.w.up == 2 else 1  # phases that are written together
    job.p, job.count, job.VN = p, min(p.together, p.panels - first), 2
    job.first = p.filters * part // p.parts
    job.filters = p.filters * (part + 1) // p.parts - job.first
    job.inputs_size = p.tiling.elements * p.input_plane
    job.outputs_size = p.tiling.elements * p.output_plane
    job.outputs = <real*> carve(&scratch, p.together * job.outputs_size * sizeof(real))
    if inputs != NULL:
        inputs += first * job.inputs_size
    else:
        inputs = <real*> carve(&scratch, p.together * job.inputs_size * sizeof(real))
    for i in range(job.count):
        run_count[i] = runs_of(&p.tiling, (p.panel + first + i) * PANEL, runs[i])
        if p.inputs == NULL:
            read_tiles(&p.images, &p.tiling, run_count[i], runs[i], 0, p.C, inputs + i * job.inputs_size,
                       PANEL, p.input_plane)
    last = &runs[0][run_count[0] - 1]
    if job.count == 1 and last.lane + last.tiles <= LANES:
        job.VN = 1
    if job.VN == 2 and (p.C == p.images.C or p.split_pitch == p.images.C):
        channels = input_rows = NULL  # they follow one another
    else:
        for c in range(p.C):
            channels[c] = c // p.images.C * p.split_pitch + c % p.images.C
            input_rows[c] = c * PANEL
    job.channels, job.input_rows, job.inputs = channels, input_rows, inputs
    for i in range(p.tiling.elements):
        multiply_element(&job, i)
    for i in range(job.count):
        for o in range(job.filters):
            up = 0
            while up < ups:
                bad |= write_tiles(
                    p, p.first + job.first + o, up, together, job.VN, run_count[i], runs[i],
                    job.outputs + i * job.outputs_size + (up * job.filters + o) * PANEL, job.filters * PANEL,
                )
                up += together
    return bad


cdef inline bint in_element(const Problem* p, Py_ssize_t e, Py_ssize_t split, Py_ssize_t up) noexcept nogil:
    """Whether filters of that part of the input and phase of the output can have anything in element e."""
    cdef const Side* h = &p.tiling.h
    cdef const Side* w = &p.tiling.w
    return (
        meets(h, e // w.reach, split // w.split, up // w.up)
        and meets(w, e % w.reach, split % w.split, up % w.up)
    )


cdef void multiply_element(const Job* job, Py_ssize_t e) noexcept nogil:
    """One element of all products, but for parts or phases (there are not both) that are zero there.

    (Of a 3x3 kernel by 2 that leaves 81 of 100 products.)
    """
    cdef const Problem* p = job.p
    cdef Py_ssize_t splits = p.tiling.splits, ups = p.tiling.ups, part = 0, last, i
    cdef bint begun = False, live
    while part < splits * ups:
        live = in_element(p, e, part // ups, part % ups)
        last = part + 1
        while last < splits * ups and in_element(p, e, last // ups, last % ups) == live:
            last += 1
        if ups > 1:
            if live:
                multiply_rows(job, e, part, last - part, 0, p.C, False)
            else:
                for i in range(job.count):
                    memset(
                        job.outputs + i * job.outputs_size + e * p.output_plane + part * job.filters * PANEL,
                        0, (last - part) * job.filters * PANEL * sizeof(real),
                    )
        elif live:
            multiply_rows(job, e, 0, 1, part * p.images.C, (last - part) * p.images.C, begun)
            begun = True
        part = last


cdef inline void multiply_rows(
    const Job* job, Py_ssize_t e, Py_ssize_t up, Py_ssize_t ups, Py_ssize_t c, Py_ssize_t cs,
    bint accumulate,
) noexcept nogil:
    """All filters of `ups` phases from `up` on times `cs` channels from c on, of all panels."""
    cdef const Problem* p = job.p
    cdef const Py_ssize_t* channels = job.channels + c if job.channels != NULL else NULL
    cdef const Py_ssize_t* input_rows = job.input_rows + c if job.channels != NULL else NULL
    cdef const real* weights = p.weights + e * p.weights_plane + job.first * p.tiling.ups * p.pitch
    cdef const real* inputs = job.inputs + e * p.input_plane
    cdef real* outputs = job.outputs + e * p.output_plane + up * job.filters * PANEL
    cdef const real* rows[MAX_ROWS]
    cdef Py_ssize_t left = job.filters * ups, o = 0, i
    cdef int R, r
    if job.channels == NULL:
        weights += c
        inputs += c * PANEL
    while left > 0:
        R = rows_for(left, job.VN)
        for r in range(R):
            rows[r] = weights + (o * p.tiling.ups + up) * p.pitch
            if left > r + 1:  # else rows beyond repeat the last
                o += 1
                if o == job.filters:
                    o, up = 0, up + 1
        left -= R
        for i in range(job.count):
            tile_for(R, job.VN)(
                cs, rows, channels, inputs + i * job.inputs_size, input_rows,
                outputs + i * job.outputs_size, PANEL, NULL, accumulate,
            )
        outputs += R * PANEL


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
            few_item, p, p.tiling.ups * ceil_div(p.w.O, PANEL), macs * p.O, few_scratch(p), threads
        )
    finally:
        release(shared)


cdef Py_ssize_t few_scratch(const Problem* p) noexcept nogil:
    """Bytes that `few_item` carves from its scratch."""
    return (
        round_to_line(FEW_CHANNELS * sizeof(Py_ssize_t))
        + round_to_line(p.tiling.elements * (FEW_CHANNELS * PANEL + PAD) * sizeof(real))
        + round_to_line(p.tiling.elements * (p.tiling.count + SPARE_ROWS) * PANEL * sizeof(real))
    )


cdef int few_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """PANEL output channels of a phase of all tiles; returns 1 if a result is not finite."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t up = item % p.tiling.ups, first = item // p.tiling.ups * PANEL
    cdef Py_ssize_t count = min(<Py_ssize_t> PANEL, p.w.O - first), split, channel
    cdef Py_ssize_t plane = FEW_CHANNELS * PANEL + PAD, sums_plane = (p.tiling.count + SPARE_ROWS) * PANEL
    cdef Py_ssize_t* channels = <Py_ssize_t*> carve(&scratch, FEW_CHANNELS * sizeof(Py_ssize_t))
    # [element][c][lane]
    cdef real* weights = <real*> carve(&scratch, p.tiling.elements * plane * sizeof(real))
    # [element][tile][lane]
    cdef real* sums = <real*> carve(&scratch, p.tiling.elements * sums_plane * sizeof(real))
    cdef vec aligned[MOST_ELEMENTS * 2]
    cdef real* outputs = <real*> aligned  # [element][tile] of one channel
    cdef const real* rows[MAX_ROWS]
    cdef Run runs[PANEL]
    cdef int run_count, VN = 1 if p.tiling.count <= LANES else 2, R, r, v, bad = 0
    cdef Py_ssize_t from_c = 0, block, last, c, cs, e, t, o, panel, tiles
    cdef const real* inputs
    cdef const real* source
    for c in range(FEW_CHANNELS):
        channels[c] = c * PANEL
    while from_c < p.C:
        cs = min(<Py_ssize_t> FEW_CHANNELS, p.C - from_c)
        for block in range(ceil_div(cs, CHANNELS)):
            for v in range(2):
                last = min(count, (v + 1) * LANES)
                for c in range(block * CHANNELS, min(cs, (block + 1) * CHANNELS)):
                    split, channel = (from_c + c) // p.images.C, (from_c + c) % p.images.C
                    source = p.w.start + first * p.w.per_filter + channel * p.w.per_channel
                    for o in range(v * LANES, last):
                        prefetch(source + o * p.w.per_filter + AHEAD * p.w.per_channel)
                    transform_filters(
                        p, source + v * LANES * p.w.per_filter, taps_of(p, split, up), p.w.per_filter,
                        max(<Py_ssize_t> 0, last - v * LANES),
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
            bad |= write_tiles(p, first + o, up, 1, VN, run_count, runs, outputs, 0)
    return bad


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
