"""Convolution to a single channel, with stride 1: the rows of a tile are rows of the result.

Tap by tap (strips.pxd), one output channel makes tiles of one row, which load a vector for every
multiply-add. But results one below the other read the same rows of the image. A tile of R of them goes
through the kernel in KH steps: in step k, result r meets image row k by row k - r of the kernel, if r <= k;
the results below that one meet image row k + KH by row k + KH - r. So a vector that is loaded serves R
results, or two serve them. (AVX2, both dtypes, 1 to 64 channels, 3x3 to 11x11: 1.05 to 1.45 times as fast.)
"""

from buffers cimport Filters
from parallel cimport carve, round_to_line
from simd cimport LANES, real, splat, store, vec
from taps cimport (
    Block, Chunk, Grid, Image, block_at, blocks_of, ceil_div, chunk_at, chunk_taps, cut, prepare,
    prepared_size,
)
from tile cimport STRETCH, add_term

cdef enum:
    LEAST_PIXELS = 512  # in a block
    WEIGHTS_BYTES = 1 << 19  # of the filter, for all rows of a tile


cdef struct Single:
    Grid grid
    const real* weights  # of each row of a tile, in the order of steps
    Py_ssize_t pitch  # from one row's to the next's
    real bias
    real* out
    int R, VN


cdef inline bint cut_single(Single* p, int threads) noexcept nogil:
    """Choose the tile and the sizes of blocks and chunks for `p.grid`; False if no tile fits."""
    cdef Grid* grid = &p.grid
    cdef Py_ssize_t taps = grid.h.taps * grid.w.taps, P = grid.h.outs, Q = grid.w.outs, lanes
    if grid.h.taps < 3 or taps > STRETCH:
        return False
    # R may be KH + 1 at the most. 12 sums, or 8 where 12 would leave too many lanes beyond a row.
    p.R, p.VN = 4, 3
    lanes = ceil_div(Q, 3 * LANES) * 3 * LANES
    if grid.h.taps >= 5 or 10 * lanes > 11 * ceil_div(Q, 2 * LANES) * 2 * LANES:
        p.VN = 2
        p.R = 6 if grid.h.taps >= 5 else 4
    p.pitch = grid.C * taps
    if P < p.R or Q < p.VN * LANES or p.R * p.pitch * <Py_ssize_t> sizeof(real) > WEIGHTS_BYTES:
        return False
    cut(grid, 1, LEAST_PIXELS, threads)
    grid.chunk.channels = min(grid.chunk.channels, STRETCH // taps)
    grid.chunks = ceil_div(grid.C, grid.chunk.channels)
    # Whole tiles: from a row's place in its tile follows in what order it is summed.
    grid.block.rows = min(P, ceil_div(grid.block.rows, p.R) * p.R)
    grid.block.cols = max(grid.block.cols, p.VN * <Py_ssize_t> LANES)
    grid.blocks = blocks_of(grid)
    return True


cdef inline void pack_single(const Single* p, const Filters* w, real* to) noexcept nogil:
    """The filter in the order of steps, for each row of a tile: [row][chunk][step][channel][column]."""
    cdef Py_ssize_t KH = w.KH, c = 0, channels, k, u, i, v
    cdef int r
    for r in range(p.R):
        c = 0
        while c < w.C:
            channels = min(p.grid.chunk.channels, w.C - c)
            for k in range(KH):
                u = k - r if r <= k else k + KH - r
                for i in range(channels):
                    for v in range(w.KW):
                        to[0] = w.start[(c + i) * w.per_channel + u * w.per_row + v * w.per_col]
                        to += 1
            c += channels


cdef inline Py_ssize_t single_scratch(const Single* p) noexcept nogil:
    """Bytes that `single_item` carves from its scratch."""
    return (
        round_to_line(prepared_size(&p.grid) * sizeof(real))
        + round_to_line(chunk_taps(&p.grid) * sizeof(Py_ssize_t))
        + round_to_line(p.R * p.VN * LANES * sizeof(real))
    )


cdef inline int single_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Single* p = <const Single*> problem
    cdef const Grid* grid = &p.grid
    cdef real* image_scratch = <real*> carve(&scratch, prepared_size(grid) * sizeof(real))
    cdef Py_ssize_t* offsets = <Py_ssize_t*> carve(&scratch, chunk_taps(grid) * sizeof(Py_ssize_t))
    cdef real* sums = <real*> carve(&scratch, p.R * p.VN * LANES * sizeof(real))
    cdef Py_ssize_t Q = grid.w.outs, width = p.VN * LANES, index, n, row, col, top, left
    cdef Block block = block_at(grid, item)
    # A block is no smaller than a tile: the last ones begin further up and left, and tiles compute again
    # what others do.
    cdef Py_ssize_t skip_rows = max(<Py_ssize_t> 0, p.R - block.rows)
    cdef Py_ssize_t skip_cols = max(<Py_ssize_t> 0, width - block.cols)
    cdef Chunk chunk
    cdef Image image
    cdef real* out
    block.row, block.rows = block.row - skip_rows, block.rows + skip_rows
    block.col, block.cols = block.col - skip_cols, block.cols + skip_cols
    for index in range(grid.chunks):
        chunk = chunk_at(grid, index)
        image = prepare(grid, &block, &chunk, 0, image_scratch)
        tabulate_steps(&chunk, &image, offsets)
        for n in range(block.images):
            row = skip_rows
            while row < block.rows:
                top = min(row, block.rows - p.R)
                col = skip_cols
                while col < block.cols:
                    left = min(col, block.cols - width)
                    steps_for(p.R, p.VN)(
                        chunk.us, chunk.channels * chunk.vs,
                        p.weights + chunk.channel * chunk.us * chunk.vs, p.pitch,
                        image.data + n * image.per_image + top * image.per_row + left, offsets,
                        chunk.us * image.per_row, sums,
                    )
                    out = p.out + ((block.image + n) * grid.h.outs + block.row + row) * Q + block.col + col
                    put_rows(sums + (row - top) * width + col - left, width, top + p.R - row,
                             left + width - col, out, Q, p.bias, index > 0)
                    col = left + width
                row = top + p.R
    return 0


cdef inline void tabulate_steps(const Chunk* chunk, const Image* image, Py_ssize_t* offsets) noexcept nogil:
    cdef Py_ssize_t k, c, v
    for k in range(chunk.us):
        for c in range(chunk.channels):
            for v in range(chunk.vs):
                offsets[0] = c * image.per_channel + k * image.per_row + v
                offsets += 1


cdef inline void put_rows(
    const real* sums, Py_ssize_t pitch, Py_ssize_t rows, Py_ssize_t cols, real* out, Py_ssize_t out_pitch,
    real bias, bint accumulate,
) noexcept nogil:
    cdef Py_ssize_t r, i
    for r in range(rows):
        if accumulate:
            for i in range(cols):
                out[r * out_pitch + i] += sums[r * pitch + i]
        else:
            for i in range(cols):
                out[r * out_pitch + i] = sums[r * pitch + i] + bias


# ---- the tile ------------------------------------------------------------------------------------

cdef inline Py_ssize_t add_steps(
    const int upper, const int R, const int VN, Py_ssize_t first, Py_ssize_t last, const real** rows,
    const real* columns, const Py_ssize_t* offsets, Py_ssize_t jump, vec* sums,
) noexcept nogil:
    """Terms of steps in which so many rows of the tile have not gone on to the image rows below."""
    cdef Py_ssize_t t
    for t in range(first, last):
        add_term(upper, VN, rows, t, columns + offsets[t], sums)
        if upper < R:
            add_term(R - upper, VN, rows + upper, t, columns + offsets[t] + jump, sums + upper * VN)
    return last


cdef inline void steps_of(
    const int R, const int VN, Py_ssize_t steps, Py_ssize_t terms, const real* weights, Py_ssize_t pitch,
    const real* columns, const Py_ssize_t* offsets, Py_ssize_t jump, real* out,
) noexcept nogil:
    cdef vec sums[12]
    cdef const real* rows[6]
    cdef Py_ssize_t t = 0
    cdef int i
    for i in range(R):
        rows[i] = weights + i * pitch
    for i in range(R * VN):
        sums[i] = splat(0)
    t = add_steps(1, R, VN, t, t + terms, rows, columns, offsets, jump, sums)
    t = add_steps(2, R, VN, t, t + terms, rows, columns, offsets, jump, sums)
    t = add_steps(3, R, VN, t, t + terms, rows, columns, offsets, jump, sums)
    if R == 6:
        t = add_steps(4, R, VN, t, t + terms, rows, columns, offsets, jump, sums)
        t = add_steps(5, R, VN, t, t + terms, rows, columns, offsets, jump, sums)
    add_steps(R, R, VN, t, steps * terms, rows, columns, offsets, jump, sums)
    for i in range(R * VN):
        store(out + i * LANES, sums[i])


ctypedef void (*Steps)(
    Py_ssize_t steps, Py_ssize_t terms, const real* weights, Py_ssize_t pitch,
    const real* columns, const Py_ssize_t* offsets, Py_ssize_t jump, real* out,
) noexcept nogil


cdef inline void steps_6x2(
    Py_ssize_t steps, Py_ssize_t terms, const real* weights, Py_ssize_t pitch,
    const real* columns, const Py_ssize_t* offsets, Py_ssize_t jump, real* out,
) noexcept nogil:
    steps_of(6, 2, steps, terms, weights, pitch, columns, offsets, jump, out)


cdef inline void steps_4x3(
    Py_ssize_t steps, Py_ssize_t terms, const real* weights, Py_ssize_t pitch,
    const real* columns, const Py_ssize_t* offsets, Py_ssize_t jump, real* out,
) noexcept nogil:
    steps_of(4, 3, steps, terms, weights, pitch, columns, offsets, jump, out)


cdef inline void steps_4x2(
    Py_ssize_t steps, Py_ssize_t terms, const real* weights, Py_ssize_t pitch,
    const real* columns, const Py_ssize_t* offsets, Py_ssize_t jump, real* out,
) noexcept nogil:
    steps_of(4, 2, steps, terms, weights, pitch, columns, offsets, jump, out)


cdef inline Steps steps_for(int R, int VN) noexcept nogil:
    """By pointer, as the tiles, for the sake of registers."""
    return steps_6x2 if R == 6 else steps_4x3 if VN == 3 else steps_4x2
