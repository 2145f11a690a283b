"""Winograd's algorithm: the transforms, and where tiles lie.

A convolution with stride 1 takes m*r multiplications for m outputs and r taps of an axis. By Toom and
Cook polynomials of such lengths are multiplied at m + r - 1 points, one multiplication each; with
both axes (Lavin and Gray 2015),

    Y = A' [(G g G') * (B' d B)] A          g weights, d inputs, Y a tile of outputs, * by element
    dg = G' [(A dY A') * (B' d B)] G        the gradient with respect to the weights

All kernels here go by the same six points, so that r = 3 taps make tiles of m = 4 outputs, and 5 taps
tiles of 2: F(4x4, 3x3) takes 36 multiplications instead of 144, F(2x2, 5x5) 36 instead of 100. An axis
with one tap is left as it is: 1-D convolutions take 6 instead of 12 and 10. Any points will do in
exact arithmetic; 0, 1, -1, 2, -1/2 and infinity lose about a third of the digits that the usual
0, 1, -1, 2, -2 lose (see docs/performance.md for the error bound).

Channels are summed between the transforms, so that each of the 36 (or 6) elements is a matrix product
over channels, which `tile` computes.
"""

from buffers cimport Batch, batch_of
from simd cimport (
    LANES, add, copy_run, even, high, load, low, multiply_add, odd, real, splat, store, subtract, vec,
)

cdef enum:
    REACH = 6  # inputs of a tile along an axis that is transformed, and its points
    MOST_SIDE = 4  # outputs
    MOST_TAPS = 5
    MOST_ELEMENTS = REACH * REACH
    PANEL = 2 * LANES  # tiles that go through the transforms together: two vectors
    LINE = MOST_SIDE * PANEL + LANES
    PARTS = 3  # of the inputs of a tile, that is REACH // side at the most
    PAD = 16  # numbers between the planes of elements: at a power of two they would share cache sets


# ---- transforms of one axis, of vectors `step` apart to vectors `to` apart -----------------------

cdef inline void transform_input(const vec* x, Py_ssize_t step, vec* y, Py_ssize_t to) noexcept nogil:
    """y = B' x: 6 to 6."""
    cdef vec x1 = x[step], x2 = x[2 * step], x3 = x[3 * step]
    cdef vec s = subtract(x[4 * step], x2), q = subtract(x3, x1)
    y[0] = multiply_add(add(x[0], subtract(s, x2)), q, splat(-1.5))
    y[to] = multiply_add(add(s, q), add(x2, x3), splat(-1.5))
    y[2 * to] = multiply_add(subtract(s, q), subtract(x2, x3), splat(1.5))
    y[3 * to] = multiply_add(s, q, splat(0.5))
    y[4 * to] = multiply_add(s, q, splat(-2))
    y[5 * to] = multiply_add(subtract(subtract(x[5 * step], x3), q), s, splat(-1.5))


cdef inline void transform_output(
    const vec* m, Py_ssize_t step, vec* y, Py_ssize_t to, Py_ssize_t side,
) noexcept nogil:
    """y = A' m: 6 to side, 4 or 2."""
    cdef vec m3 = m[3 * step], m4 = m[4 * step]
    cdef vec s = add(m[step], m[2 * step]), q = subtract(m[step], m[2 * step])
    y[0] = add(add(m[0], s), add(m3, m4))
    y[to] = multiply_add(multiply_add(q, m3, splat(2)), m4, splat(-0.5))
    if side == 4:
        y[2 * to] = multiply_add(multiply_add(s, m3, splat(4)), m4, splat(0.25))
        y[3 * to] = multiply_add(multiply_add(q, m3, splat(8)), m4, splat(-0.125))
    y[(side - 1) * to] = add(y[(side - 1) * to], m[5 * step])


cdef inline void transform_output_gradient(
    const vec* y, Py_ssize_t step, vec* m, Py_ssize_t to, Py_ssize_t side,
) noexcept nogil:
    """m = A y: side, 4 or 2, to 6."""
    cdef vec y0 = y[0], y1 = y[step]
    cdef vec y2 = y[2 * step] if side == 4 else splat(0), y3 = y[3 * step] if side == 4 else splat(0)
    cdef vec s = add(y0, y2), q = add(y1, y3)
    m[0] = y0
    m[to] = add(s, q)
    m[2 * to] = subtract(s, q)
    m[3 * to] = multiply_add(
        multiply_add(multiply_add(y0, y1, splat(2)), y2, splat(4)), y3, splat(8)
    )
    m[4 * to] = multiply_add(
        multiply_add(multiply_add(y0, y1, splat(-0.5)), y2, splat(0.25)), y3, splat(-0.125)
    )
    m[5 * to] = y[(side - 1) * step]


cdef inline void transform_weights(
    const vec* g, Py_ssize_t step, vec* u, Py_ssize_t to, Py_ssize_t taps,
) noexcept nogil:
    """u = G g: taps, 3 or 5, to 6."""
    cdef vec zero = splat(0), g0 = g[0], g1 = g[step], g2 = g[2 * step]
    cdef vec g3 = g[3 * step] if taps == 5 else zero, g4 = g[4 * step] if taps == 5 else zero
    cdef vec s = add(add(g0, g2), g4), q = add(g1, g3)
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
    u[5 * to] = g[(taps - 1) * step]


cdef inline void transform_weights_gradient(
    const vec* u, Py_ssize_t step, vec* g, Py_ssize_t to, Py_ssize_t taps,
) noexcept nogil:
    """g = G' u: 6 to taps, 3 or 5."""
    cdef vec zero = splat(0)
    cdef vec a = multiply_add(zero, subtract(u[2 * step], u[step]), splat(<real> (1. / 3)))
    cdef vec b = multiply_add(zero, add(u[2 * step], u[step]), splat(<real> (-1. / 3)))
    cdef vec c = multiply_add(zero, u[3 * step], splat(<real> (1. / 15)))
    cdef vec d = multiply_add(zero, u[4 * step], splat(<real> (-16. / 15)))
    g[0] = add(add(u[0], a), add(c, d))
    g[to] = multiply_add(multiply_add(b, c, splat(2)), d, splat(-0.5))
    g[2 * to] = multiply_add(multiply_add(a, c, splat(4)), d, splat(0.25))
    if taps == 5:
        g[3 * to] = multiply_add(multiply_add(b, c, splat(8)), d, splat(-0.125))
        g[4 * to] = multiply_add(multiply_add(a, c, splat(16)), d, splat(0.0625))
    g[(taps - 1) * to] = add(g[(taps - 1) * to], u[5 * step])


# ---- where tiles lie -----------------------------------------------------------------------------

cdef struct Side:
    # One axis: a kernel's taps, the outputs of a tile, its inputs (and points). 1, 1, 1 if left as it is.
    Py_ssize_t taps, outs, reach


cdef struct Tiling:
    Side h, w
    Py_ssize_t elements
    Py_ssize_t rows, cols, count  # tiles of an image down and across, and of all images


cdef struct Images:
    const real* x
    Py_ssize_t N, C, H, W, pad_h, pad_w


cdef struct Run:
    # Tiles of a panel that are neighbours in a row of an image.
    Py_ssize_t image, row, col, tiles, lane


cdef inline Images images_of(x, tuple pad) except *:
    cdef Batch batch = batch_of(x)
    cdef Images images
    images.x, images.N, images.C, images.H, images.W = batch.start, batch.N, batch.C, batch.H, batch.W
    images.pad_h, images.pad_w = pad
    return images


cdef inline Side side_of(Py_ssize_t taps) noexcept nogil:
    cdef Side side
    side.taps = taps
    side.outs = REACH + 1 - taps if taps > 1 else 1
    side.reach = REACH if taps > 1 else 1
    return side


cdef inline Tiling tiling_of(
    Py_ssize_t images, Py_ssize_t P, Py_ssize_t Q, Py_ssize_t rows, Py_ssize_t cols,
) noexcept nogil:
    """Of so many images with P x Q outputs, for a kernel of so many rows (1, 3 or 5) and columns (3 or 5)."""
    cdef Tiling tiling
    tiling.h, tiling.w = side_of(rows), side_of(cols)
    tiling.elements = tiling.h.reach * tiling.w.reach
    tiling.rows = (P + tiling.h.outs - 1) // tiling.h.outs
    tiling.cols = (Q + tiling.w.outs - 1) // tiling.w.outs
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
# a piece of a row of the image. The inputs of neighbouring tiles overlap, so there are REACH / side
# lines of a row, each `side` columns further to the right.

cdef inline void deal(const real* line, Py_ssize_t side, Py_ssize_t count, real* to) noexcept nogil:
    """to[j, lane] = line[side*lane + j] for j < count, 2 or side."""
    cdef vec a = load(line), b = load(line + LANES), c, d, evens, more_evens, odds, more_odds
    if side == 2:
        store(to, even(a, b))
        store(to + PANEL, odd(a, b))
        return
    c, d = load(line + 2 * LANES), load(line + 3 * LANES)
    evens, more_evens, odds, more_odds = even(a, b), even(c, d), odd(a, b), odd(c, d)
    store(to, even(evens, more_evens))
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


cdef inline void read_tiles(
    const Images* p, const Tiling* tiling, Py_ssize_t c, int run_count, const Run* runs,
    real* to, Py_ssize_t plane,
) noexcept nogil:
    """The panel's tiles of one input channel, transformed, to[element * plane + tile] (on whole vectors)."""
    # All lines are copied before one is read: loads that overlap unfinished stores would wait.
    cdef real lines[PARTS * REACH * LINE]
    cdef vec d[MOST_ELEMENTS * 2]
    cdef vec half[MOST_ELEMENTS]
    cdef real* tiles = <real*> d  # [row, column, tile]
    cdef const real* row
    cdef real* line
    cdef Py_ssize_t side = tiling.w.outs, parts = (REACH + side - 1) // side, reach = tiling.h.reach
    cdef Py_ssize_t i, j, v, at, first, count, lane, part, begin, end
    cdef int r
    lane = runs[run_count - 1].lane + runs[run_count - 1].tiles
    if lane < PANEL:  # lanes without a tile
        for i in range(parts * reach):
            for at in range(side * lane, side * PANEL):
                lines[i * LINE + at] = 0
    for r in range(run_count):
        count = side * runs[r].tiles
        for part in range(parts):
            first = runs[r].col * side - p.pad_w + part * side
            begin = min(count, max(<Py_ssize_t> 0, -first))
            end = max(begin, min(count, p.W - first))
            for i in range(reach):
                line = lines + (part * reach + i) * LINE + side * runs[r].lane
                at = runs[r].row * tiling.h.outs - p.pad_h + i
                if not 0 <= at < p.H:
                    for j in range(count):
                        line[j] = 0
                    continue
                row = p.x + ((runs[r].image * p.C + c) * p.H + at) * p.W + first
                for j in range(begin):
                    line[j] = 0
                copy_run(line + begin, row + begin, end - begin)
                for j in range(end, count):
                    line[j] = 0
    for part in range(parts):
        for i in range(reach):
            line = lines + (part * reach + i) * LINE
            for v in range(2):
                deal(line + v * side * LANES, side, min(side, REACH - part * side),
                     tiles + (i * REACH + part * side) * PANEL + v * LANES)
    for v in range(2):
        if reach == 1:
            transform_input(d + v, 2, <vec*> to + v, plane // LANES)
            continue
        for j in range(REACH):
            transform_input(d + 2 * j + v, 2 * REACH, half + j, REACH)
        for i in range(REACH):
            transform_input(half + REACH * i, 1, <vec*> (to + REACH * i * plane) + v, plane // LANES)
