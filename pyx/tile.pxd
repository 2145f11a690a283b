"""The inner kernel of every convolution: an offset-table matrix product on registers.

    out[r][v] (+)= sum over t of  rows[r][row_offsets[t]] * columns[column_offsets[t] + v]

R rows times VN vectors of sums stay in registers while t runs; each step loads VN vectors and
broadcasts R scalars. What the rows, the columns and t are is the caller's affair:

                        rows                    columns               t
    forward, gradient   output channels of W    pixels of the image   taps (c, u, v)
    weight gradient     taps of the image       channels of dLdZ      pixels

Offsets that follow one another need no table, NULL: of rows, by 1; then of columns, by VN vectors. (A loop
of fewer instructions, most of which are multiply-adds: 1.03 times as fast, and 1.1 to 1.2 times while another
thread shares the core, as on many servers. Columns alone without a table: 0.94 to 1.05.)

The function is compiled once for each shape, with R and VN constant, so that the compiler unrolls the
loops and keeps `sums` in registers. It is called by pointer (`tile_for`): inlined into its callers,
their variables took registers from it, at half the speed. A shape needs R*VN + min(R, VN) + 1
vector registers, of which AVX2 and SSE2 have 16, AVX-512 and NEON 32 (simd.h says what is made of them);
fewer than 8 sums wait for the adder (two units, four cycles each).
"""

from simd cimport LANES, REGISTERS, add, load, multiply_add, real, splat, store, vec

cdef enum:
    MAX_ROWS = 8
    MAX_SUMS = 24
    # That a tile may write beyond the last, when there is none as low as what is left.
    SPARE_ROWS = 8
    # Terms that are summed before they are added to the rest: blocked summation has a smaller
    # rounding error than one long chain.
    STRETCH = 256

cdef inline void add_term(
    const int R, const int VN, const real** rows, Py_ssize_t row, const real* columns, vec* sums,
) noexcept nogil:
    # The short loops are innermost, and inside another: GCC unrolls such a loop early enough to see
    # that `sums` and `held` can live in registers throughout.
    cdef vec held[8]
    cdef vec x
    cdef int i, v
    # Hold the shorter side in registers and stream the longer one past it.
    if R >= VN:
        for v in range(VN):
            held[v] = load(columns + v * LANES)
        for i in range(R):
            x = splat(rows[i][row])
            for v in range(VN):
                sums[i * VN + v] = multiply_add(sums[i * VN + v], x, held[v])
    else:
        for i in range(R):
            held[i] = splat(rows[i][row])
        for v in range(VN):
            x = load(columns + v * LANES)
            for i in range(R):
                sums[i * VN + v] = multiply_add(sums[i * VN + v], held[i], x)


cdef inline void tile_of(
    const int R, const int VN, Py_ssize_t count,
    const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    cdef vec sums[MAX_SUMS]
    cdef Py_ssize_t first = 0, last, t
    cdef int i, v
    while first < count or first == 0:
        for i in range(R):
            for v in range(VN):
                sums[i * VN + v] = splat(0)
        last = min(count, first + STRETCH)
        if row_offsets != NULL:
            for t in range(first, last):
                add_term(R, VN, rows, row_offsets[t], columns + column_offsets[t], sums)
        elif column_offsets != NULL:
            for t in range(first, last):
                add_term(R, VN, rows, t, columns + column_offsets[t], sums)
        else:
            for t in range(first, last):
                add_term(R, VN, rows, t, columns + t * VN * LANES, sums)
        if accumulate or first > 0:
            for i in range(R):
                for v in range(VN):
                    sums[i * VN + v] = add(sums[i * VN + v], load(out + i * out_pitch + v * LANES))
        elif bias != NULL:
            for i in range(R):
                for v in range(VN):
                    sums[i * VN + v] = add(sums[i * VN + v], splat(bias[i]))
        for i in range(R):
            for v in range(VN):
                store(out + i * out_pitch + v * LANES, sums[i * VN + v])
        first += STRETCH


ctypedef void (*Tile)(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil


cdef inline void tile_6x2(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(6, 2, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_5x2(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(5, 2, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_4x2(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(4, 2, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_4x3(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(4, 3, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_3x3(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(3, 3, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_6x4(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(6, 4, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_5x4(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(5, 4, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_4x4(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(4, 4, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_3x4(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(3, 4, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_2x4(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(2, 4, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_1x8(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(1, 8, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline void tile_8x1(
    Py_ssize_t count, const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    tile_of(8, 1, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline Tile tile_for(int R, int VN) noexcept nogil:
    """The tile of R rows (as `rows_for` finds them) and VN vectors."""
    if VN == 2:
        return tile_6x2 if R == 6 else tile_5x2 if R == 5 else tile_4x2
    if VN == 3:
        return tile_4x3 if R == 4 else tile_3x3
    if VN == 4:
        if REGISTERS == 32 and R > 3:
            return tile_6x4 if R == 6 else tile_5x4 if R == 5 else tile_4x4
        return tile_3x4 if R == 3 else tile_2x4
    return tile_1x8 if VN == 8 else tile_8x1


cdef inline bint follow(const Py_ssize_t* offsets, Py_ssize_t count, Py_ssize_t step) noexcept nogil:
    """Whether they follow one another, so that a tile needs no table."""
    cdef Py_ssize_t i = 1
    while i < count and offsets[i] == offsets[i - 1] + step:
        i += 1
    return i == count


cdef inline int even_rows(Py_ssize_t left, int most) noexcept nogil:
    """Rows of the next tile when `left` rows are cut into the fewest, evenest tiles: 8 is 4 + 4."""
    cdef Py_ssize_t tiles
    if left <= most:
        return <int> left
    tiles = (left + most - 1) // most
    return <int>((left + tiles - 1) // tiles)


cdef inline int rows_for(Py_ssize_t left, int VN) noexcept nogil:
    """Rows of the next tile when the width is given.

    There are no tiles of fewer rows than these: the last rows of a tile may have to repeat a row.
    """
    if VN == 3:
        return max(3, even_rows(left, 4))
    if VN == 2:
        return max(4, even_rows(left, 6))
    if VN == 4:
        return max(2, even_rows(left, 6 if REGISTERS == 32 else 3))
    return 8 // VN


cdef inline Py_ssize_t rows_in_tiles(Py_ssize_t rows, int VN) noexcept nogil:
    """How many rows tiles of that width compute for so many, repeated ones included."""
    cdef Py_ssize_t row = 0
    while row < rows:
        row += rows_for(rows - row, VN)
    return row


cdef inline int vectors_for(int R) noexcept nogil:
    """How many vectors wide the tile of R rows is when both are free (R at most 6)."""
    if R >= 5:
        # (AMD EPYC with AVX-512, float32, all in the first-level cache, of 128 GFLOP/s: 6x4 113, 6x2 100;
        # 12x2, with as many sums as 6x4 but more to load, 97.)
        return 4 if REGISTERS == 32 else 2
    if R == 4:
        return 3
    # (Three rows, AVX2, both dtypes, 3x4 against 3x3: 1.05 to 1.2 times as fast.)
    return 4 if R >= 2 else 8


cdef inline int vectors_left(int VN, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    """As `vectors_for`, but no more than the last columns need, where narrower tiles fit the rows."""
    if REGISTERS == 32 and VN == 4 and rows > 2:
        if columns <= 2 * LANES and rows > 3:
            return 2
        if columns <= 3 * LANES and (rows == 3 or rows > 5):  # 4 and 5 would be 3 and 2
            return 3
    return VN
