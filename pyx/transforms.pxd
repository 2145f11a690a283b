"""Winograd's F(4x4, 3x3): the transforms, and where tiles lie.

A 3x3 convolution with stride 1 takes 144 multiplications for a tile of 4x4 outputs. Transformed,
it takes 36 (Lavin and Gray 2015):

    Y = A' [(G g G') * (B' d B)] A          g 3x3 weights, d 6x6 inputs, Y 4x4 outputs, * by element
    dg = G' [(A dY A') * (B' d B)] G        the gradient with respect to the weights

A, B and G follow from six points at which polynomials are multiplied (Toom and Cook). Any will do
in exact arithmetic; 0, 1, -1, 2, -1/2 and infinity lose about a third of the digits that the usual
0, 1, -1, 2, -2 lose (see docs/performance.md for the error bound).

Channels are summed between the transforms, so that each of the 36 elements is a matrix product over
channels, which `tile` computes.
"""

from simd cimport (
    LANES, add, copy_run, even, high, load, low, multiply_add, odd, real, splat, store, subtract, vec,
)

cdef enum:
    SIDE = 4  # outputs of a tile along each axis
    REACH = 6  # inputs
    ELEMENTS = 36
    PANEL = 2 * LANES  # tiles that go through the transforms together: two vectors
    LINE = SIDE * PANEL + SIDE
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


cdef inline void transform_output(const vec* m, Py_ssize_t step, vec* y, Py_ssize_t to) noexcept nogil:
    """y = A' m: 6 to 4."""
    cdef vec m3 = m[3 * step], m4 = m[4 * step]
    cdef vec s = add(m[step], m[2 * step]), q = subtract(m[step], m[2 * step])
    y[0] = add(add(m[0], s), add(m3, m4))
    y[to] = multiply_add(multiply_add(q, m3, splat(2)), m4, splat(-0.5))
    y[2 * to] = multiply_add(multiply_add(s, m3, splat(4)), m4, splat(0.25))
    y[3 * to] = add(multiply_add(multiply_add(q, m3, splat(8)), m4, splat(-0.125)), m[5 * step])


cdef inline void transform_output_gradient(const vec* y, Py_ssize_t step, vec* m, Py_ssize_t to) noexcept nogil:
    """m = A y: 4 to 6."""
    cdef vec y0 = y[0], y1 = y[step], y2 = y[2 * step], y3 = y[3 * step]
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
    m[5 * to] = y3


cdef inline void transform_weights(const vec* g, Py_ssize_t step, vec* u, Py_ssize_t to) noexcept nogil:
    """u = G g: 3 to 6."""
    cdef vec g0 = g[0], g1 = g[step], g2 = g[2 * step], zero = splat(0)
    cdef vec ends = add(g0, g2)
    u[0] = g0
    u[to] = multiply_add(zero, add(ends, g1), splat(<real> (-1. / 3)))
    u[2 * to] = multiply_add(zero, subtract(ends, g1), splat(<real> (1. / 3)))
    u[3 * to] = multiply_add(
        zero, multiply_add(multiply_add(g0, g1, splat(2)), g2, splat(4)), splat(<real> (1. / 15))
    )
    u[4 * to] = multiply_add(
        zero, multiply_add(multiply_add(g0, g1, splat(-0.5)), g2, splat(0.25)), splat(<real> (-16. / 15))
    )
    u[5 * to] = g2


cdef inline void transform_weights_gradient(const vec* u, Py_ssize_t step, vec* g, Py_ssize_t to) noexcept nogil:
    """g = G' u: 6 to 3."""
    cdef vec zero = splat(0)
    cdef vec a = multiply_add(zero, subtract(u[2 * step], u[step]), splat(<real> (1. / 3)))
    cdef vec b = multiply_add(zero, add(u[2 * step], u[step]), splat(<real> (-1. / 3)))
    cdef vec c = multiply_add(zero, u[3 * step], splat(<real> (1. / 15)))
    cdef vec d = multiply_add(zero, u[4 * step], splat(<real> (-16. / 15)))
    g[0] = add(add(u[0], a), add(c, d))
    g[to] = multiply_add(multiply_add(b, c, splat(2)), d, splat(-0.5))
    g[2 * to] = add(multiply_add(multiply_add(a, c, splat(4)), d, splat(0.25)), u[5 * step])


# ---- where tiles lie -----------------------------------------------------------------------------

cdef struct Tiling:
    Py_ssize_t rows, cols, count  # tiles of an image down and across, and of all images


cdef struct Images:
    const real* x
    Py_ssize_t C, H, W, pad_h, pad_w


cdef struct Run:
    # Tiles of a panel that are neighbours in a row of an image.
    Py_ssize_t image, row, col, tiles, lane


cdef inline Images images_of(const real[:, :, :, ::1] x, tuple pad):
    cdef Images images
    images.x = &x[0, 0, 0, 0]
    images.C, images.H, images.W = x.shape[1], x.shape[2], x.shape[3]
    images.pad_h, images.pad_w = pad
    return images


cdef inline Tiling tiling_of(Py_ssize_t images, Py_ssize_t P, Py_ssize_t Q) noexcept nogil:
    cdef Tiling tiling
    tiling.rows, tiling.cols = (P + SIDE - 1) // SIDE, (Q + SIDE - 1) // SIDE
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


# The tiles of a panel lie side by side in lines: line[4*tile + column]. A line of a run of tiles is a
# piece of a row of the image.

cdef inline void deal(const real* line, const int count, real* to) noexcept nogil:
    """to[j, lane] = line[4*lane + j] for j < count, 2 or 4."""
    cdef vec a = load(line), b = load(line + LANES)
    cdef vec c = load(line + 2 * LANES), d = load(line + 3 * LANES)
    cdef vec evens = even(a, b), more_evens = even(c, d), odds = odd(a, b), more_odds = odd(c, d)
    store(to, even(evens, more_evens))
    store(to + PANEL, even(odds, more_odds))
    if count == SIDE:
        store(to + 2 * PANEL, odd(evens, more_evens))
        store(to + 3 * PANEL, odd(odds, more_odds))


cdef inline void collect(const vec* z, real* line) noexcept nogil:
    """line[4*lane + j] = z[j][lane] for j < 4."""
    cdef vec evens = low(z[0], z[2]), more_evens = high(z[0], z[2])
    cdef vec odds = low(z[1], z[3]), more_odds = high(z[1], z[3])
    store(line, low(evens, odds))
    store(line + LANES, high(evens, odds))
    store(line + 2 * LANES, low(more_evens, more_odds))
    store(line + 3 * LANES, high(more_evens, more_odds))


cdef inline void read_tiles(
    const Images* p, Py_ssize_t c, int run_count, const Run* runs, real* to, Py_ssize_t plane,
) noexcept nogil:
    """The panel's tiles of one input channel, transformed, to[element * plane + tile] (on whole vectors)."""
    # All lines are copied before one is read: loads that overlap unfinished stores would wait.
    cdef real lines[REACH * LINE]
    cdef real beside[REACH * PANEL * 2]  # columns 4 and 5 of each run's last tile
    cdef vec d[ELEMENTS * 2]
    cdef vec half[ELEMENTS]
    cdef real* tiles = <real*> d  # [row, column, tile]
    cdef const real* row
    cdef real* line
    cdef Py_ssize_t i, j, v, at, first, begin, end, count, lane
    cdef int r
    lane = runs[run_count - 1].lane + runs[run_count - 1].tiles
    if lane < PANEL:  # lanes without a tile
        for i in range(REACH):
            for at in range(SIDE * lane, SIDE * PANEL):
                lines[i * LINE + at] = 0
    for i in range(REACH):
        for at in range(SIDE * PANEL, LINE):
            lines[i * LINE + at] = 0
    for r in range(run_count):
        count = SIDE * runs[r].tiles
        first = runs[r].col * SIDE - p.pad_w
        begin = min(count, max(<Py_ssize_t> 0, -first))
        end = max(begin, min(count, p.W - first))
        for i in range(REACH):
            line = lines + i * LINE + SIDE * runs[r].lane
            at = runs[r].row * SIDE - p.pad_h + i
            row = p.x + ((runs[r].image * p.C + c) * p.H + at) * p.W + first
            if not 0 <= at < p.H:
                for j in range(count):
                    line[j] = 0
                beside[(i * PANEL + r) * 2] = beside[(i * PANEL + r) * 2 + 1] = 0
                continue
            for j in range(begin):
                line[j] = 0
            copy_run(line + begin, row + begin, end - begin)
            for j in range(end, count):
                line[j] = 0
            for j in range(2):
                beside[(i * PANEL + r) * 2 + j] = row[count + j] if 0 <= first + count + j < p.W else 0
    for i in range(REACH):
        line = lines + i * LINE
        for v in range(2):
            deal(line + v * SIDE * LANES, SIDE, tiles + i * REACH * PANEL + v * LANES)
            deal(line + (v * LANES + 1) * SIDE, REACH - SIDE, tiles + (i * REACH + SIDE) * PANEL + v * LANES)
        for r in range(run_count):
            lane = runs[r].lane + runs[r].tiles - 1
            tiles[(i * REACH + SIDE) * PANEL + lane] = beside[(i * PANEL + r) * 2]
            tiles[(i * REACH + SIDE + 1) * PANEL + lane] = beside[(i * PANEL + r) * 2 + 1]
    for v in range(2):
        for j in range(REACH):
            transform_input(d + 2 * j + v, 2 * REACH, half + j, REACH)
        for i in range(REACH):
            transform_input(half + REACH * i, 1, <vec*> (to + REACH * i * plane) + v, plane // LANES)
