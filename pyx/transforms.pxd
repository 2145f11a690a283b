"""Winograd's algorithm: the transforms, and where tiles lie.

A convolution with stride 1 takes m*r multiplications for m outputs and r taps of an axis. By Toom and
Cook polynomials of such lengths are multiplied at m + r - 1 points, one multiplication each; with
both axes (Lavin and Gray 2015),

    Y = A' [(G g G') * (B' d B)] A          g weights, d inputs, Y a tile of outputs, * by element
    dg = G' [(A dY A') * (B' d B)] G        the gradient with respect to the weights

Three and five taps go by the same six points, so that 3 make tiles of m = 4 outputs, and 5 tiles of 2:
F(4x4, 3x3) takes 36 multiplications instead of 144, F(2x2, 5x5) 36 instead of 100. Two taps leave out
one point: F(4x4, 2x2) takes 25 instead of 64. An axis with one tap is left as it is: 1-D convolutions
of 3 taps take 6 instead of 12. With one axis alone there are digits left for two points more: F(4, 5)
takes 8 instead of 20. Any points will do in exact arithmetic; 0, 1, -1, 2, -1/2 and infinity lose about
a third of the digits that the usual 0, 1, -1, 2, -2 lose (see docs/performance.md for the error bound).

A stride s splits rows and columns of the input in s phases each: a kernel of k taps is one of ceil(k/s)
with stride 1 over s*s times as many channels, if taps that are missing are zero. The other way round,
upsampling makes s*s times as many channels of output, each a phase of the rows and columns. Kernels
that are too long for any of these are cut into pieces of 2 or 3 taps, each of which reads the input
further on, as if that were another channel. Where a first or last tap is missing, the point 0 or
infinity has no product: by a stride of 2, 3x3 takes 81 multiplications for 16 outputs instead of 144,
and 7x7, in pieces, 289 instead of 784.

Channels are summed between the transforms, so that each of the 36 (25, 6) elements is a matrix product
over channels, which `tile` computes. (The gradient with respect to the weights has no transforms for 2
taps, and none for phases and pieces: with a stride direct convolution was as fast or faster.)
"""

from buffers cimport Batch, batch_of
from simd cimport (
    LANES, add, copy_run, even, high, load, low, multiply_add, odd, prefetch_run, real, splat, store,
    store_some, subtract, vec,
)
from taps cimport ceil_div

cdef enum:
    # At most: inputs of a tile along an axis that is transformed, and its points; with both axes; and all.
    REACH = 8
    SQUARE_REACH = 6
    MOST_ELEMENTS = SQUARE_REACH * SQUARE_REACH
    MOST_SIDE = 4  # outputs
    MOST_TAPS = 5
    PANEL = 2 * LANES  # tiles that go through the transforms together: two vectors
    LINE = MOST_SIDE * PANEL + LANES
    PARTS = 3  # of the inputs of a tile, that is reach / side at the most
    # How far ahead of their use rows of images and of results are fetched. (AVX2, images of 2 to 6 MB, times
    # as fast: float32 1.00 to 1.05, float64 1.02 to 1.09; rows of 1000 pixels 1.1 to 1.2.)
    CHANNELS_AHEAD = 2
    PAD = 16  # numbers between the planes of elements: at a power of two they would share cache sets


cdef struct Side:
    # One axis: a kernel's taps with stride 1, the outputs of a tile, its inputs (and points). 1, 1, 1 if
    # left as it is.
    Py_ssize_t taps, outs, reach
    # The input is split into phases of a stride, or by the pieces of a kernel. Its number i of part f is
    # number spread*i + apart*f + origin of the image (outside: zero); output j of phase a is number
    # up*j + a of the result; and tap i of the two is tap step*i + first + apart*f - a of the kernel
    # (outside: zero).
    Py_ssize_t split, spread, apart, up, origin, kernel, step, first


# ---- transforms of one axis, of vectors `step` apart to vectors `to` apart -----------------------

# F(4, 5) at 0, 1, -1, 2, -2, 1/2, -1/2 and infinity: what belongs to a point and its negative differs in
# the sign of the odd powers.

cdef inline real long_scale(int point) noexcept nogil:
    """1 over the product of its distances from the other points."""
    return <real> (-1. if point == 0 else -2. / 9 if point < 3 else 1. / 90 if point < 5 else 32. / 45)


cdef inline void transform_long_input(
    const vec* x, Py_ssize_t step, vec* y, Py_ssize_t to,
) noexcept nogil:
    """y = B' x: 8 to 8."""
    cdef vec x1 = x[step], x2 = x[2 * step], x3 = x[3 * step], x4 = x[4 * step], x5 = x[5 * step]
    cdef vec x6 = x[6 * step], zero = splat(0), p, q
    y[0] = multiply_add(subtract(x6, x[0]), subtract(x2, x4), splat(5.25))
    p = multiply_add(add(x2, x6), x4, splat(-4.25))
    q = multiply_add(add(x1, x5), x3, splat(-4.25))
    y[to], y[2 * to] = add(p, q), subtract(p, q)
    p = multiply_add(multiply_add(x6, x4, splat(-1.25)), x2, splat(0.25))
    q = multiply_add(multiply_add(multiply_add(zero, x5, splat(2)), x3, splat(-2.5)), x1, splat(0.5))
    y[3 * to], y[4 * to] = add(p, q), subtract(p, q)
    p = multiply_add(multiply_add(x6, x4, splat(-5)), x2, splat(4))
    q = multiply_add(multiply_add(multiply_add(zero, x5, splat(0.5)), x3, splat(-2.5)), x1, splat(2))
    y[5 * to], y[6 * to] = add(p, q), subtract(p, q)
    y[7 * to] = multiply_add(subtract(x[7 * step], x1), subtract(x3, x5), splat(5.25))


cdef inline void values_at_points(
    vec c0, vec c1, vec c2, vec c3, vec c4, vec* y, Py_ssize_t to,
) noexcept nogil:
    """y[point] = c0 + c1*point + ... + c4*point**4, for all but infinity."""
    cdef vec zero = splat(0), p = add(add(c0, c2), c4), q = add(c1, c3)
    y[0] = c0
    y[to], y[2 * to] = add(p, q), subtract(p, q)
    p = multiply_add(multiply_add(c0, c2, splat(4)), c4, splat(16))
    q = multiply_add(multiply_add(zero, c1, splat(2)), c3, splat(8))
    y[3 * to], y[4 * to] = add(p, q), subtract(p, q)
    p = multiply_add(multiply_add(c0, c2, splat(0.25)), c4, splat(0.0625))
    q = multiply_add(multiply_add(zero, c1, splat(0.5)), c3, splat(0.125))
    y[5 * to], y[6 * to] = add(p, q), subtract(p, q)


cdef inline void sums_of_powers(
    const vec* m, Py_ssize_t step, vec* y, Py_ssize_t to, Py_ssize_t count,
) noexcept nogil:
    """y[k] = sum of m[point] * point**k, for k < count; with a count of 4, infinity adds to the last."""
    cdef vec s1 = add(m[step], m[2 * step]), d1 = subtract(m[step], m[2 * step])
    cdef vec s2 = add(m[3 * step], m[4 * step]), d2 = subtract(m[3 * step], m[4 * step])
    cdef vec s3 = add(m[5 * step], m[6 * step]), d3 = subtract(m[5 * step], m[6 * step])
    y[0] = add(add(m[0], s1), add(s2, s3))
    y[to] = multiply_add(multiply_add(d1, d2, splat(2)), d3, splat(0.5))
    y[2 * to] = multiply_add(multiply_add(s1, s2, splat(4)), s3, splat(0.25))
    y[3 * to] = multiply_add(multiply_add(d1, d2, splat(8)), d3, splat(0.125))
    if count == 4:
        y[3 * to] = add(y[3 * to], m[7 * step])
    else:
        y[4 * to] = multiply_add(multiply_add(s1, s2, splat(16)), s3, splat(0.0625))


cdef inline void transform_input(
    const vec* x, Py_ssize_t step, vec* y, Py_ssize_t to, const Side* side,
) noexcept nogil:
    """y = B' x: 6 to 6, or 5 to 5 for 2 taps, 8 to 8 for 5 on a line."""
    cdef vec x1 = x[step], x2 = x[2 * step], x3 = x[3 * step], q = subtract(x3, x1), s
    if side.reach == 8:
        transform_long_input(x, step, y, to)
        return
    if side.taps == 2:
        y[0] = multiply_add(q, subtract(x[0], x2), splat(2))
        y[to] = subtract(q, add(x1, x2))
        y[2 * to] = multiply_add(q, subtract(x1, x2), splat(3))
        y[3 * to] = q
        y[4 * to] = multiply_add(subtract(x[4 * step], x2), q, splat(-2))
        return
    s = subtract(x[4 * step], x2)
    y[0] = multiply_add(add(x[0], subtract(s, x2)), q, splat(-1.5))
    y[to] = multiply_add(add(s, q), add(x2, x3), splat(-1.5))
    y[2 * to] = multiply_add(subtract(s, q), subtract(x2, x3), splat(1.5))
    y[3 * to] = multiply_add(s, q, splat(0.5))
    y[4 * to] = multiply_add(s, q, splat(-2))
    y[5 * to] = multiply_add(subtract(subtract(x[5 * step], x3), q), s, splat(-1.5))


cdef inline void transform_output(
    const vec* m, Py_ssize_t step, vec* y, Py_ssize_t to, const Side* side,
) noexcept nogil:
    """y = A' m: 6 to 4 or 2, or 5 to 4 for 2 taps, 8 to 4 for 5 on a line."""
    cdef vec m3 = m[3 * step], m4 = m[4 * step] if side.taps > 2 else splat(0)
    cdef vec s = add(m[step], m[2 * step]), q = subtract(m[step], m[2 * step])
    if side.reach == 8:
        sums_of_powers(m, step, y, to, 4)
        return
    y[0] = add(add(m[0], s), add(m3, m4))
    y[to] = multiply_add(multiply_add(q, m3, splat(2)), m4, splat(-0.5))
    if side.taps == 5:
        y[to] = add(y[to], m[5 * step])
        return
    y[2 * to] = multiply_add(multiply_add(s, m3, splat(4)), m4, splat(0.25))
    y[3 * to] = add(
        multiply_add(multiply_add(q, m3, splat(8)), m4, splat(-0.125)), m[(4 if side.taps == 2 else 5) * step]
    )


cdef inline void transform_output_gradient(
    const vec* y, Py_ssize_t step, vec* m, Py_ssize_t to, const Side* side,
) noexcept nogil:
    """m = A y: 4 or 2 to 6, or 4 to 8."""
    cdef vec y0 = y[0], y1 = y[step]
    cdef vec y2 = y[2 * step] if side.outs == 4 else splat(0)
    cdef vec y3 = y[3 * step] if side.outs == 4 else splat(0)
    cdef vec s = add(y0, y2), q = add(y1, y3)
    if side.reach == 8:
        values_at_points(y0, y1, y2, y3, splat(0), m, to)
        m[7 * to] = y3
        return
    m[0] = y0
    m[to] = add(s, q)
    m[2 * to] = subtract(s, q)
    m[3 * to] = multiply_add(
        multiply_add(multiply_add(y0, y1, splat(2)), y2, splat(4)), y3, splat(8)
    )
    m[4 * to] = multiply_add(
        multiply_add(multiply_add(y0, y1, splat(-0.5)), y2, splat(0.25)), y3, splat(-0.125)
    )
    m[5 * to] = y[(side.outs - 1) * step]


cdef inline void transform_weights(
    const vec* g, Py_ssize_t step, vec* u, Py_ssize_t to, const Side* side,
) noexcept nogil:
    """u = G g: 3 or 5 to 6, or 2 to 5, or 5 to 8."""
    cdef vec zero = splat(0), g0 = g[0], g1 = g[step], g2, g3, g4, s, q
    cdef int i
    if side.taps == 2:
        s = multiply_add(zero, g0, splat(0.5))
        u[0] = s
        u[to] = subtract(multiply_add(zero, g1, splat(-0.5)), s)
        u[2 * to] = multiply_add(zero, subtract(g1, g0), splat(<real> (1. / 6)))
        u[3 * to] = multiply_add(zero, multiply_add(g0, g1, splat(2)), splat(<real> (1. / 6)))
        u[4 * to] = g1
        return
    g2 = g[2 * step]
    g3, g4 = g[3 * step] if side.taps == 5 else zero, g[4 * step] if side.taps == 5 else zero
    if side.reach == 8:
        values_at_points(g0, g1, g2, g3, g4, u, to)
        for i in range(7):
            u[i * to] = multiply_add(zero, u[i * to], splat(long_scale(i)))
        u[7 * to] = g4
        return
    s, q = add(add(g0, g2), g4), add(g1, g3)
    u[0] = g0
    u[to] = multiply_add(zero, add(s, q), splat(<real> (-1. / 3)))
    u[2 * to] = multiply_add(zero, subtract(s, q), splat(<real> (1. / 3)))
    s, q = multiply_add(g1, g3, splat(4)), multiply_add(g2, g4, splat(4))
    u[3 * to] = multiply_add(
        zero, multiply_add(multiply_add(g0, s, splat(2)), q, splat(4)), splat(<real> (1. / 15))
    )
    s, q = multiply_add(g1, g3, splat(0.25)), multiply_add(g2, g4, splat(0.25))
    u[4 * to] = multiply_add(
        zero, multiply_add(multiply_add(g0, s, splat(-0.5)), q, splat(0.25)), splat(<real> (-16. / 15))
    )
    u[5 * to] = g4 if side.taps == 5 else g2


cdef inline void transform_weights_gradient(
    const vec* u, Py_ssize_t step, vec* g, Py_ssize_t to, const Side* side,
) noexcept nogil:
    """g = G' u: 6 to 3 or 5, or 8 to 5."""
    cdef vec zero = splat(0)
    cdef vec a = multiply_add(zero, subtract(u[2 * step], u[step]), splat(<real> (1. / 3)))
    cdef vec b = multiply_add(zero, add(u[2 * step], u[step]), splat(<real> (-1. / 3)))
    cdef vec c = multiply_add(zero, u[3 * step], splat(<real> (1. / 15)))
    cdef vec d = multiply_add(zero, u[4 * step], splat(<real> (-16. / 15)))
    cdef vec scaled[7]
    cdef int i
    if side.reach == 8:
        for i in range(7):
            scaled[i] = multiply_add(zero, u[i * step], splat(long_scale(i)))
        sums_of_powers(scaled, 1, g, to, 5)
        g[4 * to] = add(g[4 * to], u[7 * step])
        return
    g[0] = add(add(u[0], a), add(c, d))
    g[to] = multiply_add(multiply_add(b, c, splat(2)), d, splat(-0.5))
    g[2 * to] = multiply_add(multiply_add(a, c, splat(4)), d, splat(0.25))
    if side.taps == 5:
        g[3 * to] = multiply_add(multiply_add(b, c, splat(8)), d, splat(-0.125))
        g[4 * to] = multiply_add(multiply_add(a, c, splat(16)), d, splat(0.0625))
    g[(side.taps - 1) * to] = add(g[(side.taps - 1) * to], u[5 * step])


# ---- where tiles lie -----------------------------------------------------------------------------

cdef struct Tiling:
    Side h, w
    Py_ssize_t elements
    Py_ssize_t splits, ups  # parts of the input and phases of the output, of both axes
    Py_ssize_t rows, cols, count  # tiles of an image down and across, and of all images


cdef struct Images:
    const real* x
    const real* end  # beyond the last number
    Py_ssize_t N, C, H, W


cdef struct Run:
    # Tiles of a panel that are neighbours in a row of an image.
    Py_ssize_t image, row, col, tiles, lane


cdef inline Images images_of(x) except *:
    cdef Batch batch = batch_of(x)
    cdef Images images
    images.x, images.N, images.C, images.H, images.W = batch.start, batch.N, batch.C, batch.H, batch.W
    images.end = batch.start + batch.N * batch.C * batch.H * batch.W
    return images


cdef inline Py_ssize_t floor_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a // b if a >= 0 else -((b - 1 - a) // b)


cdef inline Side side_of(Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t pad, Py_ssize_t up) noexcept nogil:
    """Either stride or up is 1. (algorithm.py finds the same number of taps.)"""
    cdef Side side
    side.kernel, side.up, side.step = kernel, up, max(stride, up)
    side.split, side.spread, side.apart = stride, stride, 1
    if up == 1:
        side.origin, side.first = -pad, 0
        side.taps = ceil_div(kernel, stride)
        if stride == 1 and (kernel == 4 or kernel > MOST_TAPS):
            side.taps = side.apart = 2 if kernel == 4 else 3
            side.split = ceil_div(kernel, side.taps)
    else:
        side.origin = -floor_div(pad, up)
        side.first = up * side.origin + pad
        side.taps = floor_div(kernel - 1 + up - 1 - pad, up) - side.origin + 1
    side.outs = 1 if side.taps == 1 else 2 if side.taps == 5 else 4
    side.reach = side.outs + side.taps - 1
    return side


cdef inline bint meets(const Side* side, Py_ssize_t point, Py_ssize_t part, Py_ssize_t phase) noexcept nogil:
    """Whether the taps of a part and a phase can be other than zero at that point: at 0 (the first) only the
    first tap counts, and at infinity (the last) the last.
    """
    cdef Py_ssize_t first = side.first + side.apart * part - phase
    cdef Py_ssize_t last = first + (side.taps - 1) * side.step
    if point == 0:
        last = first
    elif point == side.reach - 1:
        first = last
    return last >= 0 and first < side.kernel


cdef inline Tiling tiling_of(
    Py_ssize_t images, Py_ssize_t P, Py_ssize_t Q, Py_ssize_t rows, Py_ssize_t cols,
    tuple stride, tuple pad, tuple up,
) except *:
    """Of so many images with P x Q outputs, for a kernel of so many rows and columns."""
    cdef Tiling tiling
    tiling.h = side_of(rows, stride[0], pad[0], up[0])
    tiling.w = side_of(cols, stride[1], pad[1], up[1])
    if tiling.h.taps == 1 and tiling.w.taps == 5:
        tiling.w.outs, tiling.w.reach = 4, 8
    tiling.elements = tiling.h.reach * tiling.w.reach
    tiling.splits, tiling.ups = tiling.h.split * tiling.w.split, tiling.h.up * tiling.w.up
    # As many as the first phase of the outputs needs, which has the most.
    tiling.rows = ceil_div(ceil_div(P, tiling.h.up), tiling.h.outs)
    tiling.cols = ceil_div(ceil_div(Q, tiling.w.up), tiling.w.outs)
    tiling.count = images * tiling.rows * tiling.cols
    return tiling


cdef inline int runs_of(const Tiling* tiling, Py_ssize_t first, Run* runs) noexcept nogil:
    """The runs of the panel that starts with tile `first`; it may have PANEL of them."""
    cdef Py_ssize_t tile = first, last = min(tiling.count, first + PANEL)
    cdef int count = 0
    while tile < last:
        runs[count].image = tile // (tiling.rows * tiling.cols)
        runs[count].row = tile // tiling.cols % tiling.rows
        runs[count].col = tile % tiling.cols
        runs[count].tiles = min(last - tile, tiling.cols - runs[count].col)
        runs[count].lane = tile - first
        tile += runs[count].tiles
        count += 1
    return count


# The tiles of a panel lie side by side in lines: line[side*tile + column]. A line of a run of tiles is
# a piece of a row of the image. The inputs of neighbouring tiles overlap, so there are reach / side
# lines of a row, each `side` columns further to the right.

cdef struct Piece:
    # Numbers of a line, and where in a channel the first of them is, the others `spread` apart.
    Py_ssize_t source, target, count


cdef struct Lines:
    # Of a panel and a part of the input, those of the first columns of its tiles, then those of the next.
    # What no piece fills is zero. (Pieces found once for a panel instead of for each channel: float32 1.10,
    # float64 1.02 times as fast in all.)
    int parts, pieces, first_part  # pieces of the first part
    Piece piece[PANEL * PARTS * SQUARE_REACH]
    real number[PARTS * SQUARE_REACH * LINE]


cdef inline void deal(const real* line, Py_ssize_t side, Py_ssize_t count, real* to) noexcept nogil:
    """to[j, lane] = line[side*lane + j] for j < count, 1, 2 or side."""
    cdef vec a = load(line), b = load(line + LANES), c, d, evens, more_evens, odds, more_odds
    if side == 2:
        store(to, even(a, b))
        store(to + PANEL, odd(a, b))
        return
    c, d = load(line + 2 * LANES), load(line + 3 * LANES)
    evens, more_evens, odds, more_odds = even(a, b), even(c, d), odd(a, b), odd(c, d)
    store(to, even(evens, more_evens))
    if count == 1:
        return
    store(to + PANEL, even(odds, more_odds))
    if count == 4:
        store(to + 2 * PANEL, odd(evens, more_evens))
        store(to + 3 * PANEL, odd(odds, more_odds))


cdef inline void collect(const vec* z, Py_ssize_t side, real* line) noexcept nogil:
    """line[side*lane + j] = z[j][lane] for j < side."""
    cdef vec evens, more_evens, odds, more_odds
    if side == 2:
        store(line, low(z[0], z[1]))
        store(line + LANES, high(z[0], z[1]))
        return
    evens, more_evens = low(z[0], z[2]), high(z[0], z[2])
    odds, more_odds = low(z[1], z[3]), high(z[1], z[3])
    store(line, low(evens, odds))
    store(line + LANES, high(evens, odds))
    store(line + 2 * LANES, low(more_evens, more_odds))
    store(line + 3 * LANES, high(more_evens, more_odds))


cdef inline void copy_every(
    const real* row, Py_ssize_t step, Py_ssize_t count, const real* end, real* to,
) noexcept nogil:
    """to[i] = row[i*step], for i < count."""
    cdef Py_ssize_t i = 0
    if step == 1:
        copy_run(to, row, count)
    elif step == 2 and row + 2 * max(count, <Py_ssize_t> LANES) <= end:
        while i < count:
            i = max(<Py_ssize_t> 0, min(i, count - LANES))
            store_some(to + i, even(load(row + 2 * i), load(row + 2 * i + LANES)), count)
            i += LANES
    else:
        for i in range(count):
            to[i] = row[i * step]


cdef inline void lay_out(
    const Images* p, const Tiling* tiling, Py_ssize_t split, int run_count, const Run* runs, Lines* lines,
) noexcept nogil:
    """Where the lines of a part of the input come from. What lies beyond the image is zero from here on."""
    cdef Py_ssize_t spread = tiling.w.spread, side = tiling.w.outs, tall = tiling.h.reach
    cdef Py_ssize_t down = tiling.h.origin + split // tiling.w.split * tiling.h.apart
    cdef Py_ssize_t across = tiling.w.origin + split % tiling.w.split * tiling.w.apart
    cdef Py_ssize_t i, at, first, begin, end
    cdef Piece* piece = lines.piece
    cdef int part, r
    lines.parts = <int> ceil_div(tiling.w.reach, side)
    for i in range(lines.parts * tall * LINE):
        lines.number[i] = 0
    for part in range(lines.parts):
        for r in range(run_count):
            first = (runs[r].col + part) * side * spread + across
            begin = max(<Py_ssize_t> 0, ceil_div(-first, spread))
            end = min(side * runs[r].tiles, ceil_div(p.W - first, spread))
            for i in range(tall):
                at = (runs[r].row * tiling.h.outs + i) * tiling.h.spread + down
                if 0 <= at < p.H and begin < end:
                    piece.source = (runs[r].image * p.C * p.H + at) * p.W + first + begin * spread
                    piece.target = (part * tall + i) * LINE + side * runs[r].lane + begin
                    piece.count = end - begin
                    piece += 1
        if part == 0:
            lines.first_part = <int> (piece - lines.piece)
    lines.pieces = <int> (piece - lines.piece)


cdef inline void read_tiles(
    const Images* p, const Tiling* tiling, int run_count, const Run* runs,
    Py_ssize_t split, Py_ssize_t first, Py_ssize_t last, real* to, Py_ssize_t pitch, Py_ssize_t plane,
) noexcept nogil:
    """A panel's tiles of a part of channels first to last, transformed: to[channel * pitch + element * plane
    + tile]. They begin on whole vectors.
    """
    cdef Lines lines
    cdef Py_ssize_t channel
    lay_out(p, tiling, split, run_count, runs, &lines)
    for channel in range(first, last):
        read_channel(p, tiling, channel, &lines, to, plane)
        to += pitch


cdef inline void read_channel(
    const Images* p, const Tiling* tiling, Py_ssize_t c, Lines* lines, real* to, Py_ssize_t plane,
) noexcept nogil:
    # All lines are copied before one is read: loads that overlap unfinished stores would wait.
    cdef vec d[MOST_ELEMENTS * 2]
    cdef vec half[MOST_ELEMENTS]
    cdef real* tiles = <real*> d  # [row, column, tile]
    cdef const real* x = p.x + c * p.H * p.W
    cdef const Piece* piece
    cdef Py_ssize_t side = tiling.w.outs, tall = tiling.h.reach, wide = tiling.w.reach, i, j, v
    cdef int n, part
    for n in range(lines.pieces):
        piece = &lines.piece[n]
        if n < lines.first_part:
            prefetch_run(x + piece.source + CHANNELS_AHEAD * p.H * p.W, piece.count * tiling.w.spread)
        copy_every(x + piece.source, tiling.w.spread, piece.count, p.end, lines.number + piece.target)
    for part in range(lines.parts):
        for i in range(tall):
            for v in range(2):
                deal(lines.number + (part * tall + i) * LINE + v * side * LANES, side,
                     min(side, wide - part * side), tiles + (i * wide + part * side) * PANEL + v * LANES)
    for v in range(2):
        if tall == 1:
            transform_input(d + v, 2, <vec*> to + v, plane // LANES, &tiling.w)
            continue
        for j in range(wide):
            transform_input(d + 2 * j + v, 2 * wide, half + j, wide, &tiling.h)
        for i in range(tall):
            transform_input(half + wide * i, 1, <vec*> (to + wide * i * plane) + v, plane // LANES,
                            &tiling.w)
