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
