"""Convolution of images so small that a row of outputs does not fill a vector: the lanes are images.

A block of images is transposed to image[channel][row][column][lane], padded with zeros, whole channels
at a time. Every output pixel is then a plain tile: its taps lie a fixed distance from it, whatever the
stride, and no lane is wasted at the end of a row. The results are transposed back.
"""

from libc.string cimport memset

from buffers cimport Filters
from parallel cimport MACS_BETWEEN_SIGNALS, carve, round_to_line
from simd cimport LANES, load, load_some, real, splat, store, store_some, transpose, vec
from taps cimport Axis, ceil_div, phase_of, phases
from tile cimport MAX_ROWS, SPARE_ROWS, rows_for, tile_for

cdef enum:
    # Bytes of the transposed images of a chunk, and of the sums of an item: both stay in the
    # second-level cache.
    IMAGES_BYTES = 3 << 16
    SUMS_BYTES = 1 << 17
    # Parts that the sums may cut the output channels in: each transposes the images again. (256 channels
    # of 7x7 make 7, and took 1.25 times as long as panels; 64 make 2, and took 0.85 of the time.)
    MOST_PARTS = 3
    MOST_TAPS = 576


cdef struct Side:
    # One axis, down or across: the input, and how outputs meet it.
    Py_ssize_t size, outs, kernel, stride, pad, up
    Py_ssize_t before, padded  # zeros before the first number, and the size with all zeros


cdef struct Small:
    const real* x
    Filters w
    const real* bias
    real* out
    Py_ssize_t N
    Side down, across
    int VN  # vectors of images to a block
    Py_ssize_t channels  # to a chunk
    Py_ssize_t rows, row_parts  # output channels to an item, and how many such parts there are


cdef inline Side side_of(
    Py_ssize_t size, Py_ssize_t outs, Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t pad, Py_ssize_t up,
) noexcept nogil:
    cdef Side side
    cdef Axis axis
    cdef Py_ssize_t phase, after = 0
    side.size, side.outs, side.kernel = size, outs, kernel
    side.stride, side.pad, side.up = stride, pad, up
    side.before = 0
    for phase in range(min(outs, phases(stride, up))):
        axis = phase_of(size, outs, kernel, stride, pad, up, phase, False)
        side.before = max(side.before, -axis.origin)
        after = max(after, axis.origin + (axis.outs - 1) * axis.stride + axis.taps - size)
    side.padded = side.before + size + after
    return side


cdef inline bint cut_small(Small* p, Py_ssize_t blocks_wanted) noexcept nogil:
    """Choose the sizes of blocks, chunks and parts; False if they would be too large."""
    cdef Py_ssize_t width, plane, most
    p.VN = 1 if p.N <= LANES else 2
    width = p.VN * LANES
    plane = p.down.padded * p.across.padded * width * sizeof(real)
    p.channels = min(IMAGES_BYTES // plane, MOST_TAPS // (p.down.kernel * p.across.kernel))
    most = SUMS_BYTES // (p.down.outs * p.across.outs * width * <Py_ssize_t> sizeof(real))
    if p.channels == 0 or most < SPARE_ROWS or ceil_div(p.w.O, most) > MOST_PARTS:
        return False
    p.channels = min(p.w.C, p.channels)
    p.row_parts = max(
        ceil_div(p.w.O, most), min(ceil_div(blocks_wanted, ceil_div(p.N, width)), ceil_div(p.w.O, 24))
    )
    p.rows = ceil_div(p.w.O, p.row_parts)
    p.row_parts = ceil_div(p.w.O, p.rows)
    return (
        <double> width * p.rows * p.down.outs * p.across.outs * p.w.C * p.down.kernel * p.across.kernel
        < MACS_BETWEEN_SIGNALS
    )


cdef inline Py_ssize_t small_scratch(const Small* p) noexcept nogil:
    """Bytes that `small_item` carves from its scratch."""
    cdef Py_ssize_t width = p.VN * LANES
    return (
        2 * round_to_line(p.channels * p.down.kernel * p.across.kernel * sizeof(Py_ssize_t))
        + round_to_line(p.channels * p.down.padded * p.across.padded * width * sizeof(real))
        + ((p.rows + SPARE_ROWS) * p.down.outs * p.across.outs + LANES) * width * <Py_ssize_t> sizeof(real)
    )


cdef inline int small_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Small* p = <const Small*> problem
    cdef Py_ssize_t width = p.VN * LANES, first = item // p.row_parts * width
    cdef Py_ssize_t o_first = item % p.row_parts * p.rows, o_last = min(p.w.O, o_first + p.rows)
    cdef Py_ssize_t most_taps = p.channels * p.down.kernel * p.across.kernel
    cdef Py_ssize_t image_size = p.channels * p.down.padded * p.across.padded * width
    cdef Py_ssize_t* taps = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t* weights = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef real* image = <real*> carve(&scratch, image_size * sizeof(real))
    cdef real* sums = <real*> scratch  # [channel][pixel][lane]
    cdef Py_ssize_t c = 0, channels, phase_h, phase_w
    cdef Axis h, w
    memset(image, 0, image_size * sizeof(real))
    while c < p.w.C:
        channels = min(p.channels, p.w.C - c)
        transpose_in(p, first, c, channels, image)
        for phase_h in range(min(p.down.outs, phases(p.down.stride, p.down.up))):
            h = axis_of(&p.down, phase_h)
            for phase_w in range(min(p.across.outs, phases(p.across.stride, p.across.up))):
                w = axis_of(&p.across, phase_w)
                sum_phase(p, &h, &w, c, channels, o_first, o_last, image, taps, weights, sums)
        c += channels
    transpose_out(p, first, o_first, o_last, sums)
    return 0


cdef inline Axis axis_of(const Side* side, Py_ssize_t phase) noexcept nogil:
    return phase_of(side.size, side.outs, side.kernel, side.stride, side.pad, side.up, phase, False)


cdef inline void transpose_in(
    const Small* p, Py_ssize_t first, Py_ssize_t from_c, Py_ssize_t channels, real* image,
) noexcept nogil:
    """image[c, row, column, lane] = x[first + lane, from_c + c, row, column]; the last image fills up."""
    cdef Py_ssize_t plane = p.down.size * p.across.size, count = channels * plane, width = p.VN * LANES
    cdef const real* x_end = p.x + p.N * p.w.C * plane
    cdef const real* source
    cdef vec corner[LANES]
    cdef Py_ssize_t places[LANES]
    cdef Py_ssize_t at = 0, c = 0, row = 0, col = 0, lane, i, held
    cdef int v
    while at < count:
        held = min(<Py_ssize_t> LANES, count - at)
        for i in range(held):
            places[i] = (
                (c * p.down.padded + p.down.before + row) * p.across.padded + p.across.before + col
            ) * width
            col += 1
            if col == p.across.size:
                row, col = row + 1, 0
                if row == p.down.size:
                    c, row = c + 1, 0
        for v in range(p.VN):
            for lane in range(LANES):
                source = p.x + (min(first + v * LANES + lane, p.N - 1) * p.w.C + from_c) * plane + at
                corner[lane] = load_some(source, x_end - source)
            transpose(corner)
            for i in range(held):
                store(image + places[i] + v * LANES, corner[i])
        at += LANES


cdef inline void sum_phase(
    const Small* p, const Axis* h, const Axis* w, Py_ssize_t c, Py_ssize_t channels,
    Py_ssize_t o_first, Py_ssize_t o_last, const real* image,
    Py_ssize_t* taps, Py_ssize_t* weights, real* sums,
) noexcept nogil:
    """What a chunk of channels adds to the outputs of one phase (see taps.pxd)."""
    cdef Py_ssize_t width = p.VN * LANES, pitch = p.across.padded * width
    cdef Py_ssize_t pixels = p.down.outs * p.across.outs
    cdef Py_ssize_t o = o_first, count = 0, i, u, v, row, col, at
    cdef const real* rows[MAX_ROWS]
    cdef real bias[MAX_ROWS]
    cdef int R, r
    for i in range(channels):
        for u in range(h.taps):
            for v in range(w.taps):
                taps[count] = (i * p.down.padded + u) * pitch + v * width
                weights[count] = (
                    (c + i) * p.w.per_channel
                    + (h.tap_first + u * h.tap_step) * p.w.per_row
                    + (w.tap_first + v * w.tap_step) * p.w.per_col
                )
                count += 1
    while o < o_last:
        R = rows_for(o_last - o, p.VN)
        for r in range(R):
            i = min(o + r, o_last - 1)
            rows[r] = p.w.start + i * p.w.per_filter
            bias[r] = p.bias[i] if p.bias != NULL else 0
        for row in range(h.outs):
            for col in range(w.outs):
                at = ((o - o_first) * pixels + (h.out_first + row * h.out_step) * p.across.outs
                      + w.out_first + col * w.out_step) * width
                if count:
                    tile_for(R, p.VN)(
                        count, rows, weights,
                        image + (p.down.before + h.origin + row * h.stride) * pitch
                        + (p.across.before + w.origin + col * w.stride) * width,
                        taps, sums + at, pixels * width, bias, c > 0,
                    )
                elif c == 0:  # a phase that no tap meets
                    for r in range(R):
                        for i in range(p.VN):
                            store(sums + at + r * pixels * width + i * LANES, splat(bias[r]))
        o += R


cdef inline void transpose_out(
    const Small* p, Py_ssize_t first, Py_ssize_t o_first, Py_ssize_t o_last, const real* sums,
) noexcept nogil:
    """out[first + lane, o_first + o, pixel] = sums[o, pixel, lane]"""
    cdef Py_ssize_t pixels = p.down.outs * p.across.outs, count = (o_last - o_first) * pixels
    cdef Py_ssize_t at = 0, lane, i, n
    cdef vec corner[LANES]
    cdef int v
    while at < count:
        for v in range(p.VN):
            for i in range(LANES):
                corner[i] = load(sums + (at + i) * p.VN * LANES + v * LANES)
            transpose(corner)
            for lane in range(LANES):
                n = first + v * LANES + lane
                if n >= p.N:
                    break
                store_some(p.out + (n * p.w.O + o_first) * pixels + at, corner[lane], count - at)
        at += LANES
