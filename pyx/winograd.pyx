"""Convolution by Winograd's algorithm: forward, and gradient with respect to the input.

transforms.pxd has the algorithm. The weights of a group of output channels are transformed first, by
all threads; then each work item takes one panel of tiles, or two, from the input to the output.
"""

from libc.string cimport memcpy, memset

from buffers cimport Batch, batch_of, bias_of, filters_of
from parallel cimport allocate, carve, on_line, release, round_to_line, run_items
from simd cimport LANES, prefetch, real, vec
from taps cimport ceil_div
from tile cimport MAX_ROWS, SPARE_ROWS, rows_for, tile_for
from transforms cimport (
    MOST_ELEMENTS, PAD, PANEL, Run, Side, images_of, meets, read_tiles, runs_of, tiling_of,
)
from winograd_cut cimport INPUTS_BYTES, TOGETHER, WEIGHTS_BYTES, Cut, cut, pitch_of
from winograd_ends cimport Problem, taps_of, transform_filters, write_tiles

cdef enum:
    # Input channels of one item of their transform; and of weights of few tiles that are transformed for a
    # vector of filters before the next. (Memory of all in turn, 512 channels: 1.25 times as long.)
    CHANNELS = 16
    # The tiles that are few: such as would not fill a vector, or such as all weights, where they are too
    # many for the cache, had to be transformed for again and again. (64 tiles of 14x14 images, 512
    # channels: 1.6 times as fast as panels.)
    FEW_TILES = 64
    FEW_BYTES = 5 << 19  # of their transformed inputs
    FEW_CHANNELS = 128  # input channels whose transformed weights an item holds: 600 KB with AVX-512
    # Channels. Filters at distances of a power of two share cache sets. (512 channels: 1.5 times as fast.)
    AHEAD = 16


def winograd(x, w, b, out, tuple stride, tuple pad, tuple up, int threads):
    """What `correlate` computes, for kernels that come to 1, 2, 3 or 5 rows and 2, 3 or 5 columns, or
    pieces of so many (transforms.pxd says how), with a stride or upsampling, not both.

    Returns whether it could, and all results are finite. If not, none may be used: an infinity or a NaN
    (or an overflow within the transforms) spreads over a whole tile. It cannot if a panel of
    transformed inputs takes more than INPUTS_BYTES: with more than 30 parts.
    """
    cdef Problem p
    cdef Cut work
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
    if are_few(&p):
        return convolve_few(&p, threads)
    work = cut(&p, threads)
    if work.inputs_size > INPUTS_BYTES:
        return False
    return convolve(&p, &work, threads)


cdef bint convolve(Problem* p, const Cut* work, int threads) except -1:
    cdef Py_ssize_t panels = ceil_div(p.tiling.count, PANEL), ups = p.tiling.ups
    cdef Py_ssize_t inputs_size = work.slab * work.inputs_size if work.keeps_inputs else 0
    cdef Py_ssize_t sums_size = work.slab * work.sums_size if work.keeps_sums else 0
    cdef double macs
    cdef char* shared = allocate(
        1, round_to_line(work.weights_size) + round_to_line(inputs_size) + round_to_line(sums_size)
    )
    cdef char* piece = on_line(shared)
    p.weights = <real*> carve(&piece, work.weights_size)
    p.inputs = <real*> carve(&piece, inputs_size) if work.keeps_inputs else NULL
    p.sums = <real*> carve(&piece, sums_size) if work.keeps_sums else NULL
    p.parts, p.together = work.parts, work.together
    p.most_terms = work.channels * p.tiling.splits
    p.split_pitch = pitch_of(work.channels)
    p.pitch = p.tiling.splits * p.split_pitch
    p.weights_plane, p.input_plane = work.weights_plane, work.input_plane
    p.output_plane = work.output_plane
    try:
        for p.panel in range(0, panels, work.slab):
            p.panels = min(work.slab, panels - p.panel)
            for p.first in range(0, p.w.O, work.group):
                p.filters = min(work.group, p.w.O - p.first)
                for p.channel in range(0, p.images.C, work.channels):
                    p.channels = min(work.channels, p.images.C - p.channel)
                    macs = <double> p.panels * PANEL * p.tiling.elements * p.channels * p.tiling.splits
                    if work.keeps_inputs and (p.first == 0 or work.keeps_sums):
                        run_items(inputs_item, p, input_items(p), macs, 0, threads)
                    run_items(weights_item, p, p.filters,
                              <double> p.filters * ups * p.tiling.elements * p.pitch, 0, threads)
                    if run_items(panels_item, p, ceil_div(p.panels, p.together) * p.parts,
                                 macs * p.filters * ups, item_scratch(p), threads):
                        return False
    finally:
        release(shared)
    return True


cdef int weights_item(const void* problem, Py_ssize_t filter, char* scratch) noexcept nogil:
    """Transform one filter, a vector of input channels at a time."""
    cdef const Problem* p = <const Problem*> problem
    cdef const real* w = p.w.start + (p.first + filter) * p.w.per_filter
    cdef real* to = p.weights + filter * p.tiling.ups * p.pitch
    cdef Py_ssize_t up, split, block, c
    w += p.channel * p.w.per_channel
    for up in range(p.tiling.ups):
        for split in range(p.tiling.splits):
            for block in range(ceil_div(p.channels, LANES)):
                c = block * LANES
                transform_filters(p, w + c * p.w.per_channel, taps_of(p, split, up), p.w.per_channel,
                                  min(<Py_ssize_t> LANES, p.channels - c), to + c, p.weights_plane)
            to += p.split_pitch
    return 0


cdef inline Py_ssize_t input_items(const Problem* p) noexcept nogil:
    return p.panels * p.tiling.splits * ceil_div(p.channels, CHANNELS)


cdef int inputs_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """Transform some channels of a part of one panel."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t panel = item % p.panels, blocks = ceil_div(p.channels, CHANNELS)
    cdef Py_ssize_t split = item // p.panels // blocks, first = item // p.panels % blocks * CHANNELS
    cdef Run runs[PANEL]
    cdef int run_count = runs_of(&p.tiling, (p.panel + panel) * PANEL, runs)
    read_tiles(
        &p.images, &p.tiling, run_count, runs,
        split, p.channel + first, p.channel + min(p.channels, first + CHANNELS),
        p.inputs + panel * p.tiling.elements * p.input_plane + (split * p.channels + first) * PANEL,
        PANEL, p.input_plane,
    )
    return 0


cdef Py_ssize_t item_scratch(const Problem* p) noexcept nogil:
    """Bytes that `panels_item` carves from its scratch."""
    return (
        2 * round_to_line(p.most_terms * sizeof(Py_ssize_t))
        + (
            round_to_line(p.together * p.tiling.elements * p.output_plane * sizeof(real))
            if p.sums == NULL else 0
        )
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
    cdef Py_ssize_t splits = p.tiling.splits, tables_size = p.most_terms * sizeof(Py_ssize_t)
    cdef Py_ssize_t* channels = <Py_ssize_t*> carve(&scratch, tables_size)
    cdef Py_ssize_t* input_rows = <Py_ssize_t*> carve(&scratch, tables_size)
    cdef real* inputs = p.inputs
    cdef Job job
    cdef Run runs[TOGETHER][PANEL]
    cdef int run_count[TOGETHER]
    cdef const Run* last
    cdef int bad = 0
    cdef Py_ssize_t c, o, i, up, split
    cdef Py_ssize_t joined = 2 if p.tiling.w.up == 2 else 1  # phases that are written together
    job.p, job.count, job.VN = p, min(p.together, p.panels - first), 2
    job.first = p.filters * part // p.parts
    job.filters = p.filters * (part + 1) // p.parts - job.first
    job.inputs_size = p.tiling.elements * p.input_plane
    job.outputs_size = p.tiling.elements * p.output_plane
    if p.sums != NULL:
        job.outputs = p.sums + item * job.outputs_size
    else:
        job.outputs = <real*> carve(&scratch, p.together * job.outputs_size * sizeof(real))
    if inputs != NULL:
        inputs += first * job.inputs_size
    else:
        inputs = <real*> carve(&scratch, p.together * job.inputs_size * sizeof(real))
    for i in range(job.count):
        run_count[i] = runs_of(&p.tiling, (p.panel + first + i) * PANEL, runs[i])
        for split in range(splits if p.inputs == NULL else 0):
            read_tiles(&p.images, &p.tiling, run_count[i], runs[i], split, p.channel, p.channel + p.channels,
                       inputs + i * job.inputs_size + split * p.channels * PANEL, PANEL, p.input_plane)
    last = &runs[0][run_count[0] - 1]
    if job.count == 1 and last.lane + last.tiles <= LANES:
        job.VN = 1
    if job.VN == 2 and (splits == 1 or p.split_pitch == p.channels):
        channels = input_rows = NULL  # they follow one another
    else:
        for c in range(splits * p.channels):
            channels[c] = c // p.channels * p.split_pitch + c % p.channels
            input_rows[c] = c * PANEL
    job.channels, job.input_rows, job.inputs = channels, input_rows, inputs
    for i in range(p.tiling.elements):
        multiply_element(&job, i)
    if p.channel + p.channels < p.images.C:
        return 0
    for i in range(job.count):
        for o in range(job.filters):
            up = 0
            while up < ups:
                bad |= write_tiles(
                    p, p.first + job.first + o, up, joined, job.VN, run_count[i], runs[i],
                    job.outputs + i * job.outputs_size + (up * job.filters + o) * PANEL, job.filters * PANEL,
                )
                up += joined
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
    cdef bint begun = p.channel > 0, live
    while part < splits * ups:
        live = in_element(p, e, part // ups, part % ups)
        last = part + 1
        while last < splits * ups and in_element(p, e, last // ups, last % ups) == live:
            last += 1
        if ups > 1:
            if live:
                multiply_rows(job, e, part, last - part, 0, p.channels, begun)
            elif not begun:
                for i in range(job.count):
                    memset(
                        job.outputs + i * job.outputs_size + e * p.output_plane + part * job.filters * PANEL,
                        0, (last - part) * job.filters * PANEL * sizeof(real),
                    )
        elif live:
            multiply_rows(job, e, 0, 1, part * p.channels, (last - part) * p.channels, begun)
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
    cdef real kept[SPARE_ROWS * PANEL]
    cdef Py_ssize_t left = job.filters * ups, o = 0, i
    cdef int R, r
    cdef bint beyond
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
        beyond = accumulate and R > left  # that are sums of the next phase
        for i in range(job.count):
            if beyond:
                memcpy(kept, outputs + i * job.outputs_size + left * PANEL, (R - left) * PANEL * sizeof(real))
            tile_for(R, job.VN)(
                cs, rows, channels, inputs + i * job.inputs_size, input_rows,
                outputs + i * job.outputs_size, PANEL, NULL, accumulate,
            )
            if beyond:
                memcpy(outputs + i * job.outputs_size + left * PANEL, kept, (R - left) * PANEL * sizeof(real))
        left -= R
        outputs += R * PANEL


# ---- few tiles -----------------------------------------------------------------------------------
# A handful of tiles, as 4x4 images have, would leave most lanes of a panel empty. Output channels are
# the lanes then, and tiles the rows; each item transforms the weights of its channels and uses them at
# once.

cdef bint are_few(const Problem* p) noexcept nogil:
    cdef Py_ssize_t panels = ceil_div(p.tiling.count, PANEL)
    cdef Py_ssize_t bytes_a_channel = p.tiling.elements * sizeof(real)
    if panels * PANEL * p.C * bytes_a_channel > FEW_BYTES:
        return False
    return p.tiling.count <= LANES or (
        p.tiling.count <= FEW_TILES and p.O * p.C * bytes_a_channel > WEIGHTS_BYTES
    )


cdef bint convolve_few(Problem* p, int threads) except -1:
    cdef double macs = <double> p.tiling.count * p.tiling.elements * p.C
    cdef char* shared
    p.panel, p.panels = 0, ceil_div(p.tiling.count, PANEL)
    p.channel, p.channels = 0, p.images.C
    p.input_plane, p.output_plane = p.C * PANEL + PAD, PANEL
    shared = allocate(1, p.panels * p.tiling.elements * p.input_plane * sizeof(real))
    p.inputs = <real*> on_line(shared)
    try:
        run_items(inputs_item, p, input_items(p), macs, 0, threads)
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
