"""Convolution: gradients with respect to weights and bias.

`correlate_weights` is that of every convolution `correlate` (conv.pyx) computes. The same tile
multiplies, with taps as rows, output channels as columns and pixels to sum over; as there, work
items depend on the problem alone, and each sums in one fixed order.
"""

from libc.string cimport memset

from buffers cimport Batch, batch_of, start_of
from parallel cimport MACS_BETWEEN_SIGNALS, allocate, carve, on_line, release, round_to_line, run_items
from simd cimport (
    LANES, REGISTERS, add, even, horizontal_sum, load, prefetch, real, splat, store, store_transposed,
    transpose, vec,
)
from phases cimport tabulate_part
from taps cimport (
    Side, Block, Chunk, Grid, Image, block_at, block_pixels, ceil_div, chunk_at, chunk_taps, cut, gcd,
    phase_of, phases, prepare, prepared_size, tabulate_pixels, tabulate_taps,
)
from tile cimport MAX_ROWS, SPARE_ROWS, follow, rows_for, tile_for

cdef enum:
    # Output channels that an item sums at once (bounds its scratch).
    COLUMNS = 256
    # Outputs in a block: so often are sums loaded and stored again. (AVX-512, 1024 against 256: 1.03 to
    # 1.15 times as fast.)
    LEAST_PIXELS = 1024
    # Those of an image that are one row, from which on tiles take them image by image, without a table. (1x1,
    # 10x10 to 28x28: 1.0 to 1.08 times as fast.)
    LEAST_IN_ORDER = 96
    # Panels of dLdZ that are multiplied together stay in the second-level cache, while the image passes by.
    # (AVX2, 1x1 from 512 channels on, float64: 1.1 to 1.15 times as fast, float32 1.05 to 1.1; 256 KB: same.)
    PANELS_BYTES = 5 << 15
    FEW_BLOCKS = 4  # that are made smaller for: a block cannot be divided over items
    # Items when the gradient is small enough to be summed in several copies.
    FEW_ITEMS = 8
    # Items for each thread from which on it does not matter much if one has one more. (Two threads, 1 and 3
    # items: in twice as many 1.4 to 1.9 times as fast.)
    MANY_ITEMS = 4
    # Numbers in all those copies together.
    COPIES_SIZE = 1 << 17
    # Numbers of a channel summed as `real` before they are added to a double: in 4*LANES parts, in 4.
    SUMMED = 1024
    SUMMED_PIXELS = 256


cdef struct Problem:
    Grid grid
    const real* dz
    real* dw
    real* copies  # of dw, one for every slab but the first
    Py_ssize_t O, dw_size, dw_per_filter, dw_per_channel, dw_per_row
    Py_ssize_t dz_size, dz_per_channel, dz_per_row
    Py_ssize_t columns, column_parts  # output channels to an item, and how many such parts
    Py_ssize_t together  # panels of output channels that are multiplied together, at the most
    Py_ssize_t slabs  # the blocks are dealt to so many items, each with a dw of its own,
    Py_ssize_t rounds, round  # and these take their blocks in so many rounds, to look at signals
    bint sets  # dw in the first round, instead of adding to it
    double* totals  # of dz, for each slab and channel; NULL: none


def correlate_weights(x, dz, dw, db, tuple stride, tuple pad, tuple up, int threads):
    """dw[o,c,u,v] = sum of dz[n,o,p,q] * dilated_x[n, c, p*stride + u - pad, ...],
    db[o] = sum of dz[n,o,p,q].

    The gradients of `correlate` with respect to w and b: x (in), dz (in) has the shape of its out, dw
    (out) that of its w, db (out) is (O,).
    """
    cdef Problem p
    cdef Py_ssize_t phase_h, phase_w
    cdef Batch images = batch_of(x), gradients = batch_of(dz), filters = batch_of(dw)
    cdef Side down = Side(images.H, gradients.H, filters.H, stride[0], pad[0], up[0])
    cdef Side across = Side(images.W, gradients.W, filters.W, stride[1], pad[1], up[1])
    p.O, p.dw, p.dw_per_row = filters.N, filters.start, filters.W
    p.dw_per_channel = filters.H * filters.W
    p.dw_per_filter = filters.C * p.dw_per_channel
    p.dw_size = p.O * p.dw_per_filter
    # Without upsampling there is but one phase, which meets every weight: what it sums first is set.
    p.sets = up[0] == up[1] == 1 and images.N > 0
    if not p.sets:
        memset(p.dw, 0, p.dw_size * sizeof(real))
        sum_channels(dz, db, threads)
    if images.N == 0:
        return
    p.grid.x, p.grid.N, p.grid.C = images.start, images.N, images.C
    p.dz, p.dz_per_row = gradients.start, gradients.W
    p.dz_per_channel = gradients.H * gradients.W
    p.dz_size = gradients.N * gradients.C * p.dz_per_channel
    for phase_h in range(min(down.outs, phases(down.stride, down.up))):
        p.grid.h = phase_of(&down, phase_h, False)
        for phase_w in range(min(across.outs, phases(across.stride, across.up))):
            p.grid.w = phase_of(&across, phase_w, False)
            weights_phase(&p, <real*> start_of(db), threads)


cdef int weights_phase(Problem* p, real* db, int threads) except -1:
    cdef Py_ssize_t pixels, parts, i, slab
    cdef double macs, total
    cdef char* copies = NULL
    cdef char* totals = NULL
    pixels = p.grid.N * p.grid.h.outs * p.grid.w.outs
    cut(&p.grid, p.O, min(<Py_ssize_t> LEAST_PIXELS, pixels // FEW_BLOCKS), 1)
    if p.grid.blocks == 0 or p.grid.chunks == 0:
        return 0
    p.columns = min(p.O, <Py_ssize_t> COLUMNS)
    p.column_parts = ceil_div(p.O, p.columns)
    parts = p.grid.chunks * p.column_parts
    p.slabs = 1
    if parts < FEW_ITEMS:
        p.slabs = min(
            p.grid.blocks, ceil_div(FEW_ITEMS, parts), 1 + <Py_ssize_t> COPIES_SIZE // p.dw_size
        )
    if parts * p.slabs < MANY_ITEMS * threads:  # columns may be cut by threads: nothing is summed over them
        p.columns = ceil_div(p.columns, threads // gcd(parts * p.slabs, threads))
        p.columns = ceil_div(p.columns, 2 * LANES) * 2 * LANES
        p.column_parts = ceil_div(p.O, p.columns)
        parts = p.grid.chunks * p.column_parts
    p.together = max(<Py_ssize_t> 1, PANELS_BYTES // (
        (block_pixels(&p.grid) + LANES) * weight_vectors(p.columns) * LANES * <Py_ssize_t> sizeof(real)
    ))
    macs = <double> block_pixels(&p.grid) * p.O * p.grid.chunks * chunk_taps(&p.grid) * p.grid.blocks
    p.rounds = <Py_ssize_t> max(
        1.0, min(macs / MACS_BETWEEN_SIGNALS, <double> (p.grid.blocks // p.slabs))
    )
    try:
        if p.slabs > 1:
            copies = allocate(1, (p.slabs - 1) * p.dw_size * sizeof(real))
            p.copies = <real*> on_line(copies)
            memset(p.copies, 0, (p.slabs - 1) * p.dw_size * sizeof(real))
        p.totals = NULL
        if p.sets:
            totals = allocate(1, p.slabs * p.O * sizeof(double))
            p.totals = <double*> on_line(totals)
            memset(p.totals, 0, p.slabs * p.O * sizeof(double))
        for p.round in range(p.rounds):
            run_items(weights_item, p, parts * p.slabs, macs / p.rounds, weights_scratch(p), threads)
        with nogil:
            for slab in range(1, p.slabs):
                for i in range(p.dw_size):
                    p.dw[i] += p.copies[(slab - 1) * p.dw_size + i]
            if p.sets:
                for i in range(p.O):
                    total = 0
                    for slab in range(p.slabs):
                        total += p.totals[slab * p.O + i]
                    db[i] = <real> total
    finally:
        release(copies)
        release(totals)
    return 0


cdef inline int weight_vectors(Py_ssize_t columns) noexcept nogil:
    """How many vectors of output channels a tile of the weight gradient is wide."""
    cdef Py_ssize_t vectors = ceil_div(columns, LANES)
    if REGISTERS == 32 and vectors > 3 and vectors % 4 in (0, 3):  # no more padding than with 2
        return 4
    return <int> vectors if vectors == 1 or vectors == 3 else 2


cdef Py_ssize_t weights_scratch(const Problem* p) noexcept nogil:
    """Bytes that `weights_item` carves from its scratch."""
    cdef Py_ssize_t pixels = block_pixels(&p.grid), taps = chunk_taps(&p.grid)
    cdef Py_ssize_t columns = p.columns + 6 * LANES  # room for the last, padded tile, and between rows
    return (
        round_to_line(prepared_size(&p.grid) * sizeof(real))
        + 3 * round_to_line(pixels * sizeof(Py_ssize_t))
        + 2 * round_to_line(taps * sizeof(Py_ssize_t))
        + round_to_line((taps + SPARE_ROWS) * columns * sizeof(real))
        + round_to_line(p.together * (pixels + LANES) * 4 * LANES * sizeof(real))
    )


cdef struct Job:
    # An item at work: output channels o_first to o_first + o_count, all taps of a chunk.
    const Problem* p
    Chunk chunk
    Py_ssize_t o_first, o_count
    int VN  # vectors of a tile
    Py_ssize_t width, panel_size
    real* panels
    real* sums  # [tap][o]; the tile writes up to SPARE_ROWS rows beyond the last tap
    Py_ssize_t pitch  # of them
    double* totals  # of dz; NULL: not this item's
    # The block in turn.
    const real* image
    Py_ssize_t tap_count, count, terms  # pixels, and how many of them a tile sums
    const Py_ssize_t* taps
    const Py_ssize_t* pixels
    const Py_ssize_t* outs
    const Py_ssize_t* panel_rows
    bint in_order  # without tables
    bint accumulate


cdef int weights_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Problem* p = <const Problem*> problem
    cdef const Grid* grid = &p.grid
    cdef Py_ssize_t slab = item % p.slabs
    cdef Py_ssize_t most_pixels = block_pixels(grid), most_taps = chunk_taps(grid)
    cdef real* image_scratch = <real*> carve(&scratch, prepared_size(grid) * sizeof(real))
    cdef Py_ssize_t* pixels = <Py_ssize_t*> carve(&scratch, most_pixels * sizeof(Py_ssize_t))
    cdef Py_ssize_t* outs = <Py_ssize_t*> carve(&scratch, most_pixels * sizeof(Py_ssize_t))
    cdef Py_ssize_t* panel_rows = <Py_ssize_t*> carve(&scratch, most_pixels * sizeof(Py_ssize_t))
    cdef Py_ssize_t* taps = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t* weights = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t index, start, first, last, i, o
    cdef Block block
    cdef Image image
    cdef Job job
    cdef real* dw
    job.p, job.taps, job.pixels, job.outs, job.panel_rows = p, taps, pixels, outs, panel_rows
    job.chunk = chunk_at(grid, item // (p.slabs * p.column_parts))
    job.o_first = item // p.slabs % p.column_parts * p.columns
    job.o_count = min(p.O - job.o_first, p.columns)
    job.VN = weight_vectors(job.o_count)
    job.width = job.VN * LANES
    job.panel_size = (most_pixels + LANES) * job.width
    # Two vectors more: at a power of two, rows of sums would lie in the same sets of the caches.
    job.pitch = ceil_div(job.o_count, job.width) * job.width + 2 * LANES
    job.sums = <real*> carve(&scratch, (most_taps + SPARE_ROWS) * job.pitch * sizeof(real))
    job.panels = <real*> carve(&scratch, p.together * job.panel_size * sizeof(real))
    job.totals = NULL
    if p.totals != NULL and item < p.slabs * p.column_parts:  # of the first chunk
        job.totals = p.totals + slab * p.O + job.o_first
    for i in range(most_pixels):
        panel_rows[i] = i * job.width
    start, last = slab * grid.blocks // p.slabs, (slab + 1) * grid.blocks // p.slabs
    first = start + p.round * (last - start) // p.rounds
    last = start + (p.round + 1) * (last - start) // p.rounds
    for index in range(first, last):
        block = block_at(grid, index)
        image = prepare(grid, &block, &job.chunk, 0, image_scratch)
        job.image, job.accumulate = image.data, index > first
        job.tap_count = tabulate_taps(grid, &job.chunk, &image, taps)
        job.count = tabulate_pixels(
            grid, &block, &image, p.O * p.dz_per_channel, p.dz_per_row, pixels, outs
        )
        job.terms = job.count // block.images
        job.in_order = follow(pixels, job.terms, 1) and (block.images == 1 or job.terms >= LEAST_IN_ORDER)
        if not job.in_order:
            job.terms = job.count
        o = 0
        while o < job.o_count:
            i = min(p.together, ceil_div(job.o_count - o, job.width))
            gather_panels(&job, o, i)
            multiply_panels(&job, o, i)
            o += i * job.width

    if last > first:
        tabulate_part(
            grid, &job.chunk, &grid.h, &grid.w,
            p.dw_per_channel, grid.h.tap_step * p.dw_per_row, grid.w.tap_step, taps, taps, weights,
        )
        dw = p.dw if slab == 0 else p.copies + (slab - 1) * p.dw_size
        dw += job.o_first * p.dw_per_filter + grid.h.tap_first * p.dw_per_row + grid.w.tap_first
        add_sums(
            job.sums, job.pitch, weights, job.tap_count, job.o_count, dw, p.dw_per_filter,
            not (p.sets and slab == 0 and p.round == 0),
        )
    return 0


cdef void gather_panels(const Job* job, Py_ssize_t o, Py_ssize_t panels) noexcept nogil:
    """Of output channels from o on."""
    cdef const Problem* p = job.p
    cdef real* panel = job.panels
    cdef Py_ssize_t _i, first, channels
    for _i in range(panels):
        first = (job.o_first + o) * p.dz_per_channel
        channels = min(job.width, job.o_count - o)
        gather_columns(
            p.dz + first, p.dz_per_channel, channels, p.dz_size - first, job.outs, job.count, job.width, panel
        )
        if job.totals != NULL:
            add_columns(panel, job.count, job.width, channels, job.totals + o)
        o += job.width
        panel += job.panel_size


cdef void multiply_panels(const Job* job, Py_ssize_t o, Py_ssize_t panels) noexcept nogil:
    """All taps, of output channels from o on."""
    cdef const real* rows[MAX_ROWS]
    cdef const Py_ssize_t* row_table = NULL
    cdef const Py_ssize_t* column_table = NULL
    cdef Py_ssize_t t = 0, first, i
    cdef int R, r
    if not job.in_order:
        row_table, column_table = job.pixels, job.panel_rows
    while t < job.tap_count:
        R = rows_for(job.tap_count - t, job.VN)
        first = 0
        while first < job.count:
            for r in range(R):  # beyond the last tap they repeat it, and belong to no weight
                rows[r] = job.image + job.pixels[first] + job.taps[min(t + r, job.tap_count - 1)]
            for i in range(panels):
                tile_for(R, job.VN)(
                    job.terms, rows, row_table,
                    job.panels + i * job.panel_size + first * job.width, column_table,
                    job.sums + t * job.pitch + o + i * job.width, job.pitch,
                    NULL, job.accumulate or first > 0,
                )
            first += job.terms
        t += R


cdef inline void add_sums(
    const real* sums, Py_ssize_t pitch, const Py_ssize_t* weights, Py_ssize_t tap_count, Py_ssize_t filters,
    real* dw, Py_ssize_t per_filter, bint accumulate,
) noexcept nogil:
    """dw[o][weights[tap]] (+)= sums[tap][o], transposed in registers where LANES taps are neighbours.

    LANES filters from end to end, and then the next. (512 of them, 1x1, float64, against LANES taps of all
    filters: the whole call 1.05 to 1.2 times as fast.)
    """
    cdef vec corner[LANES]
    cdef real* at
    cdef Py_ssize_t t, o = 0, f, last, lane, taps
    while o < filters:
        last = min(filters, o + LANES)
        t = 0
        while t < tap_count:
            taps = min(<Py_ssize_t> LANES, tap_count - t)
            if last == o + LANES and taps == LANES and weights[t + LANES - 1] == weights[t] + LANES - 1:
                for lane in range(LANES):
                    corner[lane] = load(sums + (t + lane) * pitch + o)
                store_transposed(
                    corner, dw + o * per_filter + weights[t], per_filter, LANES, LANES, accumulate
                )
            else:
                for f in range(o, last):
                    for lane in range(taps):
                        at = dw + f * per_filter + weights[t + lane]
                        at[0] = (at[0] if accumulate else 0) + sums[(t + lane) * pitch + f]
            t += taps
        o = last


cdef void gather_columns(
    const real* dz, Py_ssize_t per_channel, Py_ssize_t channels, Py_ssize_t readable,
    const Py_ssize_t* outs, Py_ssize_t count, Py_ssize_t width, real* panel,
) noexcept nogil:
    """panel[pixel][channel] = dz[channel][outs[pixel]], zero from `channels` to width.

    Runs of neighbours are transposed in registers, LANES pixels of LANES channels at a time. What is
    read beyond a run is written over by the next one, or lies beyond the last pixel, where the panel
    has room; but no more than `readable` numbers of dz are there to be read.
    """
    cdef Py_ssize_t i = 0, group, c, length, step, last
    while i < count:
        length, step = 1, 1
        if i + 1 < count and outs[i + 1] - outs[i] == 2:
            step = 2  # upsampled: a phase
        while i + length < count and outs[i + length] == outs[i] + length * step:
            length += 1
        last = i + length
        while length > 1 and i < last and (channels - 1) * per_channel + outs[i] + step * LANES <= readable:
            for group in range(width // LANES):
                c = group * LANES
                transpose_corner(dz + c * per_channel + outs[i], per_channel, channels - c, step,
                                 panel + i * width + c, width)
            i += LANES
        while i < last:
            for c in range(width):
                panel[i * width + c] = dz[c * per_channel + outs[i]] if c < channels else 0
            i += 1
        i = last


cdef inline void transpose_corner(
    const real* dz, Py_ssize_t per_channel, Py_ssize_t channels, Py_ssize_t step,
    real* panel, Py_ssize_t width,
) noexcept nogil:
    cdef vec corner[LANES]
    cdef Py_ssize_t lane
    for lane in range(LANES):
        corner[lane] = splat(0)
        if lane < channels:
            corner[lane] = load(dz)
            # Too many channels for the processor itself to foresee. (256: 1.05 to 1.25 times as fast.)
            prefetch(dz + 4 * LANES)
            if step == 2:
                corner[lane] = even(corner[lane], load(dz + LANES))
        dz += per_channel
    transpose(corner)
    for lane in range(LANES):
        store(panel + lane * width, corner[lane])


# ---- gradient with respect to the bias -----------------------------------------------------------

cdef void add_columns(
    const real* panel, Py_ssize_t count, Py_ssize_t width, Py_ssize_t channels, double* totals,
) noexcept nogil:
    """totals[channel] += sum of panel[pixel][channel].

    (Instead of another pass over dz: 1.0 to 1.1 times as fast.)
    """
    cdef vec a, b, c, d
    cdef real sums[LANES]
    cdef Py_ssize_t group, i, last, lane
    for group in range(ceil_div(channels, LANES)):
        i = 0
        while i < count:
            last = min(count, i + SUMMED_PIXELS)
            a = b = c = d = splat(0)
            while i + 4 <= last:
                a, b = add(a, load(panel + i * width)), add(b, load(panel + (i + 1) * width))
                c, d = add(c, load(panel + (i + 2) * width)), add(d, load(panel + (i + 3) * width))
                i += 4
            while i < last:
                a = add(a, load(panel + i * width))
                i += 1
            store(sums, add(add(a, b), add(c, d)))
            for lane in range(min(<Py_ssize_t> LANES, channels - group * LANES)):
                totals[lane] += sums[lane]
        panel, totals = panel + LANES, totals + LANES


cdef struct Channels:
    const real* dz
    real* db
    Py_ssize_t N, O, size


def sum_channels(dz, db, int threads):
    """db[o] = sum of dz[n,o,p,q], alone. dz (in), db (out)."""
    cdef Channels p
    cdef Batch gradients = batch_of(dz)
    p.dz, p.db = gradients.start, <real*> start_of(db)
    p.N, p.O, p.size = gradients.N, gradients.C, gradients.H * gradients.W
    if p.N == 0:
        memset(p.db, 0, p.O * sizeof(real))
        return
    run_items(sum_item, &p, p.O, <double> p.N * p.O * p.size, 0, threads)


cdef int sum_item(const void* problem, Py_ssize_t o, char* scratch) noexcept nogil:
    cdef const Channels* p = <const Channels*> problem
    p.db[o] = sum_channel(p.dz + o * p.size, p.N, p.O * p.size, p.size)
    return 0


cdef real sum_channel(
    const real* dz, Py_ssize_t images, Py_ssize_t pitch, Py_ssize_t size,
) noexcept nogil:
    cdef Py_ssize_t _n, block, last, i
    cdef vec a, b, c, d
    cdef real rest
    cdef double total = 0
    for _n in range(images):
        for block in range(ceil_div(size, SUMMED)):
            i = block * SUMMED
            last = min(size, i + SUMMED)
            a = b = c = d = splat(0)
            rest = 0
            while i + 4 * LANES <= last:
                a, b = add(a, load(dz + i)), add(b, load(dz + i + LANES))
                c, d = add(c, load(dz + i + 2 * LANES)), add(d, load(dz + i + 3 * LANES))
                i += 4 * LANES
            while i < last:
                rest += dz[i]
                i += 1
            total += horizontal_sum(add(add(a, b), add(c, d))) + rest
        dz += pitch
    return <real> total
