"""The inner kernel of every convolution: an offset-table matrix product on registers.

    out[r][v] (+)= sum over t of  rows[r][row_offsets[t]] * columns[column_offsets[t] + v]

R rows times VN vectors of sums stay in registers while t runs; each step loads VN vectors and
broadcasts R scalars. What the rows, the columns and t are is the caller's affair:

                        rows                    columns               t
    forward, gradient   output channels of W    pixels of the image   taps (c, u, v)
    weight gradient     taps of the image       channels of dLdZ      pixels

The function is inlined into `tile` once for each shape, with R and VN constant, so that the
compiler unrolls the loops and keeps `sums` in registers. A shape needs R*VN + min(R, VN) + 1
vector registers, of which AVX2 and SSE2 have 16; fewer than 8 sums wait for the adder (two units,
four cycles each).
"""

from simd cimport LANES, add, load, multiply_add, real, splat, store, vec

cdef enum:
    MAX_ROWS = 8

cdef inline void tile_of(
    const int R, const int VN, Py_ssize_t count,
    const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    cdef vec sums[8][8]
    cdef vec held[8]
    cdef vec x
    cdef Py_ssize_t t
    cdef int r, v
    for r in range(R):
        for v in range(VN):
            sums[r][v] = splat(0)
    for t in range(count):
        # Hold the shorter side in registers and stream the longer one past it.
        if R >= VN:
            for v in range(VN):
                held[v] = load(columns + column_offsets[t] + v * LANES)
            for r in range(R):
                x = splat(rows[r][row_offsets[t]])
                for v in range(VN):
                    sums[r][v] = multiply_add(sums[r][v], x, held[v])
        else:
            for r in range(R):
                held[r] = splat(rows[r][row_offsets[t]])
            for v in range(VN):
                x = load(columns + column_offsets[t] + v * LANES)
                for r in range(R):
                    sums[r][v] = multiply_add(sums[r][v], held[r], x)
    # The sum of this stretch of t is added as a whole to what is there: blocked summation has a
    # smaller rounding error than one long chain.
    for r in range(R):
        for v in range(VN):
            if accumulate:
                sums[r][v] = add(sums[r][v], load(out + r * out_pitch + v * LANES))
            elif bias != NULL:
                sums[r][v] = add(sums[r][v], splat(bias[r]))
            store(out + r * out_pitch + v * LANES, sums[r][v])


cdef inline void tile(
    int R, int VN, Py_ssize_t count,
    const real** rows, const Py_ssize_t* row_offsets,
    const real* columns, const Py_ssize_t* column_offsets,
    real* out, Py_ssize_t out_pitch, const real* bias, bint accumulate,
) noexcept nogil:
    if VN == 2:
        if R == 6:
            tile_of(6, 2, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)
        elif R == 5:
            tile_of(5, 2, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)
        else:
            tile_of(4, 2, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)
    elif VN == 3:
        if R == 4:
            tile_of(4, 3, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)
        else:
            tile_of(3, 3, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)
    elif VN == 4:
        tile_of(2, 4, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)
    elif VN == 8:
        tile_of(1, 8, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)
    else:
        tile_of(8, 1, count, rows, row_offsets, columns, column_offsets, out, out_pitch, bias, accumulate)


cdef inline int even_rows(Py_ssize_t left, int most) noexcept nogil:
    """Rows of the next tile when `left` rows are cut into the fewest, evenest tiles: 8 is 4 + 4."""
    cdef Py_ssize_t tiles = (left + most - 1) // most
    return <int>((left + tiles - 1) // tiles)


cdef inline int vectors_for(int R) noexcept nogil:
    """How many vectors wide the tile of R rows is when both are free (R at most 6)."""
    if R >= 5:
        return 2
    if R >= 3:
        return 3
    return 4 if R == 2 else 8
