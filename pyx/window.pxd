"""Windows of a pool, and how a pool or its gradient runs over planes.

A work item is a strip of columns of a block of rows of the result, in one plane or, of small ones, several.
Windows are separable, and there are two orders, for pools and gradients alike: with neighbours as the
lanes of a vector, and with LANES planes side by side, transposed in between, so that the lanes are
planes: for strides that would pick lanes one by one, and for rows shorter than a vector.
"""

from buffers cimport Batch
from parallel cimport run_items
from simd cimport LANES, load, real, store_some, transpose, vec

cdef enum:
    STRIP = 256  # columns: the rows of a strip stay in the first-level cache
    WIDEST = 2048  # columns of LANES planes that scratch holds
    GROUP = 4  # vectors in flight: a step of one waits for the step before
    NUMBERS_AN_ITEM = 1 << 13  # some 2 us of work, twenty times what a thread takes to fetch an item
    STEPS_AN_ITEM = 1 << 30  # a quarter of a second: the time between looks at signals


# Rows first to last, columns from j on, of one plane of the result, or of `planes` side by side, up to
# LANES. Pointers are to the first of these.
ctypedef void (*Block)(
    const Window* g, Py_ssize_t planes, Py_ssize_t first, Py_ssize_t last, Py_ssize_t j,
    const real* source, real* target, void* places, real* scratch,
) noexcept nogil


cdef struct Window:
    Py_ssize_t H, W, P, Q, kh, kw, sh, sw
    Py_ssize_t planes, at_once, side_by_side  # in all, an item, and a call of `work`
    Py_ssize_t source_plane, target_plane, place_plane  # numbers of each, and bytes
    Py_ssize_t height, rows, blocks  # rows of the result in all and an item, and such blocks a plane
    Py_ssize_t strip, strips  # columns an item, and such strips a row
    Py_ssize_t pitch  # numbers from row to row of the scratch, or columns of it
    bint wide  # windows of more than 256 elements: places are Py_ssize_t, not bytes
    Block work
    const real* source
    const real* end  # of it
    real* target
    char* places
    Py_ssize_t offsets[256]  # from the first element of a window to each, in the image


cdef inline int set_window(
    Window* g, const Batch* image, const Batch* pooled, char* places, tuple kernel, tuple stride,
) except -1:
    g.H, g.W, g.P, g.Q, g.planes = image.H, image.W, pooled.H, pooled.W, image.N * image.C
    g.kh, g.kw = kernel
    g.sh, g.sw = stride
    g.wide = g.kh * g.kw > 256
    g.places = places
    g.place_plane = g.P * g.Q * (<Py_ssize_t> sizeof(Py_ssize_t) if g.wide else 1)
    return 0


cdef inline Py_ssize_t round_to_vectors(Py_ssize_t numbers) noexcept nogil:
    return (numbers + LANES - 1) // LANES * LANES


cdef inline int run(
    Window* g, Block work, Py_ssize_t side_by_side, const Batch* source, const Batch* target,
    Py_ssize_t scratch, int threads,
) except -1:
    """Run `work` over all of the result, with so many numbers of scratch."""
    # Steps for the rows that a window has and its neighbour above has not, and for the first window.
    cdef double strip = <double> g.strip * side_by_side, row = strip * (g.sh * g.kw + g.kh)
    cdef double start = strip * g.kh * g.kw
    g.work, g.side_by_side = work, side_by_side
    g.source, g.target, g.height = source.start, target.start, target.H
    g.source_plane, g.target_plane = source.H * source.W, target.H * target.W
    g.end = g.source + g.planes * g.source_plane
    if side_by_side > 1:
        row = start = strip * (g.sw * g.kh + g.kw)
    g.rows = max(8 * g.kh, NUMBERS_AN_ITEM // (target.W * side_by_side))
    g.rows = min(g.rows, <Py_ssize_t> max(<double> g.kh, (STEPS_AN_ITEM - start) / row))
    g.rows = max(<Py_ssize_t> 1, min(g.height, g.rows))
    g.blocks = (g.height + g.rows - 1) // g.rows
    cdef Py_ssize_t planes = NUMBERS_AN_ITEM // (max(g.source_plane, g.target_plane) * side_by_side)
    g.at_once = side_by_side * max(<Py_ssize_t> 1, planes)
    cdef Py_ssize_t items = (g.planes + g.at_once - 1) // g.at_once * g.blocks * g.strips
    run_items(block_item, g, items, items * (row * g.rows + start) * g.at_once / side_by_side,
              scratch * sizeof(real), threads)
    return 0


cdef inline int block_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Window* g = <const Window*> problem
    cdef Py_ssize_t block = item // g.strips, j = (item - block * g.strips) * g.strip
    cdef Py_ssize_t group = block // g.blocks, first = (block - group * g.blocks) * g.rows
    cdef Py_ssize_t plane = group * g.at_once, end = min(g.planes, plane + g.at_once)
    while plane < end:
        g.work(g, min(g.side_by_side, end - plane), first, min(g.height, first + g.rows), j,
               g.source + plane * g.source_plane, g.target + plane * g.target_plane,
               g.places + plane * g.place_plane, <real*> scratch)
        plane += g.side_by_side
    return 0


cdef inline void transpose_back(const real* results, vec* lines) noexcept nogil:
    """lines[lane][number] = results[number, lane]"""
    cdef Py_ssize_t number
    for number in range(LANES):
        lines[number] = load(results + number * LANES)
    transpose(lines)


cdef inline void store_planes(
    const Window* g, Py_ssize_t planes, const real* results, Py_ssize_t count, real* target, Py_ssize_t at,
) noexcept nogil:
    """`count` results of each plane, of results[number, lane], to target from `at` on."""
    cdef vec lines[LANES]
    cdef Py_ssize_t lane
    transpose_back(results, lines)
    for lane in range(planes):
        store_some(target + lane * g.target_plane + at, lines[lane], count)
