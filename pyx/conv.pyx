"""Convolution: forward, and gradient with respect to the input.

`correlate` is both, for every convolution of the package, strided and transposed ones included
(functional/conv.py says which arguments make which). taps.pxd tells where it reads, tile.pxd how it
multiplies. It runs over work items whose cut and order depend on the problem alone, so results are
the same bits on any number of threads.
"""

from cython.parallel cimport prange, threadid
from libc.stdlib cimport free

from scratch cimport allocate, carve, piece_of, round_to_line
from signals cimport MACS_BETWEEN_SIGNALS, PyErr_CheckSignals, items_until_signals
from simd cimport LANES, load, real, store
from taps cimport (
    Block, Chunk, Grid, Image, block_at, block_pixels, ceil_div, chunk_at, chunk_taps, cut,
    phase_of, phases, prepare, prepared_size, tabulate_pixels, tabulate_taps,
)
from tile cimport MAX_ROWS, even_rows, tile, vectors_for

cdef enum:
    # Up to this many output channels, gathering a panel costs more than it saves: each number
    # gathered is used by too few rows.
    DIRECT_ROWS = 16
    # The same for images narrower than a tile, where tiles go over the ends of rows.
    NARROW_DIRECT_ROWS = 6
    NOWHERE = -1  # the place of a lane that belongs to no output
    # With fewer blocks than this, output channels are divided over the work items as well.
    FEW_BLOCKS = 8


cdef struct Problem:
    Grid grid
    real* out
    const real* w
    const real* bias
    Py_ssize_t O, w_per_filter, w_per_channel, w_per_row, w_per_col
    Py_ssize_t out_per_channel, out_per_row
    Py_ssize_t rows, row_parts  # output channels to an item, and how many such parts there are


def correlate(
    const real[:, :, :, ::1] x, const real[:, :, :, :] w, const real[::1] b,
    real[:, :, :, ::1] out, tuple stride, tuple pad, tuple up, int threads,
):
    """out[n,o,p,q] = b[o] + sum of w[o,c,u,v] * dilated_x[n, c, p*stride + u - pad, ...].

    x (in) is (N, C, H, W), w (in) (O, C, KH, KW) of any strides, b (in) (O,) or None,
    out (out) (N, O, P, Q). stride, pad and up are pairs; pad may be negative, and x is zero
    outside. `up` dilates x: up - 1 zeros between neighbours.
    """
    cdef Problem p
    cdef Py_ssize_t sh = stride[0], sw = stride[1], ph = pad[0], pw = pad[1], uh = up[0], uw = up[1]
    cdef Py_ssize_t phase_h, phase_w
    p.grid.N, p.grid.C = x.shape[0], x.shape[1]
    p.O = w.shape[0]
    if p.grid.N == 0:
        return
    p.grid.x = &x[0, 0, 0, 0]
    p.out = &out[0, 0, 0, 0]
    p.w = &w[0, 0, 0, 0]
    p.bias = NULL
    if b is not None:
        p.bias = &b[0]
    cdef Py_ssize_t itemsize = sizeof(real)
    p.w_per_filter, p.w_per_channel = w.strides[0] // itemsize, w.strides[1] // itemsize
    p.w_per_row, p.w_per_col = w.strides[2] // itemsize, w.strides[3] // itemsize
    p.out_per_row = out.shape[3]
    p.out_per_channel = out.shape[2] * out.shape[3]
    # Beyond as many phases as there are outputs, none has any.
    for phase_h in range(min(out.shape[2], phases(sh, uh))):
        p.grid.h = phase_of(x.shape[2], out.shape[2], w.shape[2], sh, ph, uh, phase_h)
        for phase_w in range(min(out.shape[3], phases(sw, uw))):
            p.grid.w = phase_of(x.shape[3], out.shape[3], w.shape[3], sw, pw, uw, phase_w)
            correlate_phase(&p, threads)


cdef int correlate_phase(Problem* p, int threads) except -1:
    cdef Py_ssize_t items, item, first, last, step, size
    cdef double macs
    cdef char* scratch
    cut(&p.grid)
    p.rows = p.O
    if 0 < p.grid.blocks < FEW_BLOCKS:
        p.row_parts = min(ceil_div(FEW_BLOCKS, p.grid.blocks), ceil_div(p.O, 48))
        p.rows = ceil_div(ceil_div(p.O, p.row_parts), 6) * 6
    macs = <double> block_pixels(&p.grid) * p.grid.chunks * chunk_taps(&p.grid)  # of a block and row
    p.rows = <Py_ssize_t> min(<double> p.rows, max(6.0, MACS_BETWEEN_SIGNALS / max(macs, 1.0)))
    p.row_parts = ceil_div(p.O, p.rows)
    items = p.grid.blocks * p.row_parts
    size = correlate_scratch(p)
    step = items_until_signals(items, macs * p.O * p.grid.blocks)
    scratch = allocate(threads, size)
    try:
        for first in range(0, items, step):
            last = min(items, first + step)
            with nogil:
                for item in prange(first, last, schedule="dynamic", chunksize=1, num_threads=threads):
                    correlate_item(p, item, piece_of(scratch, size, threadid()))
            PyErr_CheckSignals()
    finally:
        free(scratch)
    return 0


cdef Py_ssize_t correlate_scratch(const Problem* p) noexcept nogil:
    """Bytes that `correlate_item` carves from its scratch."""
    cdef Py_ssize_t pixels = block_pixels(&p.grid), taps = chunk_taps(&p.grid)
    return (
        round_to_line((prepared_size(&p.grid) + LANES) * sizeof(real))
        + round_to_line(pixels * sizeof(Py_ssize_t))
        + round_to_line((pixels + 8 * LANES) * sizeof(Py_ssize_t))
        + 3 * round_to_line(taps * sizeof(Py_ssize_t))
        + round_to_line(taps * 9 * LANES * sizeof(real))  # a panel of any width
    )


cdef void correlate_item(const Problem* p, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Grid* grid = &p.grid
    cdef Block block = block_at(grid, item // p.row_parts)
    cdef Py_ssize_t o_first = item % p.row_parts * p.rows
    cdef Py_ssize_t o_last = min(p.O, o_first + p.rows)
    cdef int VN = vectors_for(even_rows(o_last - o_first, 6))
    cdef Py_ssize_t width = VN * LANES
    # Runs are whole vectors, or a panel needs room for lanes too many.
    cdef Py_ssize_t pitch = width if block.cols % LANES == 0 else width + LANES
    cdef bint direct = (
        o_last - o_first <= (DIRECT_ROWS if block.cols >= width else NARROW_DIRECT_ROWS)
        and block.rows * block.cols >= width
    )

    cdef Py_ssize_t most_pixels = block_pixels(grid), most_taps = chunk_taps(grid)
    cdef real* image_scratch = <real*> carve(&scratch, (prepared_size(grid) + LANES) * sizeof(real))
    cdef Py_ssize_t* pixels = <Py_ssize_t*> carve(&scratch, most_pixels * sizeof(Py_ssize_t))
    cdef Py_ssize_t* outs = <Py_ssize_t*> carve(&scratch, (most_pixels + 8 * LANES) * sizeof(Py_ssize_t))
    cdef Py_ssize_t* taps = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t* weights = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t* panel_rows = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef real* panel = <real*> scratch

    cdef Chunk chunk
    cdef Image image
    cdef Py_ssize_t index, count, tap_count, i, n, o
    cdef bint neighbours

    if grid.chunks == 0:  # a phase that no tap meets
        image.per_image = image.per_row = 0
        count = tabulate_pixels(
            grid, &block, &image, p.O * p.out_per_channel, p.out_per_row, pixels, outs
        )
        for o in range(o_first, o_last):
            for i in range(count):
                p.out[outs[i] + o * p.out_per_channel] = p.bias[o] if p.bias != NULL else 0
        return

    for i in range(most_taps):
        panel_rows[i] = i * pitch
    for index in range(grid.chunks):
        chunk = chunk_at(grid, index)
        # A panel's last vector may read beyond a row: only whole vectors may be read in place.
        image = prepare(grid, &block, &chunk, direct or block.cols % LANES == 0, image_scratch)
        count = tabulate_pixels(
            grid, &block, &image, p.O * p.out_per_channel, p.out_per_row, pixels, outs
        )
        tap_count = tabulate_taps(
            grid, &chunk, &image, p.w_per_channel, p.w_per_row, p.w_per_col, taps, weights
        )
        if direct:
            for n in range(block.images):
                direct_image(p, &block, &image, n, tap_count, weights, taps, VN, o_first, o_last, index > 0)
            continue
        for i in range(count, ceil_div(count, width) * width):
            outs[i] = NOWHERE
        # Panel by panel, so that one stays in the first-level cache while all rows of W pass by.
        for n in range(ceil_div(count, width)):
            i = n * width
            gather_panel(image.data, taps, tap_count, pixels + i, min(width, count - i), VN, pitch, panel)
            neighbours = outs[i + width - 1] == outs[i] + width - 1
            correlate_panel(p, VN, tap_count, weights, panel, panel_rows, outs + i, neighbours,
                            o_first, o_last, index > 0)


cdef void direct_image(
    const Problem* p, const Block* block, const Image* image, Py_ssize_t n,
    Py_ssize_t tap_count, const Py_ssize_t* weights, const Py_ssize_t* taps,
    int VN, Py_ssize_t o_first, Py_ssize_t o_last, bint accumulate,
) noexcept nogil:
    """Tiles straight on the n-th prepared image of a block, as if its rows were one long row.

    A tile goes on into the next row; what it computes between the two belongs to no output. The
    last tile is moved left to end with the image: it reads nothing beyond.
    """
    cdef const Grid* grid = &p.grid
    cdef Py_ssize_t outs[8 * LANES]
    cdef bint neighbours
    cdef Py_ssize_t width = VN * LANES, pitch = image.per_row
    cdef Py_ssize_t total = (block.rows - 1) * pitch + block.cols, at = 0, start, row, col, lane, first
    first = (
        (block.image + n) * p.O * p.out_per_channel
        + (grid.h.out_first + block.row * grid.h.out_step) * p.out_per_row
        + grid.w.out_first + block.col * grid.w.out_step
    )
    while at < total:
        if at % pitch >= block.cols:
            at += pitch - at % pitch
            continue
        start = min(at, total - width)
        row, col = start // pitch, start % pitch
        neighbours = start == at and grid.w.out_step == 1 and (
            col + width <= block.cols or pitch == block.cols == grid.h.out_step * p.out_per_row
        )
        for lane in range(1 if neighbours else width):
            outs[lane] = NOWHERE
            if start + lane >= at and col < block.cols:
                outs[lane] = first + row * grid.h.out_step * p.out_per_row + col * grid.w.out_step
            col += 1
            if col == pitch:
                row, col = row + 1, 0
        correlate_panel(p, VN, tap_count, weights, image.data + n * image.per_image + start, taps, outs,
                        neighbours, o_first, o_last, accumulate)
        at = start + width


cdef inline void gather_panel(
    const real* image, const Py_ssize_t* taps, Py_ssize_t tap_count,
    const Py_ssize_t* pixels, Py_ssize_t count, int VN, Py_ssize_t pitch, real* panel,
) noexcept nogil:
    """panel[tap][lane] = image[pixels[lane] + taps[tap]]; lanes beyond `count` hold any of those.

    Pixels come in runs of neighbours, rows of the image. A run is copied by whole vectors, which may
    reach up to LANES - 1 lanes too far: the next run puts that right, and `pitch` leaves room.
    """
    cdef Py_ssize_t lane = 0, length, t
    cdef const real* run
    cdef real* to
    while lane < VN * LANES:
        run, length = image + pixels[0], LANES
        if lane < count:
            run, length = image + pixels[lane], 1
            while length < LANES and lane + length < count and pixels[lane + length] == pixels[lane] + length:
                length += 1
        to = panel + lane
        for t in range(tap_count):
            store(to, load(run + taps[t]))
            to += pitch
        lane += length


cdef void correlate_panel(
    const Problem* p, int VN, Py_ssize_t tap_count, const Py_ssize_t* weights,
    const real* columns, const Py_ssize_t* column_offsets, const Py_ssize_t* outs, bint neighbours,
    Py_ssize_t o_first, Py_ssize_t o_last, bint accumulate,
) noexcept nogil:
    """All output channels of VN vectors of pixels, whose places in the result are `outs`.

    As `neighbours` they follow on outs[0], and only that is read.
    """
    cdef Py_ssize_t width = VN * LANES, o = o_first, lane
    cdef real aside[MAX_ROWS * 8 * LANES]
    cdef const real* rows[MAX_ROWS]
    cdef const real* bias
    cdef real* out
    cdef real* target
    cdef Py_ssize_t target_pitch
    cdef int R, r
    while o < o_last:
        R = even_rows(o_last - o, 6)
        for r in range(R):
            rows[r] = p.w + (o + r) * p.w_per_filter
        out = p.out + o * p.out_per_channel
        bias = p.bias + o if p.bias != NULL and not accumulate else NULL
        target, target_pitch = aside, width
        if neighbours:
            target, target_pitch = out + outs[0], p.out_per_channel
        tile(R, VN, tap_count, rows, weights, columns, column_offsets, target, target_pitch,
             bias, accumulate and neighbours)
        if not neighbours:
            for r in range(R):
                for lane in range(width):
                    if outs[lane] == NOWHERE:
                        continue
                    if accumulate:
                        out[outs[lane]] += aside[r * width + lane]
                    else:
                        out[outs[lane]] = aside[r * width + lane]
                out += p.out_per_channel
        o += R
