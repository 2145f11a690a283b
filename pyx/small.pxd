"""Convolution of images so small that a row of outputs does not fill a vector: the lanes are images.

A block of images is transposed to image[channel][row][column][lane], whole channels at a time. Every
output pixel is then a plain tile: its taps lie a fixed distance from it, whatever the stride, and no
lane is wasted at the end of a row. Taps beyond the border are left out, which their zeros would be
multiplied by otherwise: that takes finite weights. The results are transposed back.
"""

from buffers cimport Filters
from parallel cimport MACS_BETWEEN_SIGNALS, carve, round_to_line
from simd cimport LANES, REGISTERS, load, load_some, real, store, store_some, transpose, vec
from taps cimport Axis, Side, ceil_div, phase_of, phases
from tile cimport MAX_ROWS, SPARE_ROWS, even_rows, follow, rows_for, rows_in_tiles, tile_for

cdef enum:
    # Bytes of the transposed images of a chunk, and of the sums of an item: both stay in the
    # second-level cache.
    IMAGES_BYTES = 3 << 16
    SUMS_BYTES = 1 << 18
    # Parts that the sums may cut the output channels in: each transposes the images again. (256 channels
    # of 7x7 make 7, and took 1.25 times as long as panels; 64 make 2, and took 0.85 of the time.)
    MOST_PARTS = 3
    FEWEST_ROWS = 4  # of an item, for another thread to have something to do
    MOST_TAPS = 576
    # Taps of a chunk that are too few, where they are not all; by 2, which panels split whole vectors for.
    # (1x1 and 2x2 by 2 to 4, 3 to 24 of them: 1.0 to 3 times as long as panels; 27 and 28 by 2 1.3 to 1.4
    # times, by 3 0.8 to 0.9 times.)
    FEW_TAPS = 24
    FEW_TAPS_BY_TWO = 32
    # Bytes of the filters, which pass by for every pixel, with one vector of images and with more. (AVX2,
    # 8 images, both dtypes: 37 KB in float32, one vector, as long as panels, 50 KB 1.1 times, 300 KB 1.4
    # times, 2 MB 1.6 times; two vectors, 150 KB 0.8 of it, 600 KB to 2 MB 1.0 to 1.15 times.)
    FILTERS_BYTES = 40 << 10
    FILTERS_BYTES_WIDE = 1 << 19
    # Multiply-adds, in percent of those that direct convolution does, padding included.
    MOST_WORK = 110


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


cdef struct Inside:
    # The taps of an axis that do not lie beyond the border, for one output.
    Py_ssize_t first, count


cdef inline bint are_finite(const Filters* w) noexcept nogil:
    cdef Py_ssize_t o, c, u, v
    cdef const real* row
    cdef bint bad = False
    for o in range(w.O):
        for c in range(w.C):
            for u in range(w.KH):
                row = w.start + o * w.per_filter + c * w.per_channel + u * w.per_row
                for v in range(w.KW):
                    bad |= row[v * w.per_col] - row[v * w.per_col] != 0
    return not bad


cdef inline Inside inside_of(const Axis* axis, Py_ssize_t out) noexcept nogil:
    cdef Inside inside
    cdef Py_ssize_t start = axis.origin + out * axis.stride
    inside.first = max(<Py_ssize_t> 0, -start)
    inside.count = max(<Py_ssize_t> 0, min(axis.taps, axis.size - start) - inside.first)
    return inside


cdef inline double part_inside(const Side* side) noexcept nogil:
    """Of the pairs of outputs and taps on an axis, no inserted zeros, the part not beyond the border."""
    cdef double inside = 0, pairs = 0
    cdef Py_ssize_t phase, out
    cdef Axis axis
    for phase in range(min(side.outs, phases(side.stride, side.up))):
        axis = phase_of(side, phase, False)
        pairs += <double> axis.outs * axis.taps
        for out in range(axis.outs):
            inside += inside_of(&axis, out).count
    return inside / max(pairs, 1.0)


cdef inline double work(const Small* p) noexcept nogil:
    """Multiply-adds, of those that direct convolution does."""
    cdef Py_ssize_t lanes = ceil_div(p.N, p.VN * LANES) * p.VN * LANES
    return (
        <double> lanes / p.N * rows_in_tiles(p.w.O, p.VN) / p.w.O
        * part_inside(&p.down) * part_inside(&p.across)
    )


cdef inline bint cut_small(Small* p, int threads) noexcept nogil:
    """Choose the sizes of blocks, chunks and parts; False if it does not pay, or they would be too large."""
    cdef Py_ssize_t width, plane, most
    p.VN = 1 if p.N <= LANES else 2
    # Wide tiles, where they do not cost lanes nor leave threads without a block. (AVX2, few rows, 64 images:
    # 8 channels 1.0 to 1.1, 2 and 3 channels 1.25 to 1.5 times as fast.)
    if (
        (REGISTERS == 32 or even_rows(p.w.O, 6) <= 4)
        and p.N >= 8 * LANES and (p.N - 1) % (4 * LANES) >= 2 * LANES
    ):
        p.VN = 4
    if (
        100 * work(p) > MOST_WORK
        or p.w.O * p.w.C * p.w.KH * p.w.KW * <Py_ssize_t> sizeof(real)
        > (FILTERS_BYTES if p.VN == 1 else FILTERS_BYTES_WIDE)
    ):
        return False
    width = p.VN * LANES
    plane = p.down.size * p.across.size * width * sizeof(real)
    p.channels = min(IMAGES_BYTES // plane, MOST_TAPS // (p.down.kernel * p.across.kernel))
    most = SUMS_BYTES // (p.down.outs * p.across.outs * width * <Py_ssize_t> sizeof(real))
    if p.channels == 0 or most < SPARE_ROWS or ceil_div(p.w.O, most) > MOST_PARTS:
        return False
    if p.channels < p.w.C and p.channels * p.down.kernel * p.across.kernel <= (
        FEW_TAPS_BY_TWO if p.across.stride == 2 else FEW_TAPS
    ):
        return False
    most = min(most, p.w.O)
    # Without a look at signals between. (Not of the rows below: threads must not change the choice.)
    if (
        <double> width * most * p.down.outs * p.across.outs * p.w.C * p.down.kernel * p.across.kernel
        >= MACS_BETWEEN_SIGNALS
    ):
        return False
    p.channels = ceil_div(p.w.C, ceil_div(p.w.C, p.channels))  # as even as can be
    p.row_parts = max(
        ceil_div(p.w.O, most), min(ceil_div(threads, ceil_div(p.N, width)), ceil_div(p.w.O, FEWEST_ROWS))
    )
    p.rows = ceil_div(p.w.O, p.row_parts)
    p.row_parts = ceil_div(p.w.O, p.rows)
    return True


cdef inline Py_ssize_t small_scratch(const Small* p) noexcept nogil:
    """Bytes that `small_item` carves from its scratch."""
    return (
        2 * round_to_line(p.channels * p.down.kernel * p.across.kernel * sizeof(Py_ssize_t))
        + round_to_line(image_size(p) * sizeof(real))
        + round_to_line(sums_size(p) * sizeof(real))
    )


cdef inline Py_ssize_t image_size(const Small* p) noexcept nogil:
    return p.channels * p.down.size * p.across.size * p.VN * LANES


cdef inline Py_ssize_t sums_size(const Small* p) noexcept nogil:
    return ((p.rows + SPARE_ROWS) * p.down.outs * p.across.outs + LANES) * p.VN * LANES


cdef inline int small_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Small* p = <const Small*> problem
    cdef Py_ssize_t first = item // p.row_parts * p.VN * LANES
    cdef Py_ssize_t o_first = item % p.row_parts * p.rows, o_last = min(p.w.O, o_first + p.rows)
    cdef Py_ssize_t most_taps = p.channels * p.down.kernel * p.across.kernel
    cdef Py_ssize_t* taps = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t* weights = <Py_ssize_t*> carve(&scratch, most_taps * sizeof(Py_ssize_t))
    cdef real* image = <real*> carve(&scratch, image_size(p) * sizeof(real))
    # [channel][pixel][lane]
    cdef real* sums = <real*> carve(&scratch, sums_size(p) * sizeof(real))
    cdef Py_ssize_t c = 0, channels, phase_h, phase_w
    cdef Axis h, w
    while c < p.w.C:
        channels = min(p.channels, p.w.C - c)
        transpose_in(p, first, c, channels, image)
        for phase_h in range(min(p.down.outs, phases(p.down.stride, p.down.up))):
            h = phase_of(&p.down, phase_h, False)
            for phase_w in range(min(p.across.outs, phases(p.across.stride, p.across.up))):
                w = phase_of(&p.across, phase_w, False)
                sum_phase(p, &h, &w, c, channels, o_first, o_last, image, taps, weights, sums)
        c += channels
    transpose_out(p, first, o_first, o_last, sums)
    return 0


cdef inline void transpose_in(
    const Small* p, Py_ssize_t first, Py_ssize_t from_c, Py_ssize_t channels, real* image,
) noexcept nogil:
    """image[c, pixel, lane] = x[first + lane, from_c + c, pixel]; the last image fills up."""
    cdef Py_ssize_t plane = p.down.size * p.across.size, count = channels * plane, width = p.VN * LANES
    cdef const real* x_end = p.x + p.N * p.w.C * plane
    cdef const real* source
    cdef vec corner[LANES]
    cdef Py_ssize_t at = 0, lane, i
    cdef int v
    while at < count:
        for v in range(p.VN):
            for lane in range(LANES):
                source = p.x + (min(first + v * LANES + lane, p.N - 1) * p.w.C + from_c) * plane + at
                corner[lane] = load_some(source, x_end - source)
            transpose(corner)
            for i in range(min(<Py_ssize_t> LANES, count - at)):
                store(image + (at + i) * width + v * LANES, corner[i])
        at += LANES


cdef inline void sum_phase(
    const Small* p, const Axis* h, const Axis* w, Py_ssize_t c, Py_ssize_t channels,
    Py_ssize_t o_first, Py_ssize_t o_last, const real* image,
    Py_ssize_t* taps, Py_ssize_t* weights, real* sums,
) noexcept nogil:
    """What a chunk of channels adds to the outputs of one phase (see taps.pxd)."""
    cdef Py_ssize_t width = p.VN * LANES, pixels = p.down.outs * p.across.outs
    cdef Py_ssize_t count = 0, row, col, corner, out, o, i
    cdef Inside us, vs, tabulated
    cdef const real* rows[MAX_ROWS]
    cdef real bias[MAX_ROWS]
    cdef int R, r
    cdef const Py_ssize_t* table = weights
    for row in range(h.outs):
        us = inside_of(h, row)
        tabulated.first, tabulated.count = 0, -1
        for col in range(w.outs):
            vs = inside_of(w, col)
            if vs.first != tabulated.first or vs.count != tabulated.count:
                count = tabulate_inside(p, h, w, us, vs, c, channels, taps, weights)
                table = NULL if follow(weights, count, 1) else weights
                tabulated = vs
            corner = (h.origin + row * h.stride + us.first) * w.size + w.origin + col * w.stride + vs.first
            out = (h.out_first + row * h.out_step) * p.across.outs + w.out_first + col * w.out_step
            o = o_first
            while o < o_last:
                R = rows_for(o_last - o, p.VN)
                for r in range(R):
                    i = min(o + r, o_last - 1)
                    rows[r] = p.w.start + i * p.w.per_filter + (0 if table != NULL else weights[0])
                    bias[r] = p.bias[i] if p.bias != NULL else 0
                i = ((o - o_first) * pixels + out) * width
                tile_for(R, p.VN)(
                    count, rows, table, image + corner * width, taps, sums + i, pixels * width, bias, c > 0
                )
                o += R


cdef inline Py_ssize_t tabulate_inside(
    const Small* p, const Axis* h, const Axis* w, Inside us, Inside vs, Py_ssize_t c, Py_ssize_t channels,
    Py_ssize_t* taps, Py_ssize_t* weights,
) noexcept nogil:
    """Offsets of taps from the first that is inside: in the transposed images, and in one filter of W."""
    cdef Py_ssize_t count = 0, i, u, v
    for i in range(channels):
        for u in range(us.count):
            for v in range(vs.count):
                taps[count] = ((i * h.size + u) * w.size + v) * p.VN * LANES
                weights[count] = (
                    (c + i) * p.w.per_channel
                    + (h.tap_first + (us.first + u) * h.tap_step) * p.w.per_row
                    + (w.tap_first + (vs.first + v) * w.tap_step) * p.w.per_col
                )
                count += 1
    return count


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
