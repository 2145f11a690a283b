"""Strips: the pixels that tiles of a convolution read, and where their results go.

A strip is as many pixels as a tile has lanes. It is part of the image itself, where rows are long and
lie close together in memory, or a panel: its pixels gathered for all taps. Strips wait until they are
some, and are then multiplied together.
"""

from buffers cimport Filters
from packing cimport Layout
from phases cimport MOST_PARTS, Joint
from simd cimport LANES, load, prefetch, real, store, store_some
from taps cimport (
    Block, Chunk, Grid, Image, Side, block_pixels, ceil_div, chunk_taps, gcd, prepared_extent,
)
from tile cimport even_rows, vectors_for

cdef enum:
    WIDEST = 8 * LANES  # strips
    # That are multiplied together: their panels are 80 KB at the most, so that they stay in the second-level
    # cache, while those of some output channels pass by, whose weights stay in the first-level cache. Then
    # results are written in long runs. (AVX2, both dtypes, 32 against 1: 9 to 27 taps, results of 6 to 13 MB,
    # 1.2 to 2 times as fast; two panels of 576 taps against one, 1.00 to 1.03.)
    MOST_STRIPS = 32
    STRIPS_BYTES = 5 << 14
    MOST_SPANS = 4 * WIDEST
    # What each takes, for a lane, in percent of its multiply-adds. Of strips of the image itself: vectors lie
    # across cache lines; and where channels lie in more pages than the first-level table of translations may
    # have entries, or in the same sets of the first-level cache.
    IN_PLACE = 105
    SPREAD = 130
    PAGE_BYTES = 4096
    MOST_PAGES = 48
    CACHE_WAYS = 8
    # In percent of one tap's: results that lie not side by side, for each output channel; gathering a panel,
    # for all, from rows of whole vectors, and others. (44 problems of 1 to 256 channels and 1x1 to 7x7 taps,
    # AVX2, both dtypes: of the two, the wrong one takes 1.05 to 2 times as long, and is taken in three, for
    # 1.05 to 1.15.)
    ASIDE = 1000
    GATHERED = 300
    GATHERED_PARTS = 450


cdef struct Problem:
    Grid grid  # of the phases at work, joined
    const Side* sides  # down, across
    Joint down, across
    real* out
    Filters w
    const real* bias
    Py_ssize_t P, Q, out_per_image, out_per_channel
    bint far  # the results, from the caches close by
    Py_ssize_t rows, row_parts  # output channels to an item, and how many such parts there are
    Py_ssize_t together  # of them, whose phases are woven together
    Py_ssize_t alike  # phases that are one part, at the most
    Layout layout[MOST_PARTS * MOST_PARTS]  # of the filters, for each part down and part across
    double uses  # of a pixel, by phases, for each output channel
    Py_ssize_t strips  # that are multiplied together


cdef struct Span:
    # Lanes of a strip that are neighbours in a row of outputs of each phase, and read neighbours of the
    # image.
    Py_ssize_t lane, length, source
    # Where the first phase has the first of them, and how many rows and columns the result has from there on.
    Py_ssize_t target, rows, cols


cdef struct Strip:
    # Pixels as wide as a tile, and those of them that are outputs: spans first to first + count.
    const real* columns
    int first, count
    bint straight  # all lie side by side in the result


cdef struct Taps:
    # Of a part down and a part across, as a tile takes them: tables, or NULL and the first.
    Py_ssize_t count, first_column, first_weight
    const Py_ssize_t* columns
    const Py_ssize_t* weights


cdef struct Job:
    # A block and a chunk at work, for output channels o_first to o_last.
    const Problem* p
    Block block
    Py_ssize_t row_length  # of the result, as the block sees it
    Chunk chunk
    Image image
    Py_ssize_t o_first, o_last
    int VN  # vectors of a tile
    Py_ssize_t tap_count
    Py_ssize_t* taps
    Py_ssize_t* tables
    Taps part[MOST_PARTS * MOST_PARTS]
    bint accumulate, last  # to what chunks before have summed; the last of them
    real* aside
    Py_ssize_t per_aside  # from one strip's to the next's
    Py_ssize_t strips_before  # of the block, multiplied already
    # What waits to be multiplied.
    int strips, spans
    # What the next strips read meanwhile, if it is not in a cache.
    bint in_place
    const real* next
    Py_ssize_t next_length
    Strip strip[MOST_STRIPS]
    Span span[MOST_SPANS]


cdef inline int vectors_of(const Problem* p, Py_ssize_t rows) noexcept nogil:
    """How many vectors wide the tiles are, for so many output channels."""
    return vectors_for(even_rows(even_rows(rows, p.together) * p.alike, 6))


cdef inline Py_ssize_t strips_for(const Grid* grid) noexcept nogil:
    """How many are multiplied together."""
    cdef Py_ssize_t panel = max(<Py_ssize_t> 1, chunk_taps(grid)) * 2 * LANES * sizeof(real)
    return max(<Py_ssize_t> 1, min(<Py_ssize_t> MOST_STRIPS, STRIPS_BYTES // panel))


cdef inline Py_ssize_t most_strips(const Grid* grid, Py_ssize_t width) noexcept nogil:
    """Those of a block, at the most, whether they are panels or parts of the image."""
    cdef const Block* block = &grid.block
    cdef Py_ssize_t panels = ceil_div(block_pixels(grid), width)
    # One begins in every `width` numbers of an image, and of a row.
    cdef Py_ssize_t pitch = max(grid.w.size, prepared_extent(&grid.w, block.cols, grid.chunk.vs))
    cdef Py_ssize_t direct = ceil_div((block.rows - 1) * pitch + block.cols, width)
    return max(panels, block.images * min(direct, block.rows * ceil_div(block.cols, width)))


cdef inline bint goes_direct(const Job* job, Py_ssize_t width) noexcept nogil:
    """Whether strips are of the image itself, which wastes the lanes between rows (see `direct_strips`)."""
    cdef const Problem* p = job.p
    cdef const Block* block = &job.block
    cdef Py_ssize_t pitch = job.image.per_row, total = (block.rows - 1) * pitch + block.cols
    cdef Py_ssize_t lanes = 0, aside = 0, at = 0
    cdef double direct, panels
    # Strips of the image are alike in all chunks that have the whole kernel.
    if total < width or job.chunk.us < p.grid.h.taps or job.chunk.vs < p.grid.w.taps:
        return False
    while at < total:
        if at % pitch >= block.cols:
            at = (at // pitch + 1) * pitch
        else:
            if at % pitch + width > block.cols:
                aside += width
            lanes, at = lanes + width, at + width
    direct = lanes * <double> (SPREAD if is_spread(job) else IN_PLACE)
    direct += aside * <double> ASIDE / chunk_taps(&p.grid)
    panels = 100 + (GATHERED if block.cols % LANES == 0 else GATHERED_PARTS) / (
        (job.o_last - job.o_first) * p.uses
    )
    return direct <= panels * block.rows * block.cols


cdef inline bint is_spread(const Job* job) noexcept nogil:
    """Whether what a strip reads lies in more pages, or in more lines of a cache set, than are at hand."""
    cdef Py_ssize_t pitch = job.image.per_channel * sizeof(real), channels = job.p.grid.chunk.channels
    return (
        min(channels, channels * pitch // PAGE_BYTES) > MOST_PAGES
        or channels * 3 // 2 > CACHE_WAYS * PAGE_BYTES // gcd(pitch, PAGE_BYTES)
    )


cdef inline void add_span(
    Job* job, Py_ssize_t lane, Py_ssize_t length, Py_ssize_t n, Py_ssize_t row, Py_ssize_t col,
) noexcept nogil:
    """Outputs of the block from there on are lanes of the strip that is being made."""
    cdef const Problem* p = job.p
    cdef Span* span = &job.span[job.spans]
    cdef Py_ssize_t out_row = p.grid.h.out_first + (job.block.row + row) * p.grid.h.out_step
    cdef Py_ssize_t out_col = p.grid.w.out_first + (job.block.col + col) * p.grid.w.out_step
    span.lane, span.length = lane, length
    span.source = n * job.image.per_image + row * job.image.per_row + col
    span.target = (job.block.image + n) * p.out_per_image + out_row * p.Q + out_col
    span.rows, span.cols = p.P - out_row, job.row_length - out_col
    job.spans += 1


cdef inline Strip* open_strip(Job* job, const real* columns) noexcept nogil:
    cdef Strip* strip = &job.strip[job.strips]
    strip.columns, strip.first = columns, job.spans
    return strip


cdef inline bint close_strip(Job* job, Strip* strip, Py_ssize_t width) noexcept nogil:
    """Whether it was the last for which there is room."""
    cdef const Problem* p = job.p
    cdef const Span* span = job.span + strip.first
    cdef Py_ssize_t lanes = 0  # from the first on, whose outputs lie side by side, too
    cdef int i
    strip.count = job.spans - strip.first
    for i in range(strip.count):
        if span[i].lane == lanes and span[i].target == span.target + lanes:
            lanes += span[i].length
    strip.straight = (
        lanes >= width and p.down.phases == p.across.phases == 1 and p.grid.w.out_step == 1
    )
    job.strips += 1
    return job.strips == p.strips or job.spans > MOST_SPANS - WIDEST


cdef inline void gather_panel(
    const Job* job, const Span* spans, int count, Py_ssize_t width, real* panel,
) noexcept nogil:
    """panel[tap][lane] = image[pixel of lane + taps[tap]]; lanes beyond the last span repeat the first.

    Whole vectors are copied, which may reach up to LANES - 1 lanes too far: the next span puts that right.
    """
    cdef Py_ssize_t lane
    cdef int i
    for i in range(count):
        gather_span(job, spans[i].source, spans[i].length, width, spans[i].lane, panel)
    lane = spans[count - 1].lane + spans[count - 1].length
    while lane < width:
        gather_span(job, spans[0].source, 1, width, lane, panel)
        lane += LANES


cdef inline void gather_span(
    const Job* job, Py_ssize_t source, Py_ssize_t length, Py_ssize_t width, Py_ssize_t lane, real* to,
) noexcept nogil:
    cdef const real* x = job.image.data + source - lane
    cdef const real* pixels
    cdef const Py_ssize_t* taps = job.taps
    cdef Py_ssize_t last = lane + length, t
    while last - lane > LANES and lane + 2 * LANES <= width:  # two vectors, as they mostly share cache lines
        for t in range(job.tap_count):
            pixels = x + lane + taps[t]
            store(to + lane + t * width, load(pixels))
            store(to + lane + t * width + LANES, load(pixels + LANES))
            # The next panel, mostly. (Images in the third-level cache: 1.05 to 1.16 times as fast.)
            prefetch(pixels + width)
            prefetch(pixels + width + LANES)
        lane += 2 * LANES
    while lane < last and lane + LANES <= width:
        for t in range(job.tap_count):
            store(to + lane + t * width, load(x + lane + taps[t]))
        lane += LANES
    if lane < last:
        for t in range(job.tap_count):
            store_some(to + lane + t * width, load(x + lane + taps[t]), width - lane)
