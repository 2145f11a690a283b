"""The types of simd.h as Cython sees them. It takes `vec` for a number: never cast one."""

cdef extern from "simd.h" nogil:
    ctypedef double real
    ctypedef long lane_int
    ctypedef double vec
    enum:
        LANES
        LANES_LOG2

    vec load(const real* source)
    void store(real* target, vec value)
    vec splat(real x)
    vec add(vec a, vec b)
    vec subtract(vec a, vec b)
    vec multiply_add(vec sum, vec a, vec b)
    real horizontal_sum(vec a)
    vec even(vec a, vec b)
    vec odd(vec a, vec b)
    vec low(vec a, vec b)
    vec high(vec a, vec b)
    void store_even(real* to, vec a)
    void copy_run(real* to, const real* source, Py_ssize_t count)


cdef inline void transpose(vec* corner) noexcept nogil:
    """Exchange rows and columns: shuffle the halves together, like cards, log2(LANES) times."""
    cdef vec shuffled[LANES]
    cdef int times, i
    for times in range(LANES_LOG2):
        for i in range(LANES // 2):
            shuffled[2 * i] = low(corner[i], corner[LANES // 2 + i])
            shuffled[2 * i + 1] = high(corner[i], corner[LANES // 2 + i])
        for i in range(LANES):
            corner[i] = shuffled[i]
