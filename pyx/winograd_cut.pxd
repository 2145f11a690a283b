"""How Winograd's convolution is cut, so that what is transformed stays in a fixed scratch.

All transformed weights at once, if they fit beside one panel of inputs and one of sums for each thread. If
not, those of a group of output channels come at a time, and something is kept, lest it be made again:

- the transformed inputs of a slab of panels, which all groups need, or
- the sums of a slab of panels, while input channels come in chunks. Then weights are transformed for fewer,
  larger slabs, but inputs again for each group.
"""

from simd cimport LANES, real
from taps cimport ceil_div
from tile cimport SPARE_ROWS
from transforms cimport PAD, PANEL
from winograd_ends cimport Problem

cdef enum:
    # Bytes of transformed weights, which all threads share, and of transformed inputs and sums, for each
    # thread. (Two threads: as many inputs as for one took up to 1.36 times as long.)
    WEIGHTS_BYTES = 1 << 20
    INPUTS_BYTES = 5 << 19
    # Of all weights at once. (1 to 3 MB of weights, AVX2, both dtypes: 1.0 to 1.2 times as fast, 7x7 1.1 to
    # 1.5. With two threads up to 4.7 MB; more was not measured.)
    MOST_WEIGHTS_BYTES = 7 << 20
    # Panels that an item has together, so that what it reads of the weights serves them all; but only so many
    # bytes of inputs and outputs for each byte of a number (two threads: and where there are so many panels
    # for each). (AVX2, float64: 32 to 128 channels 1.03 to 1.1 times as fast, 256 0.98; float32: 32 to 64
    # channels 1.03, 128 0.95 to 1.0. Three and four: as two, or less.)
    TOGETHER = 2
    TOGETHER_BYTES = 5 << 15
    MANY_PANELS = 8
    # With fewer panels than this for each of several threads, items are parts of the output channels.
    FEW_PANELS = 2
    FEWEST_ROWS = 24
    # Channels of a chunk, those of all parts counted; and those of each part at the least. (64 to 384, 7x7 to
    # 11x11 with 48 to 96 channels, 3x3 with 768, AVX2 and AVX-512, both dtypes: 128 is the fastest or within
    # a tenth of it, 384 takes 1.1 to 1.9 times as long.)
    CHUNK = 128
    LEAST_OF_PART = 16
    # What is done again, in multiply-adds for each element of a tile: the transform of a filter, and of one
    # of many parts or phases; of an input, and one of a part; keeping a sum, for each chunk. (Chosen by
    # this, 17 problems of 32 to 768 channels on AVX2 and AVX-512, both dtypes, took 0.4 to 1.0 of the time
    # with inputs kept; those that it leaves would have taken 1.0 to 1.2.)
    FILTER = 9
    PART_FILTER = 36
    INPUT = 16
    PART_INPUT = 48
    SUM = 4


cdef struct Cut:
    Py_ssize_t channels  # of each part of the input, in a chunk
    Py_ssize_t group, slab  # filters, panels
    Py_ssize_t parts  # that the filters of a group are cut in, one to an item
    Py_ssize_t together  # panels of an item
    bint keeps_inputs, keeps_sums  # of a slab
    # Numbers from one element to the next: of the group's weights, of a panel's inputs and of a part's sums.
    Py_ssize_t weights_plane, input_plane, output_plane
    # Bytes: of the group's weights, of a panel's inputs, and of its sums, with those of all parts.
    Py_ssize_t weights_size, inputs_size, sums_size


cdef inline Cut cut(const Problem* p, int threads) noexcept nogil:
    return cut_in_chunks(p, threads) if goes_in_chunks(p) else cut_whole(p, threads)


cdef inline bint goes_in_chunks(const Problem* p) noexcept nogil:
    """As for one thread: which sums are rounded must not depend on their number."""
    cdef Cut whole = cut_whole(p, 1), chunks = cut_in_chunks(p, 1)
    cdef Py_ssize_t panels = ceil_div(p.tiling.count, PANEL)
    cdef bint parts = p.tiling.splits * p.tiling.ups > 1
    cdef double filters = (PART_FILTER if parts else FILTER) * <double> p.C * p.O
    cdef double inputs = (PART_INPUT if parts else INPUT) * <double> p.C * p.tiling.count
    cdef double sums = SUM * <double> p.O * p.tiling.count
    if chunks.channels == p.images.C:
        return False
    if whole.inputs_size > INPUTS_BYTES:
        return True
    return (
        filters * (ceil_div(panels, whole.slab) - ceil_div(panels, chunks.slab))
        > inputs * (ceil_div(p.w.O, chunks.group) - 1) + sums * ceil_div(p.images.C, chunks.channels)
    )


cdef inline Cut cut_whole(const Problem* p, int threads) noexcept nogil:
    """All input channels at a time."""
    cdef Py_ssize_t panels = ceil_div(p.tiling.count, PANEL), most
    cdef bint few_panels = threads > 1 and panels < FEW_PANELS * threads
    cdef Cut cut
    cut.channels, cut.group, cut.parts, cut.together, cut.slab = p.images.C, p.w.O, 1, 1, panels
    find_sizes(p, &cut)
    most = threads * (WEIGHTS_BYTES + INPUTS_BYTES - cut.sums_size)
    most -= (panels if few_panels else <Py_ssize_t> threads) * cut.inputs_size
    if cut.weights_size > min(<Py_ssize_t> MOST_WEIGHTS_BYTES, most):
        cut.group = group_of(p, &cut, 1)
    if few_panels:
        cut.parts = parts_of(p, &cut, panels, threads)
    cut.keeps_sums = False
    cut.keeps_inputs = cut.group < p.w.O or cut.parts > 1
    find_sizes(p, &cut)
    if cut.keeps_inputs:
        cut.slab = slab_of(panels, threads * INPUTS_BYTES // cut.inputs_size)
    elif (
        panels >= MANY_PANELS * threads
        and TOGETHER * (cut.inputs_size + cut.sums_size) <= TOGETHER_BYTES * <Py_ssize_t> sizeof(real)
        and cut.weights_size + threads * TOGETHER * (cut.inputs_size + cut.sums_size)
        <= threads * (WEIGHTS_BYTES + INPUTS_BYTES)
    ):
        cut.together = TOGETHER
    return cut


cdef inline Cut cut_in_chunks(const Problem* p, int threads) noexcept nogil:
    cdef Py_ssize_t panels = ceil_div(p.tiling.count, PANEL), C = p.images.C
    cdef Py_ssize_t most = max(<Py_ssize_t> LEAST_OF_PART, CHUNK // p.tiling.splits)
    cdef Cut cut
    cut.channels = min(C, ceil_div(ceil_div(C, ceil_div(C, most)), LEAST_OF_PART) * LEAST_OF_PART)
    cut.group, cut.parts, cut.together = p.w.O, 1, 1
    find_sizes(p, &cut)
    cut.group = group_of(p, &cut, threads)
    find_sizes(p, &cut)
    cut.slab = slab_of(panels, threads * (INPUTS_BYTES - cut.inputs_size) // cut.sums_size)
    if threads > 1 and cut.slab < FEW_PANELS * threads:
        cut.parts = parts_of(p, &cut, cut.slab, threads)
        find_sizes(p, &cut)
    cut.keeps_sums, cut.keeps_inputs = True, cut.parts > 1
    return cut


cdef inline void find_sizes(const Problem* p, Cut* cut) noexcept nogil:
    cdef Py_ssize_t ups = p.tiling.ups, splits = p.tiling.splits
    cdef Py_ssize_t element = p.tiling.elements * sizeof(real)
    cut.weights_plane = cut.group * ups * splits * pitch_of(cut.channels) + PAD
    cut.input_plane = cut.channels * splits * PANEL + PAD
    cut.output_plane = (ceil_div(cut.group, cut.parts) * ups + SPARE_ROWS) * PANEL + PAD
    cut.weights_size = element * cut.weights_plane
    cut.inputs_size = element * cut.input_plane
    cut.sums_size = element * cut.parts * cut.output_plane


cdef inline Py_ssize_t pitch_of(Py_ssize_t channels) noexcept nogil:
    """Numbers that those of a part take in transformed weights."""
    return ceil_div(channels, LANES) * LANES


cdef inline Py_ssize_t group_of(const Problem* p, const Cut* cut, int threads) noexcept nogil:
    """Filters to a group of WEIGHTS_BYTES, or a tile's rows."""
    cdef Py_ssize_t filter_size = cut.weights_size // cut.group
    cdef Py_ssize_t most = max(ceil_div(6, p.tiling.ups), threads * WEIGHTS_BYTES // filter_size)
    return ceil_div(p.w.O, ceil_div(p.w.O, most))


cdef inline Py_ssize_t slab_of(Py_ssize_t panels, Py_ssize_t most) noexcept nogil:
    most = max(<Py_ssize_t> 1, most)
    return ceil_div(panels, ceil_div(panels, most))


cdef inline Py_ssize_t parts_of(
    const Problem* p, const Cut* cut, Py_ssize_t panels, int threads,
) noexcept nogil:
    return min(ceil_div(FEW_PANELS * threads, panels), ceil_div(cut.group * p.tiling.ups, FEWEST_ROWS))
