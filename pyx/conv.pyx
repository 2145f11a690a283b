"""Convolution: forward, and gradient with respect to the input.

`correlate` is both, for every convolution of the package, strided and transposed ones included
(functional/conv.py says which arguments make which). taps.pxd tells where it reads, tile.pxd how it
multiplies, small.pxd is another way for small images. In what order a result is summed depends on the
problem alone, so results are the same bits on any number of threads.
"""

from libc.stdlib cimport free

from buffers cimport Batch, Filters, batch_of, bias_of, filters_of
from packing cimport Packing, pack, packing_of
from parallel cimport MACS_BETWEEN_SIGNALS, allocate, carve, on_line, round_to_line, run_items
from simd cimport LANES, copy_run, load, prefetch, real, store, store_even, store_some
from small cimport Small, are_finite, cut_small, small_item, small_scratch
from taps cimport (
    Axis, Block, Chunk, Grid, Image, Side, block_at, block_pixels, ceil_div, chunk_at, chunk_taps, cut,
    phase_of, phases, prepare, prepared_size, tabulate_taps,
)
from tile cimport MAX_ROWS, even_rows, rows_for, tile_for, vectors_for, vectors_left

cdef enum:
    # What reading the image itself costs a lane, in percent of a lane of a panel: its vectors lie across
    # cache lines. And what gathering one adds, in percent over the number of output channels that use it:
    # for rows of whole vectors, and others. (AVX2, AVX-512, both dtypes, 16 to 32 output channels: the
    # slower way took 1.03 to 1.3 times as long, and the wrong one is taken for less than 1.1.)
    DIRECT_LANE = 105
    GATHERED = 300
    GATHERED_PARTS = 500
    # Outputs in a block: a tile's weights (2 to 14 KB) are used 8 times or more from the first-level cache.
    LEAST_PIXELS = 512
    # With fewer blocks than threads, output channels are divided over the work items as well: at the
    # least so many. (Each item prepares the input again.)
    FEWEST_ROWS = 24
    WIDEST = 8 * LANES
    # Taps from which on the results of the next tile are fetched while one runs: a store that misses the
    # second-level cache holds up those behind it. (AVX2, results of 3 to 13 MB, 64 taps: 1.1 to 1.3 times
    # as fast, smaller results 0.98 to 1.02. For 27 taps without this limit: 0.94.)
    LONG_TILE = 48
    # Images so small, and so many of them, go the way of small.pxd. (32 images, 8 to 16 channels, AVX2 and
    # AVX-512, both dtypes, times as fast: 12x12 without padding 1.0 to 1.1, 7x7 and 14x14 padded 1.0 to
    # 1.3, full padding 1.2 to 2. 16x16, rows of 32: 0.8 to 1.2.)
    SMALL_ROW = 16
    SMALL_PIXELS = 196
    SMALL_BATCH = LANES


cdef struct Span:
    # Lanes of a tile that are neighbours in a row of outputs, and read neighbours of the image.
    Py_ssize_t lane, length, source, target


cdef struct Problem:
    Grid grid
    real* out
    Filters w
    const real* bias
    Py_ssize_t out_per_image, out_per_channel, out_per_row
    # How many phases from that of the grid on are done with it, as so many more output channels; and from the
    # taps of one to those of the next, backwards, in numbers of a filter.
    Py_ssize_t down, across, tap_down, tap_across
    Py_ssize_t O  # such channels
    Py_ssize_t rows, row_parts  # of them to an item, and how many such parts there are


cdef struct Job:
    # A block and a chunk at work, for output channels o_first to o_last.
    const Problem* p
    Block block
    Image image
    Py_ssize_t o_first, o_last
    int VN  # vectors of a tile
    Py_ssize_t tap_count
    const Py_ssize_t* taps
    const Py_ssize_t* weights
    bint accumulate


def correlate(x, w, b, out, tuple stride, tuple pad, tuple up, int threads):
    """out[n,o,p,q] = b[o] + sum of w[o,c,u,v] * dilated_x[n, c, p*stride + u - pad, ...].

    x (in) is (N, C, H, W), w (in) (O, C, KH, KW) of any strides, b (in) (O,) or None,
    out (out) (N, O, P, Q). stride, pad and up are pairs; pad may be negative, and x is zero
    outside. `up` dilates x: up - 1 zeros between neighbours.
    """
    cdef Problem p
    cdef Small small
    cdef Packing packing
    cdef char* memory = NULL
    cdef const real* bias = bias_of(b)
    cdef Py_ssize_t first = 0
    cdef double macs
    cdef Batch images = batch_of(x), results = batch_of(out)
    cdef Py_ssize_t sh = stride[0], sw = stride[1], ph = pad[0], pw = pad[1], uh = up[0], uw = up[1]
    cdef Py_ssize_t H = images.H, W = images.W, P = results.H, Q = results.W
    cdef Side down, across
    p.w = filters_of(w)
    if images.N == 0:
        return
    # Each pixel for itself: an image is one row. (With a stride beyond the image, which comes as 1, or for
    # the gradient of such a convolution, sizes differ.)
    if p.w.KH == p.w.KW == sh == sw == uh == uw == 1 and ph == pw == 0 and H == P and W == Q:
        H, W, P, Q = 1, H * W, 1, P * Q
    down, across = Side(H, P, p.w.KH, sh, ph, uh), Side(W, Q, p.w.KW, sw, pw, uw)
    p.grid.x, p.grid.N, p.grid.C = images.start, images.N, images.C
    p.out_per_row = Q
    p.out_per_channel = P * Q
    p.out_per_image = p.w.O * p.out_per_channel
    if Q <= SMALL_ROW and P * Q <= SMALL_PIXELS and images.N >= SMALL_BATCH:
        small.x, small.w, small.bias, small.out = images.start, p.w, bias, results.start
        small.N = images.N
        small.down, small.across = down, across
        if cut_small(&small, threads) and are_finite(&p.w):
            macs = <double> images.N * P * Q * p.w.O * p.w.C * p.w.KH * p.w.KW
            run_items(small_item, &small, ceil_div(small.N, small.VN * LANES) * small.row_parts, macs,
                      small_scratch(&small), threads)
            return
    packing = packing_of(&p.w, images.N * P * Q // (uh * uw))
    if packing.group:
        memory = allocate(1, packing.group * packing.pitch * sizeof(real))
        packing.to = <real*> on_line(memory)
    try:
        while first < packing.given.O:
            p.w = packing.given
            if packing.group:
                p.w = pack(&packing, first, threads)
            p.out = results.start + first * p.out_per_channel
            p.bias = bias + first if bias != NULL else NULL
            correlate_filters(&p, &down, &across, threads)
            first += packing.group or packing.given.O
    finally:
        free(memory)


cdef int correlate_filters(Problem* p, const Side* down, const Side* across, int threads) except -1:
    cdef Py_ssize_t phase_h = 0, phase_w
    p.tap_down, p.tap_across = down.stride * p.w.per_row, across.stride * p.w.per_col
    # Beyond as many phases as there are outputs, none has any.
    while phase_h < min(down.outs, phases(down.stride, down.up)):
        p.grid.h = phase_of(down, phase_h, True)
        p.down = phases_alike(down, &p.grid.h, phase_h)
        phase_w = 0
        while phase_w < min(across.outs, phases(across.stride, across.up)):
            p.grid.w = phase_of(across, phase_w, True)
            p.across = phases_alike(across, &p.grid.w, phase_w)
            correlate_phase(p, threads)
            phase_w += p.across
        phase_h += p.down
    return 0


cdef inline Py_ssize_t phases_alike(const Side* side, const Axis* first, Py_ssize_t phase) noexcept nogil:
    """How many phases, from this on, have as many outputs and read the same inputs by as many taps.

    All of them, in the gradient of a convolution of patches, whose kernel is as wide as its stride.
    """
    cdef Axis axis
    cdef Py_ssize_t count = 1
    while phase + count < min(side.outs, first.out_step):
        axis = phase_of(side, phase + count, True)
        if axis.origin != first.origin or axis.taps != first.taps or axis.outs != first.outs:
            break
        count += 1
    return count


cdef struct Row:
    # A channel of a phase: output channel o of the phase so far down and across from the grid's, its filter,
    # and where its first output lies.
    Py_ssize_t o, down, across
    const real* filter
    real* out


cdef inline Row row_at(const Problem* p, Py_ssize_t index) noexcept nogil:
    cdef Row row
    row.o = index // (p.down * p.across)
    row.down, row.across = index // p.across % p.down, index % p.across
    locate(p, &row)
    return row


cdef inline void locate(const Problem* p, Row* row) noexcept nogil:
    row.filter = (
        p.w.start + row.o * p.w.per_filter - row.down * p.tap_down - row.across * p.tap_across
    )
    row.out = p.out + row.o * p.out_per_channel + row.down * p.out_per_row + row.across


cdef inline void go_on(const Problem* p, Row* row) noexcept nogil:
    """To the next row, without a division."""
    row.across += 1
    if row.across == p.across:
        row.across, row.down = 0, row.down + 1
    if row.down == p.down:
        row.down, row.o = 0, row.o + 1
    locate(p, row)


cdef int correlate_phase(Problem* p, int threads) except -1:
    cdef double macs
    p.O = p.w.O * p.down * p.across
    cut(&p.grid, p.O, LEAST_PIXELS, threads)
    p.rows = p.O
    if 0 < p.grid.blocks < threads:
        p.row_parts = min(ceil_div(threads, p.grid.blocks), ceil_div(p.O, FEWEST_ROWS))
        p.rows = ceil_div(ceil_div(p.O, p.row_parts), 6) * 6
    macs = <double> block_pixels(&p.grid) * p.grid.chunks * chunk_taps(&p.grid)  # of a block and row
    p.rows = <Py_ssize_t> min(<double> p.rows, max(6.0, MACS_BETWEEN_SIGNALS / max(macs, 1.0)))
    p.row_parts = ceil_div(p.O, p.rows)
    run_items(correlate_item, p, p.grid.blocks * p.row_parts, macs * p.O * p.grid.blocks,
              correlate_scratch(p), threads)
    return 0


cdef Py_ssize_t correlate_scratch(const Problem* p) noexcept nogil:
    """Bytes that `correlate_item` carves from its scratch."""
    cdef Py_ssize_t taps = chunk_taps(&p.grid)
    # Of the widest tile: the last part may have fewer rows, and so wider tiles, than the others.
    cdef Py_ssize_t last = p.O - (p.row_parts - 1) * p.rows
    cdef Py_ssize_t width = max(vectors_for(even_rows(p.rows, 6)), vectors_for(even_rows(last, 6))) * LANES
    return (
        round_to_line(prepared_size(&p.grid) * sizeof(real))
        + 3 * round_to_line(taps * sizeof(Py_ssize_t))
        + round_to_line(taps * width * sizeof(real))  # a panel
    )


cdef int correlate_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Problem* p = <const Problem*> problem
    cdef const Grid* grid = &p.grid
    cdef Py_ssize_t most_taps = chunk_taps(grid)
    cdef real* image_scratch = <real*> carve(&scratch, prepared_size(grid) * sizeof(real))
    cdef Py_ssize_t* taps = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t* weights = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t* panel_rows = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef real* panel
    cdef Job job
    cdef Chunk chunk
    cdef Py_ssize_t index, width
    job.p = p
    job.o_first = item % p.row_parts * p.rows
    job.o_last = min(p.O, job.o_first + p.rows)
    job.VN = vectors_for(even_rows(job.o_last - job.o_first, 6))
    job.taps, job.weights = taps, weights
    width = job.VN * LANES
    panel = <real*> carve(&scratch, most_taps * width * sizeof(real))
    job.block = block_at(grid, item // p.row_parts)
    if grid.chunks == 0:
        fill_block(&job)
        return 0
    for index in range(grid.chunks):
        chunk = chunk_at(grid, index)
        job.block = block_at(grid, item // p.row_parts)
        job.image = prepare(grid, &job.block, &chunk, LANES, image_scratch)
        job.tap_count = tabulate_taps(
            grid, &chunk, &job.image, p.w.per_channel, p.w.per_row, p.w.per_col, taps, weights
        )
        job.accumulate = index > 0
        if (
            job.image.per_row == job.block.cols == p.out_per_row
            and grid.h.out_step == grid.w.out_step == 1
        ):  # rows follow one another here and there: they are one row
            job.block.rows, job.block.cols = 1, job.block.rows * job.block.cols
        if goes_direct(&job, width):
            direct_tiles(&job, width)
        else:
            panel_tiles(&job, panel_rows, panel)
    return 0


cdef inline bint goes_direct(const Job* job, Py_ssize_t width) noexcept nogil:
    """Whether tiles read the image itself, which wastes the lanes between rows (see `direct_tiles`)."""
    cdef const Block* block = &job.block
    cdef Py_ssize_t pitch = job.image.per_row, total = (block.rows - 1) * pitch + block.cols
    cdef Py_ssize_t lanes = 0, at = 0
    cdef double gathered = GATHERED if block.cols % LANES == 0 else GATHERED_PARTS
    if total < width:
        return False
    while at < total:
        if at % pitch >= block.cols:
            at = (at // pitch + 1) * pitch
        else:
            lanes, at = lanes + width, at + width
    gathered /= job.o_last - job.o_first
    return lanes * <double> DIRECT_LANE <= block.rows * block.cols * (100 + gathered)


cdef void fill_block(const Job* job) noexcept nogil:
    """The outputs of a phase that no tap meets."""
    cdef const Problem* p = job.p
    cdef const Block* block = &job.block
    cdef Py_ssize_t n, o, row, col
    cdef Row channel
    cdef real* out
    for n in range(block.images):
        for o in range(job.o_first, job.o_last):
            channel = row_at(p, o)
            for row in range(block.rows):
                out = channel.out + target_of(job, n, row, 0)
                for col in range(block.cols):
                    out[col * p.grid.w.out_step] = p.bias[channel.o] if p.bias != NULL else 0


cdef inline Py_ssize_t target_of(const Job* job, Py_ssize_t n, Py_ssize_t row, Py_ssize_t col) noexcept nogil:
    """Where an output of the block lies in the first channel of the result."""
    cdef const Problem* p = job.p
    return (
        (job.block.image + n) * p.out_per_image
        + (p.grid.h.out_first + (job.block.row + row) * p.grid.h.out_step) * p.out_per_row
        + p.grid.w.out_first + (job.block.col + col) * p.grid.w.out_step
    )


cdef void direct_tiles(const Job* job, Py_ssize_t width) noexcept nogil:
    """Tiles straight on the image, as if the rows of a block were one long row.

    A tile goes on into the next row; what it computes between the two belongs to no output. The last
    tile of an image is moved left to end with it: it reads nothing beyond, and some outputs again.
    """
    cdef const Block* block = &job.block
    cdef Span spans[WIDEST]
    cdef Py_ssize_t pitch = job.image.per_row, total = (block.rows - 1) * pitch + block.cols
    cdef Py_ssize_t n, at, start, row, col, lane, first
    cdef int count
    for n in range(block.images):
        at = 0
        while at < total:
            row, col = at // pitch, at % pitch
            if col >= block.cols:
                at = (row + 1) * pitch
                continue
            start = min(at, total - width)
            row, col = start // pitch, start % pitch
            count, lane = 0, 0
            while lane < width:
                first = max(lane, at - start)  # lanes before have been computed
                if first < min(width, lane + block.cols - col):
                    spans[count].lane = first
                    spans[count].length = min(width, lane + block.cols - col) - first
                    spans[count].target = target_of(job, n, row, col + first - lane)
                    count += 1
                lane += pitch - col
                row, col = row + 1, 0
            multiply(job, job.VN, job.image.data + n * job.image.per_image + start, job.taps, spans, count)
            at = start + width


cdef void panel_tiles(const Job* job, Py_ssize_t* panel_rows, real* panel) noexcept nogil:
    """Tiles on panels: the pixels of a tile gathered for all taps.

    Panel by panel, so that one stays in the first-level cache while all rows of W pass by.
    """
    cdef const Block* block = &job.block
    cdef Span spans[WIDEST]
    cdef Py_ssize_t n = 0, row = 0, col = 0, left = block.images * block.rows * block.cols, lane, t
    cdef Py_ssize_t width = 0
    cdef int VN = 0, needed, count
    while n < block.images:
        needed = vectors_left(job.VN, job.o_last - job.o_first, left)
        if needed != VN:
            VN, width = needed, needed * LANES
            for t in range(job.tap_count):
                panel_rows[t] = t * width
        count, lane = 0, 0
        while lane < width and n < block.images:
            spans[count].lane = lane
            spans[count].length = min(width - lane, block.cols - col)
            spans[count].source = n * job.image.per_image + row * job.image.per_row + col
            spans[count].target = target_of(job, n, row, col)
            lane += spans[count].length
            col += spans[count].length
            count += 1
            if col == block.cols:
                row, col = row + 1, 0
                if row == block.rows:
                    n, row = n + 1, 0
        left -= lane
        gather_panel(job, spans, count, width, panel)
        multiply(job, VN, panel, panel_rows, spans, count)


cdef inline void gather_panel(
    const Job* job, const Span* spans, int count, Py_ssize_t width, real* panel,
) noexcept nogil:
    """panel[tap][lane] = image[pixel of lane + taps[tap]]; lanes beyond the last span repeat the first.

    Whole vectors are copied, which may reach up to LANES - 1 lanes too far: the next span puts that right.
    """
    cdef Py_ssize_t lane
    cdef int i
    for i in range(count):
        gather_span(job, spans[i].source, spans[i].length, width, spans[i].lane, panel)
    lane = spans[count - 1].lane + spans[count - 1].length
    while lane < width:
        gather_span(job, spans[0].source, 1, width, lane, panel)
        lane += LANES


cdef inline void gather_span(
    const Job* job, Py_ssize_t source, Py_ssize_t length, Py_ssize_t width, Py_ssize_t lane, real* to,
) noexcept nogil:
    cdef const real* x = job.image.data + source - lane
    cdef const real* pixels
    cdef const Py_ssize_t* taps = job.taps
    cdef Py_ssize_t last = lane + length, t
    while last - lane > LANES and lane + 2 * LANES <= width:  # two vectors, as they mostly share cache lines
        for t in range(job.tap_count):
            pixels = x + lane + taps[t]
            store(to + lane + t * width, load(pixels))
            store(to + lane + t * width + LANES, load(pixels + LANES))
            # The next panel, mostly. (Images in the third-level cache: 1.05 to 1.16 times as fast.)
            prefetch(pixels + width)
            prefetch(pixels + width + LANES)
        lane += 2 * LANES
    while lane < last and lane + LANES <= width:
        for t in range(job.tap_count):
            store(to + lane + t * width, load(x + lane + taps[t]))
        lane += LANES
    if lane < last:
        for t in range(job.tap_count):
            store_some(to + lane + t * width, load(x + lane + taps[t]), width - lane)


cdef void multiply(
    const Job* job, int VN, const real* columns, const Py_ssize_t* column_offsets,
    const Span* spans, int count,
) noexcept nogil:
    """All output channels of VN vectors of pixels, of which the spans belong to outputs."""
    cdef const Problem* p = job.p
    cdef const real* rows[MAX_ROWS]
    cdef const real* bias = NULL
    cdef real* out
    cdef Py_ssize_t o = job.o_first
    cdef Py_ssize_t side_by_side = 0  # lanes, from the first on, whose outputs lie so, too
    cdef int R, r, i
    for i in range(count):
        if spans[i].lane == side_by_side and spans[i].target == spans[0].target + side_by_side:
            side_by_side += spans[i].length
    if p.grid.w.out_step > 1 or p.down * p.across > 1 or side_by_side < VN * LANES:
        multiply_aside(job, VN, columns, column_offsets, spans, count)
        return
    while o < job.o_last:
        R = rows_for(job.o_last - o, VN)
        for r in range(R):
            rows[r] = p.w.start + (o + r) * p.w.per_filter
        out = p.out + o * p.out_per_channel + spans[0].target
        if job.tap_count >= LONG_TILE:
            for r in range(<int> min(<Py_ssize_t> R, job.o_last - o - R)):
                prefetch(out + (R + r) * p.out_per_channel)
        if p.bias != NULL and not job.accumulate:
            bias = p.bias + o
        tile_for(R, VN)(
            job.tap_count, rows, job.weights, columns, column_offsets,
            out, p.out_per_channel, bias, job.accumulate,
        )
        o += R


cdef void multiply_aside(
    const Job* job, int VN, const real* columns, const Py_ssize_t* column_offsets,
    const Span* spans, int count,
) noexcept nogil:
    """Outputs that do not lie side by side are made aside, and then put where they belong."""
    cdef const Problem* p = job.p
    cdef real aside[MAX_ROWS * WIDEST]
    cdef real biases[MAX_ROWS]
    cdef const real* rows[MAX_ROWS]
    cdef real* outs[MAX_ROWS]
    cdef bint with_bias = p.bias != NULL and not job.accumulate
    cdef Row row = row_at(p, job.o_first)
    cdef Py_ssize_t o = job.o_first, width = VN * LANES, step = p.grid.w.out_step
    cdef int R, r, i
    while o < job.o_last:
        R = rows_for(job.o_last - o, VN)
        for r in range(R):
            rows[r], outs[r] = row.filter, row.out
            if with_bias:
                biases[r] = p.bias[row.o]
            go_on(p, &row)
        for r in range(R if job.accumulate else 0):
            for i in range(count):
                fetch(aside + r * width + spans[i].lane, outs[r] + spans[i].target, spans[i].length, step)
        tile_for(R, VN)(
            job.tap_count, rows, job.weights, columns, column_offsets, aside, width,
            biases if with_bias else NULL, job.accumulate,
        )
        for r in range(R):
            for i in range(count):
                put(outs[r] + spans[i].target, aside + r * width + spans[i].lane, spans[i].length, step)
        o += R


cdef inline void fetch(real* to, const real* out, Py_ssize_t count, Py_ssize_t step) noexcept nogil:
    """to[i] = out[i*step]"""
    cdef Py_ssize_t i
    if step == 1:
        copy_run(to, out, count)
    else:
        for i in range(count):
            to[i] = out[i * step]


cdef inline void put(real* out, const real* source, Py_ssize_t count, Py_ssize_t step) noexcept nogil:
    """out[i*step] = source[i]"""
    cdef Py_ssize_t i = 0
    if step == 1:
        copy_run(out, source, count)
        return
    if step == 2:
        while i + LANES <= count:
            store_even(out + 2 * i, load(source + i))
            i += LANES
    while i < count:
        out[i * step] = source[i]
        i += 1
