"""Convolution with stride 1 by Winograd's algorithm: gradient with respect to the weights.

    dg = G' [sum over tiles of (A dY A') * (B' d B)] G

transforms.pxd has the algorithm; a long kernel comes in pieces, each with input channels of its own. A slab
of tiles is transformed first, inputs as [channel][tile] and output gradients as [tile][channel]; then each of
the elements is a matrix product over the tiles, which work items compute for a block of input and output
channels each.
"""

from libc.string cimport memset

from buffers cimport Batch, batch_of
from parallel cimport allocate, carve, on_line, release, round_to_line, run_items
from simd cimport (
    LANES, add, horizontal_sum, load, load_some, prefetch, real, splat, store_transposed, subtract, transpose,
    vec,
)
from taps cimport ceil_div
from tile cimport MAX_ROWS, SPARE_ROWS, rows_for, tile_for
from transforms cimport (
    MOST_SIDE, MOST_TAPS, PAD, PANEL, SQUARE_REACH, Images, Run, Side, Tiling, images_of, meets,
    read_tiles, runs_of, tiling_of, transform_output_gradient, transform_weights_gradient,
)

cdef enum:
    WIDTH = PANEL  # output channels of a block
    # Input channels of a block at most: its sums, 36 x 24 x WIDTH, stay in the second-level cache; and at the
    # least, for another thread to have something to do.
    CHANNELS = 24
    FEWEST_CHANNELS = 4
    CHANNELS_READ = 8  # of one item of their transform
    # Bytes of transformed tiles at a time, of inputs and gradients, which all threads share; and tiles of a
    # slab, for each of which all of dw is read and written: so with many channels, not all are transformed
    # at a time. (AVX2, 256 to 512 channels, float32 and float64, against slabs of 8 or 16 tiles: 1.06 to 1.3
    # and 1.27 to 1.9 times as fast; 128 tiles against 64: 1.0 to 1.18.)
    SLAB_BYTES = 3 << 20
    SLAB_TILES = 256
    FEWEST_TILES = 128


cdef struct Problem:
    Images images
    const real* dz
    real* dw
    Py_ssize_t O, P, Q
    Py_ssize_t KH, KW
    Py_ssize_t C  # input channels, those of the first piece of the kernel, then those of the next
    Tiling tiling
    Py_ssize_t first_channel, channels  # the input channels at work
    Py_ssize_t first_block, column_blocks  # the blocks of WIDTH output channels at work
    Py_ssize_t rows, row_blocks  # input channels of a block, and how many blocks there are
    Py_ssize_t first, tiles  # the slab of tiles at work
    Py_ssize_t slab  # tiles of a full one
    real* inputs  # transformed: [element][channel][tile]
    real* gradients  # transformed: [column block][element][tile][channel]
    Py_ssize_t input_plane, gradient_plane


def winograd_weights(x, dz, dw, tuple pad, int threads):
    """What `correlate_weights` computes for kernels of 1, 3 or 5 rows and 3 or 5 columns, or 6 and more,
    without stride and upsampling.

    Returns whether all results are finite; if not, none may be used (see `winograd`).
    """
    cdef Problem p
    cdef Batch gradients = batch_of(dz), filters = batch_of(dw)
    p.images = images_of(x)
    p.dw, p.dz = filters.start, gradients.start
    p.O, p.P, p.Q = gradients.C, gradients.H, gradients.W
    if p.images.N == 0:
        memset(p.dw, 0, filters.N * filters.C * filters.H * filters.W * sizeof(real))
        return True
    p.KH, p.KW = filters.H, filters.W
    p.tiling = tiling_of(p.images.N, p.P, p.Q, p.KH, p.KW, (1, 1), pad, (1, 1))
    p.C = p.images.C * p.tiling.splits
    return sum_slabs(&p, threads)


cdef bint sum_slabs(Problem* p, int threads) except -1:
    cdef Py_ssize_t C = p.C, blocks = ceil_div(p.O, WIDTH), at_once, most_channels, panels
    cdef Py_ssize_t inputs_size, gradients_size, tile_size = p.tiling.elements * sizeof(real)  # of a channel
    cdef double macs
    cdef char* shared
    cdef char* piece
    p.slab = max(<Py_ssize_t> FEWEST_TILES, SLAB_BYTES // (tile_size * (C + blocks * WIDTH)))
    p.slab = min(<Py_ssize_t> SLAB_TILES, p.slab) // PANEL * PANEL
    p.slab = ceil_div(p.tiling.count, ceil_div(p.tiling.count, p.slab))
    p.slab = ceil_div(p.slab, PANEL) * PANEL
    most_channels = C
    if tile_size * p.slab * (C + blocks * WIDTH) > SLAB_BYTES:
        most_channels = ceil_div(C, ceil_div(C, SLAB_BYTES // 2 // (tile_size * p.slab)))
    p.input_plane = most_channels * p.slab + PAD
    p.gradient_plane = p.slab * WIDTH + PAD
    inputs_size = p.input_plane * tile_size
    gradients_size = p.gradient_plane * tile_size  # of a block
    at_once = min(blocks, max(<Py_ssize_t> 1, (SLAB_BYTES - inputs_size) // gradients_size))
    shared = allocate(1, round_to_line(inputs_size) + round_to_line(at_once * gradients_size))
    piece = on_line(shared)
    p.inputs = <real*> carve(&piece, inputs_size)
    p.gradients = <real*> carve(&piece, at_once * gradients_size)
    try:
        for p.first in range(0, p.tiling.count, p.slab):
            p.tiles = min(p.slab, p.tiling.count - p.first)
            panels = ceil_div(p.tiles, PANEL)
            macs = <double> p.tiles * p.tiling.elements
            for p.first_channel in range(0, C, most_channels):
                p.channels = min(most_channels, C - p.first_channel)
                run_items(inputs_item, p, panels * ceil_div(p.channels, CHANNELS_READ), macs * p.channels, 0,
                          threads)
                for p.first_block in range(0, blocks, at_once):
                    p.column_blocks = min(at_once, blocks - p.first_block)
                    if p.first_channel == 0 or at_once < blocks:
                        run_items(gradients_item, p, panels * p.column_blocks, macs * p.O, 0, threads)
                    cut_rows(p, threads)
                    if run_items(
                        sums_item, p, p.row_blocks * p.column_blocks, macs * p.channels * p.O,
                        item_scratch(p), threads,
                    ):
                        return False
    finally:
        release(shared)
    return True


cdef void cut_rows(Problem* p, int threads) noexcept nogil:
    """As few blocks of input channels as can be, if threads get equally many items."""
    cdef Py_ssize_t items = ceil_div(p.channels, CHANNELS) * p.column_blocks
    p.row_blocks = ceil_div(ceil_div(items, threads) * threads, p.column_blocks)
    p.row_blocks = min(p.row_blocks, ceil_div(p.channels, FEWEST_CHANNELS))
    p.rows = ceil_div(p.channels, p.row_blocks)
    p.row_blocks = ceil_div(p.channels, p.rows)


cdef int inputs_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """Transform some channels of one panel of inputs."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t panels = ceil_div(p.tiles, PANEL), panel = item % panels
    cdef Py_ssize_t c = item // panels * CHANNELS_READ, last = min(p.channels, c + CHANNELS_READ)
    cdef Py_ssize_t channel, count
    cdef Run runs[PANEL]
    cdef int run_count = runs_of(&p.tiling, p.first + panel * PANEL, runs)
    while c < last:
        channel = (p.first_channel + c) % p.images.C
        count = min(last - c, p.images.C - channel)
        read_tiles(
            &p.images, &p.tiling, run_count, runs, (p.first_channel + c) // p.images.C,
            channel, channel + count, p.inputs + c * p.slab + panel * PANEL, p.slab, p.input_plane,
        )
        c += count
    return 0


cdef int gradients_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """Transform one panel of a block of channels of dz, with channels as the lanes."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t panel = item % ceil_div(p.tiles, PANEL), block = item // ceil_div(p.tiles, PANEL)
    cdef vec z[PANEL * MOST_SIDE * MOST_SIDE * 2]  # [tile][row][column][channel]
    cdef vec half[SQUARE_REACH * MOST_SIDE]
    cdef const vec* y
    cdef Run runs[PANEL]
    cdef Run run
    cdef int run_count = runs_of(&p.tiling, p.first + panel * PANEL, runs)
    cdef Py_ssize_t high = p.tiling.h.outs, wide = p.tiling.w.outs, step = p.gradient_plane // LANES
    cdef Py_ssize_t first = (p.first_block + block) * WIDTH, r, t, i, j, v
    cdef vec* to
    if not (
        first + WIDTH <= p.O and p.P % high == 0 and p.Q % wide == 0 and (panel + 1) * PANEL <= p.tiles
    ):
        memset(z, 0, PANEL * high * wide * 2 * sizeof(vec))
    for v in range(2):
        for r in range(run_count):
            run = runs[r]
            for i in range(min(high, p.P - run.row * high)):
                copy_rows(p, &run, i, first + v * LANES, z + (run.lane * high + i) * wide * 2 + v)
    to = <vec*> (p.gradients + block * p.tiling.elements * p.gradient_plane + panel * PANEL * WIDTH)
    for t in range(PANEL):
        for v in range(2):
            y = z + t * high * wide * 2 + v
            if p.tiling.h.reach == 1:
                transform_output_gradient(y, 2, to + v, step, &p.tiling.w)
                continue
            for j in range(wide):
                transform_output_gradient(y + 2 * j, 2 * wide, half + j, wide, &p.tiling.h)
            for i in range(SQUARE_REACH):
                transform_output_gradient(
                    half + wide * i, 1, to + SQUARE_REACH * i * step + v, step, &p.tiling.w
                )
        to += 2
    return 0


cdef inline void copy_rows(
    const Problem* p, const Run* run, Py_ssize_t row, Py_ssize_t o, vec* to,
) noexcept nogil:
    """A row of the tiles of a run, of the channels from o on, in the layout of `gradients_item`."""
    cdef vec corner[LANES]
    cdef Py_ssize_t high = p.tiling.h.outs, wide = p.tiling.w.outs, plane = p.P * p.Q
    cdef Py_ssize_t channels = min(<Py_ssize_t> LANES, p.O - o)
    cdef Py_ssize_t count = min(run.tiles * wide, p.Q - run.col * wide), q = 0, j = 0, i, lane
    cdef const real* dz = (
        p.dz + (run.image * p.O + o) * plane + (run.row * high + row) * p.Q + run.col * wide
    )
    cdef const real* end = p.dz + p.images.N * p.O * plane
    if channels <= 0:
        return
    while q < count:
        for lane in range(LANES):
            corner[lane] = splat(0)
            if lane < channels:
                corner[lane] = load_some(dz + lane * plane + q, end - (dz + lane * plane + q))
                prefetch(dz + lane * plane + q + PANEL * high * wide)
        transpose(corner)
        for i in range(min(<Py_ssize_t> LANES, count - q)):
            to[2 * j] = corner[i]
            j += 1
            if j == wide:
                to, j = to + high * wide * 2, 0
        q += LANES


cdef Py_ssize_t item_scratch(const Problem* p) noexcept nogil:
    """Bytes that `sums_item` carves from its scratch."""
    return round_to_line(sums_size(p) * sizeof(real))


cdef Py_ssize_t sums_size(const Problem* p) noexcept nogil:
    return (p.tiling.elements * CHANNELS + SPARE_ROWS) * WIDTH


cdef int sums_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    """What a slab adds to dw, for a block of input and one of output channels; 1 if not all is finite."""
    cdef const Problem* p = <const Problem*> problem
    cdef Py_ssize_t row_block = item // p.column_blocks, column_block = item % p.column_blocks
    # [element][input channel][output channel]
    cdef real* sums = <real*> carve(&scratch, sums_size(p) * sizeof(real))
    cdef const real* rows[MAX_ROWS]
    cdef Py_ssize_t first = row_block * p.rows, count = min(p.rows, p.channels - first)
    cdef Py_ssize_t e, c, v
    cdef int R, r, bad = 0
    for e in range(p.tiling.elements):
        if not in_element(p, e, p.first_channel + first, p.first_channel + first + count - 1):
            memset(sums + e * CHANNELS * WIDTH, 0, count * WIDTH * sizeof(real))
            continue
        c = 0
        while c < count:
            R = rows_for(count - c, 2)  # rows beyond the last are overwritten
            for r in range(R):
                rows[r] = p.inputs + e * p.input_plane + (first + min(c + r, count - 1)) * p.slab
            tile_for(R, 2)(
                p.tiles, rows, NULL,
                p.gradients + (column_block * p.tiling.elements + e) * p.gradient_plane, NULL,
                sums + (e * CHANNELS + c) * WIDTH, WIDTH, NULL, False,
            )
            c += R
    for v in range(2):
        for c in range(count):
            bad |= transform_back(p, sums + c * WIDTH + v * LANES)
        add_filters(
            p, p.first_channel + first, count, (p.first_block + column_block) * WIDTH + v * LANES,
            sums + v * LANES,
        )
    return bad


cdef inline bint in_element(const Problem* p, Py_ssize_t e, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Whether the taps that there are of the pieces of channels first to last need that element."""
    cdef const Side* h = &p.tiling.h
    cdef const Side* w = &p.tiling.w
    cdef Py_ssize_t split
    for split in range(first // p.images.C, last // p.images.C + 1):
        if meets(h, e // w.reach, split // w.split, 0) and meets(w, e % w.reach, split % w.split, 0):
            return True
    return False


cdef inline int transform_back(const Problem* p, real* sums) noexcept nogil:
    """sums[tap, lane] from sums[element, lane]; 1 if not all is finite."""
    cdef vec* u = <vec*> sums
    cdef vec half[MOST_TAPS * SQUARE_REACH]
    cdef vec g[MOST_TAPS * MOST_TAPS]
    cdef vec zeros = splat(0)
    cdef Py_ssize_t rows = p.tiling.h.taps, cols = p.tiling.w.taps, step = CHANNELS * WIDTH // LANES
    cdef Py_ssize_t i, j
    if p.tiling.h.reach == 1:
        transform_weights_gradient(u, step, g, 1, &p.tiling.w)
    else:
        for j in range(SQUARE_REACH):
            transform_weights_gradient(u + j * step, SQUARE_REACH * step, half + j, SQUARE_REACH, &p.tiling.h)
        for i in range(rows):
            transform_weights_gradient(half + SQUARE_REACH * i, 1, g + cols * i, 1, &p.tiling.w)
    for i in range(rows * cols):
        zeros = add(zeros, subtract(g[i], g[i]))
        u[i * step] = g[i]
    return horizontal_sum(zeros) != 0


cdef inline void add_filters(
    const Problem* p, Py_ssize_t first, Py_ssize_t count, Py_ssize_t o, const real* sums,
) noexcept nogil:
    """dw[o + lane, first + c, tap] += sums[tap, c, lane], for c < count; the first slab sets it."""
    cdef const Side* h = &p.tiling.h
    cdef const Side* w = &p.tiling.w
    cdef Py_ssize_t taps = p.KH * p.KW, c, row, col, u, split
    cdef real* dw = p.dw + o * p.images.C * taps
    if p.tiling.splits == 1:
        add_run(p, sums, 0, count * taps, dw + first * taps, o)
        return
    for c in range(count):
        split = (first + c) // p.images.C
        row, col = split // w.split * h.apart, split % w.split * w.apart
        for u in range(min(h.taps, p.KH - row)):
            add_run(
                p, sums + c * WIDTH, u * w.taps, min(w.taps, p.KW - col),
                dw + (first + c) % p.images.C * taps + (row + u) * p.KW + col, o,
            )


cdef inline void add_run(
    const Problem* p, const real* sums, Py_ssize_t tap, Py_ssize_t count, real* dw, Py_ssize_t o,
) noexcept nogil:
    """Numbers that follow one another in dw: taps from that one on, then those of the next channel."""
    cdef vec corner[LANES]
    cdef Py_ssize_t taps = p.tiling.h.taps * p.tiling.w.taps, per_filter = p.images.C * p.KH * p.KW
    cdef Py_ssize_t t = 0, i, length
    while t < count:
        length = min(<Py_ssize_t> LANES, count - t)
        for i in range(LANES):
            corner[i] = splat(0)
            if i < length:
                corner[i] = load(sums + tap * CHANNELS * WIDTH)
                tap += 1
                if tap == taps:
                    tap, sums = 0, sums + WIDTH
        store_transposed(corner, dw + t, per_filter, min(<Py_ssize_t> LANES, p.O - o), length, p.first > 0)
        t += length
