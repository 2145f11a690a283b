"""Where a convolution reads: everything that differs between the cases, as integer offsets.

All of forward, input gradient and weight gradient pair outputs with inputs by one rule. On each
axis, output p meets kernel tap u at position p*stride + u - pad of the input *dilated* by `up`
(up - 1 zeros between neighbours); where that is an inserted zero or lies outside, nothing is read.

1. Outputs whose position agrees modulo `up` see the same taps: they form a *phase*, and a phase is
   a plain strided convolution over the undilated input (`Axis`). Inserted zeros are thus never
   multiplied. Without dilation there is one phase.
2. The work is cut into `Block`s of outputs and `Chunk`s of taps, whose sizes depend on the problem
   alone, never on the number of threads.
3. `prepare` copies the input of one block and chunk into scratch: padded, and, where vectors are to be
   read of it, with every stride-th row and column in a plane of its own (`split`), so that neighbouring
   outputs read neighbouring numbers. Where the input is like that already it is used in place.
4. Then input(output, tap) = image.data[pixels[output] + taps[tap]]: two tables of integers.
"""

from libc.string cimport memset

from simd cimport LANES, copy_run, even, load, odd, prefetch, real, splat, store, store_some, vec


cdef struct Side:
    # One axis of a problem, down or across: the input, and how outputs meet it.
    Py_ssize_t size, outs, kernel, stride, pad, up


cdef struct Axis:
    # One phase of it.
    Py_ssize_t size  # of the input
    Py_ssize_t out_first, out_step, outs  # this phase computes outputs out_first + j*out_step
    Py_ssize_t tap_first, tap_step, taps  # from the kernel's taps tap_first + i*tap_step,
    Py_ssize_t origin, stride  # reading input origin + j*stride + i (outside: zero)
    Py_ssize_t split  # planes that a prepared image keeps its rows (or columns) in: stride, or 1


cdef struct Block:
    Py_ssize_t image, images, row, rows, col, cols


cdef struct Chunk:
    Py_ssize_t channel, channels, u, us, v, vs


cdef struct Image:
    const real* data
    Py_ssize_t per_image, per_channel, per_row_phase, per_col_phase, per_row


cdef struct Grid:
    # One phase of one problem: the input, and how outputs and taps are cut.
    const real* x
    Py_ssize_t N, C
    Axis h, w
    Block block  # the sizes of a full block; its positions are unused
    Chunk chunk  # the sizes of a full chunk
    Py_ssize_t blocks, chunks


cdef enum:
    # Outputs in a block: the caller's least, of which the image should yet fit the second-level cache;
    # more where there is little to compute for each, so that a block's tables and borders cost little
    # beside its multiply-adds.
    FEWEST_PIXELS = 256
    MOST_PIXELS = 2048
    IMAGE_BYTES = 1 << 20
    BLOCK_MACS = 1 << 20
    # Taps in a chunk. A panel of 16 pixels then takes 36 KB: it streams from the second-level cache
    # fast enough, and fewer chunks write results less often (512 against 256: 4% faster).
    CHUNK_TAPS = 576
    # Numbers, how far rows that are copied are fetched ahead, at the least: as many whole channels. (1.0 to
    # 1.15 times as fast.)
    AHEAD = 512
    # Columns from which on phases are split by whole vectors. (Four: 1.0 to 1.37 times as fast.)
    LEAST_SPLIT = 4


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t gcd(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


cdef inline Py_ssize_t phases(Py_ssize_t stride, Py_ssize_t up) noexcept nogil:
    return up // gcd(stride, up)


cdef inline Axis phase_of(const Side* side, Py_ssize_t phase, bint split) noexcept nogil:
    cdef Axis axis
    cdef Py_ssize_t outs = side.outs, kernel = side.kernel, stride = side.stride, up = side.up
    cdef Py_ssize_t position = phase * stride - side.pad  # of output `phase` and tap 0, dilated
    cdef Py_ssize_t beyond = position % up
    if beyond < 0:
        beyond += up
    axis.size = side.size
    axis.out_first = phase
    axis.out_step = phases(stride, up)
    axis.outs = ceil_div(outs - phase, axis.out_step) if outs > phase else 0
    axis.tap_first = (up - beyond) % up
    axis.tap_step = up
    axis.taps = ceil_div(kernel - axis.tap_first, up) if kernel > axis.tap_first else 0
    axis.origin = (position + axis.tap_first) // up
    axis.stride = stride // gcd(stride, up)
    # Where taps leave out inputs, planes hold those alone that are read.
    axis.split = axis.stride if split or axis.stride > axis.taps else 1
    return axis


cdef inline Py_ssize_t pixel_bytes(const Grid* grid) noexcept nogil:
    """Of a chunk of a prepared image, about, for each output."""
    cdef Py_ssize_t rows = max(<Py_ssize_t> 1, min(grid.h.stride, grid.h.taps))
    cdef Py_ssize_t cols = max(<Py_ssize_t> 1, min(grid.w.stride, grid.w.taps))
    return max(<Py_ssize_t> 1, grid.chunk.channels) * rows * cols * <Py_ssize_t> sizeof(real)


cdef inline Py_ssize_t share_of(
    Py_ssize_t pixels, Py_ssize_t size, Py_ssize_t count, Py_ssize_t times, int threads,
) noexcept nogil:
    """How many of `count` rows (or images) of that size to a block of so many pixels, `times` over."""
    cdef Py_ssize_t few = max(<Py_ssize_t> 1, min(count, pixels // max(<Py_ssize_t> 1, size)))
    cdef Py_ssize_t most = ceil_div(times * ceil_div(count, few), threads) * few
    # One more, if then the thread that has most to do has less.
    if threads > 1 and ceil_div(times * ceil_div(count, few + 1), threads) * (few + 1) < most:
        few += 1
    return few


cdef inline void cut(Grid* grid, Py_ssize_t channels, Py_ssize_t least_pixels, int threads) noexcept nogil:
    """Choose the sizes of blocks and chunks, for so many output channels.

    No thread should get more blocks than another; but where blocks are summed, `threads` must be 1
    always, lest results depend on it.
    """
    cdef Block* block = &grid.block
    cdef Chunk* chunk = &grid.chunk
    cdef Py_ssize_t pixels, total
    chunk.vs = min(grid.w.taps, <Py_ssize_t> CHUNK_TAPS)
    chunk.us = min(grid.h.taps, max(<Py_ssize_t> 1, CHUNK_TAPS // max(<Py_ssize_t> 1, chunk.vs)))
    chunk.channels = min(
        grid.C, max(<Py_ssize_t> 1, CHUNK_TAPS // max(<Py_ssize_t> 1, chunk.us * chunk.vs))
    )
    chunk.channels = ceil_div(grid.C, ceil_div(grid.C, chunk.channels))  # as even as can be
    grid.chunks = 0
    if chunk.us and chunk.vs:
        grid.chunks = (
            ceil_div(grid.C, chunk.channels)
            * ceil_div(grid.h.taps, chunk.us)
            * ceil_div(grid.w.taps, chunk.vs)
        )
    pixels = BLOCK_MACS // channels // max(<Py_ssize_t> 1, chunk_taps(grid))
    pixels = max(least_pixels, min(<Py_ssize_t> MOST_PIXELS, pixels))
    pixels = max(<Py_ssize_t> FEWEST_PIXELS, min(pixels, IMAGE_BYTES // pixel_bytes(grid)))
    if threads > 1:
        total = grid.N * grid.h.outs * grid.w.outs
        pixels = ceil_div(total, ceil_div(ceil_div(total, pixels), threads) * threads)
        pixels = max(<Py_ssize_t> 2 * LANES, pixels)
    block.cols = min(grid.w.outs, pixels)
    block.rows = min(grid.h.outs, share_of(pixels, block.cols, grid.h.outs, grid.N, threads))
    block.images = min(grid.N, share_of(pixels, grid.h.outs * grid.w.outs, grid.N, 1, threads))
    grid.blocks = blocks_of(grid)


cdef inline Py_ssize_t blocks_of(const Grid* grid) noexcept nogil:
    """How many blocks of that size there are."""
    if not (grid.N and grid.block.rows and grid.block.cols):
        return 0
    return (
        ceil_div(grid.N, grid.block.images)
        * ceil_div(grid.h.outs, grid.block.rows)
        * ceil_div(grid.w.outs, grid.block.cols)
    )


cdef inline Block block_at(const Grid* grid, Py_ssize_t index) noexcept nogil:
    cdef Block block = grid.block
    cdef Py_ssize_t col_blocks = ceil_div(grid.w.outs, block.cols)
    cdef Py_ssize_t row_blocks = ceil_div(grid.h.outs, block.rows)
    block.col = index % col_blocks * grid.block.cols
    block.row = index // col_blocks % row_blocks * grid.block.rows
    block.image = index // (col_blocks * row_blocks) * grid.block.images
    block.cols = min(block.cols, grid.w.outs - block.col)
    block.rows = min(block.rows, grid.h.outs - block.row)
    block.images = min(block.images, grid.N - block.image)
    return block


cdef inline Chunk chunk_at(const Grid* grid, Py_ssize_t index) noexcept nogil:
    cdef Chunk chunk = grid.chunk
    cdef Py_ssize_t v_chunks = ceil_div(grid.w.taps, chunk.vs)
    cdef Py_ssize_t u_chunks = ceil_div(grid.h.taps, chunk.us)
    chunk.v = index % v_chunks * grid.chunk.vs
    chunk.u = index // v_chunks % u_chunks * grid.chunk.us
    chunk.channel = index // (v_chunks * u_chunks) * grid.chunk.channels
    chunk.vs = min(chunk.vs, grid.w.taps - chunk.v)
    chunk.us = min(chunk.us, grid.h.taps - chunk.u)
    chunk.channels = min(chunk.channels, grid.C - chunk.channel)
    return chunk


cdef inline Py_ssize_t block_pixels(const Grid* grid) noexcept nogil:
    return grid.block.images * grid.block.rows * grid.block.cols


cdef inline Py_ssize_t chunk_taps(const Grid* grid) noexcept nogil:
    return grid.chunk.channels * grid.chunk.us * grid.chunk.vs


cdef inline Py_ssize_t prepared_extent(const Axis* axis, Py_ssize_t outs, Py_ssize_t taps) noexcept nogil:
    """Rows (or columns) of one phase plane of a prepared image."""
    return (outs - 1) * (axis.stride // axis.split) + 1 + (taps - 1) // axis.split


cdef inline Py_ssize_t prepared_size(const Grid* grid) noexcept nogil:
    """Numbers in the largest prepared image, with LANES more that may be read."""
    return (
        LANES
        + grid.block.images * grid.chunk.channels
        * min(grid.h.split, grid.chunk.us) * prepared_extent(&grid.h, grid.block.rows, grid.chunk.us)
        * min(grid.w.split, grid.chunk.vs) * prepared_extent(&grid.w, grid.block.cols, grid.chunk.vs)
    )


cdef inline Py_ssize_t first_inside(Py_ssize_t start, Py_ssize_t stride, Py_ssize_t count) noexcept nogil:
    """The first i of `count` for which start + i*stride is not negative."""
    return min(count, ceil_div(-start, stride)) if start < 0 else 0


cdef inline void copy_row(
    const real* row, Py_ssize_t stride, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t count,
    Py_ssize_t ahead, bint beyond, real* to,
) noexcept nogil:
    """to[i] = row[i*stride] for begin <= i < end, and zero elsewhere up to count.

    What lies `ahead` is fetched for later.
    `beyond` allows to read and write up to LANES - 1 numbers too many.
    """
    cdef Py_ssize_t i
    if stride == 1 and beyond:
        set_zero(to, begin)
        i = begin
        while i < end:
            store(to + i, load(row + i))
            prefetch(row + i + ahead)
            i += LANES
        set_zero(to + end, count - end)
        return
    for i in range(begin):
        to[i] = 0
    if stride == 1:
        copy_run(to + begin, row + begin, end - begin)
    else:
        for i in range(begin, end):
            to[i] = row[i * stride]
    for i in range(end, count):
        to[i] = 0


cdef inline void set_zero(real* to, Py_ssize_t count) noexcept nogil:
    """By whole vectors, up to LANES - 1 numbers too many."""
    cdef Py_ssize_t i = 0
    while i < count:
        store(to + i, splat(0))
        i += LANES


cdef inline void halve_row(
    const real* row, Py_ssize_t count, Py_ssize_t ahead, real* to, Py_ssize_t pitch,
) noexcept nogil:
    """to[k*pitch + i] = row[2*i + k], k = 0, 1; of the row, 2 * LANES are read at the least."""
    cdef Py_ssize_t i = 0, last = max(<Py_ssize_t> 0, count - LANES), width = min(<Py_ssize_t> LANES, count)
    cdef vec a, b
    while i < count:
        i = min(i, last)  # the last vector ends with the row
        a, b = load(row + 2 * i), load(row + 2 * i + LANES)
        prefetch(row + 2 * i + ahead)
        store_some(to + i, even(a, b), width)
        store_some(to + pitch + i, odd(a, b), width)
        i += LANES


cdef inline void quarter_row(
    const real* row, Py_ssize_t count, Py_ssize_t ahead, real* to, Py_ssize_t pitch,
) noexcept nogil:
    """to[k*pitch + i] = row[4*i + k], k = 0 to 3; of the row, 4 * LANES are read at the least."""
    cdef Py_ssize_t i = 0, last = max(<Py_ssize_t> 0, count - LANES), width = min(<Py_ssize_t> LANES, count)
    cdef vec a, b, c, d
    while i < count:
        i = min(i, last)
        a, b = load(row + 4 * i), load(row + 4 * i + LANES)
        c, d = load(row + 4 * i + 2 * LANES), load(row + 4 * i + 3 * LANES)
        prefetch(row + 4 * i + ahead)
        prefetch(row + 4 * i + 2 * LANES + ahead)
        store_some(to + i, even(even(a, b), even(c, d)), width)
        store_some(to + pitch + i, even(odd(a, b), odd(c, d)), width)
        store_some(to + 2 * pitch + i, odd(even(a, b), even(c, d)), width)
        store_some(to + 3 * pitch + i, odd(odd(a, b), odd(c, d)), width)
        i += LANES


cdef inline Image prepare(
    const Grid* grid, const Block* block, const Chunk* chunk, Py_ssize_t beyond, real* scratch,
) noexcept nogil:
    """The part of the input that a block and a chunk meet, of which `beyond` numbers more may be read."""
    cdef Image image
    cdef Py_ssize_t H = grid.h.size, W = grid.w.size
    cdef Py_ssize_t row = grid.h.origin + block.row * grid.h.stride + chunk.u
    cdef Py_ssize_t col = grid.w.origin + block.col * grid.w.stride + chunk.v
    cdef Py_ssize_t rows = prepared_extent(&grid.h, block.rows, chunk.us)
    cdef Py_ssize_t cols = prepared_extent(&grid.w, block.cols, chunk.vs)
    # Of all chunks, lest one be in place and another not.
    cdef Py_ssize_t last = (((block.image + block.images) * grid.C - 1) * H + row + rows - 1) * W + col + cols
    if (
        grid.h.split == 1 and grid.w.split == 1
        and row >= 0 and row + rows <= H and col >= 0 and col + cols <= W
        and last + beyond <= grid.N * grid.C * H * W
    ):
        image.data = grid.x + ((block.image * grid.C + chunk.channel) * H + row) * W + col
        image.per_image = grid.C * H * W
        image.per_channel = H * W
        image.per_row = W
        image.per_row_phase = image.per_col_phase = 0
        return image

    image.data = scratch
    image.per_row = cols
    image.per_col_phase = rows * cols
    image.per_row_phase = min(grid.w.split, chunk.vs) * image.per_col_phase
    image.per_channel = min(grid.h.split, chunk.us) * image.per_row_phase
    image.per_image = chunk.channels * image.per_channel
    copier()(grid, block, chunk, &image, rows, scratch)
    return image


ctypedef void (*Copier)(
    const Grid* grid, const Block* block, const Chunk* chunk, const Image* image, Py_ssize_t rows, real* to,
) noexcept nogil


cdef inline Copier copier() noexcept nogil:
    """By pointer, as the tiles: inlined, it took registers from its callers, and they from it."""
    return copy_image


cdef inline void copy_image(
    const Grid* grid, const Block* block, const Chunk* chunk, const Image* image, Py_ssize_t rows,
    real* scratch,
) noexcept nogil:
    """Copy what a block and a chunk meet, phase by phase, with zeros for what lies outside."""
    cdef Py_ssize_t H = grid.h.size, W = grid.w.size, cols = image.per_row
    cdef Py_ssize_t row = grid.h.origin + block.row * grid.h.stride + chunk.u
    cdef Py_ssize_t col = grid.w.origin + block.col * grid.w.stride + chunk.v
    cdef const real* x = grid.x + (block.image * grid.C + chunk.channel) * H * W
    cdef const real* x_end = grid.x + grid.N * grid.C * H * W
    cdef Py_ssize_t row_phases = min(grid.h.split, chunk.us), col_phases = min(grid.w.split, chunk.vs)
    cdef Py_ssize_t n, c, row_phase, phase = 0, r, from_row, i, ahead
    cdef Py_ssize_t begin[4]
    cdef Py_ssize_t end[4]
    cdef const real* source
    cdef real* to
    cdef int together = 1, k
    # All phases of a stride of 2 or 4 at once, by whole vectors.
    if (grid.w.split == 2 or grid.w.split == 4) and col_phases == grid.w.split and cols >= LEAST_SPLIT:
        together = <int> grid.w.split
    ahead = ceil_div(AHEAD, max(<Py_ssize_t> 1, rows * grid.h.split * W)) * H * W
    while phase < col_phases:
        for k in range(together):
            begin[k] = first_inside(col + phase + k, grid.w.split, cols)
            end[k] = max(begin[k], first_inside(col + phase + k - W, grid.w.split, cols))
        for n in range(block.images):
            for c in range(chunk.channels):
                for row_phase in range(row_phases):
                    to = (
                        scratch + n * image.per_image + c * image.per_channel
                        + row_phase * image.per_row_phase + phase * image.per_col_phase
                    )
                    for r in range(rows):
                        from_row = row + row_phase + r * grid.h.split
                        source = x + ((n * grid.C + c) * H + from_row) * W + col + phase
                        if not 0 <= from_row < H:
                            for k in range(together):
                                memset(to + k * image.per_col_phase, 0, cols * sizeof(real))
                        elif (
                            together > 1 and source >= grid.x
                            and source + together * max(cols, <Py_ssize_t> LANES) <= x_end
                        ):
                            if together == 2:
                                halve_row(source, cols, ahead, to, image.per_col_phase)
                            else:
                                quarter_row(source, cols, ahead, to, image.per_col_phase)
                            for k in range(together):
                                for i in range(begin[k]):
                                    to[k * image.per_col_phase + i] = 0
                                for i in range(end[k], cols):
                                    to[k * image.per_col_phase + i] = 0
                        else:
                            # What is written beyond a row, the next row written puts right.
                            for k in range(together):
                                copy_row(source + k, grid.w.split, begin[k], end[k], cols, ahead,
                                         source + end[k] + LANES <= x_end, to + k * image.per_col_phase)
                        to += cols
        phase += together


cdef inline Py_ssize_t tabulate_pixels(
    const Grid* grid, const Block* block, const Image* image,
    Py_ssize_t out_per_image, Py_ssize_t out_per_row,
    Py_ssize_t* pixels, Py_ssize_t* outs,
) noexcept nogil:
    """Offsets of a block's outputs: `pixels` in the prepared image, `outs` in the result."""
    cdef Py_ssize_t n, p, q, pixel, out, i = 0, step = grid.w.stride // grid.w.split
    for n in range(block.images):
        for p in range(block.rows):
            pixel = n * image.per_image + p * (grid.h.stride // grid.h.split) * image.per_row
            out = (
                (block.image + n) * out_per_image
                + (grid.h.out_first + (block.row + p) * grid.h.out_step) * out_per_row
                + grid.w.out_first + block.col * grid.w.out_step
            )
            for q in range(block.cols):
                pixels[i] = pixel + q * step
                outs[i] = out + q * grid.w.out_step
                i += 1
    return i


cdef inline Py_ssize_t tabulate_taps(
    const Grid* grid, const Chunk* chunk, const Image* image, Py_ssize_t* taps,
) noexcept nogil:
    """Offsets of a chunk's taps in the prepared image."""
    cdef Py_ssize_t c, _u, _v, tap, row_tap, row_phase, col_phase, i = 0
    for c in range(chunk.channels):
        row_tap, row_phase = c * image.per_channel, 0
        for _u in range(chunk.us):
            tap, col_phase = row_tap + row_phase * image.per_row_phase, 0
            for _v in range(chunk.vs):
                taps[i] = tap + col_phase * image.per_col_phase
                i += 1
                col_phase += 1
                if col_phase == grid.w.split:
                    tap, col_phase = tap + 1, 0
            row_phase += 1
            if row_phase == grid.h.split:
                row_tap, row_phase = row_tap + image.per_row, 0
    return i
