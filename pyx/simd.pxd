"""The types of simd.h as Cython sees them. It takes `vec`, `lane_ints` for numbers: never cast one."""

from libc.stdint cimport uint8_t

cdef extern from "simd.h" nogil:
    ctypedef double real
    ctypedef long lane_int
    ctypedef double vec
    ctypedef long lane_ints
    enum:
        LANES
        LANES_LOG2
        REGISTERS

    vec load(const real* source)
    void store(real* target, vec value)
    void prefetch(const real* source)
    void prefetch_run(const real* source, Py_ssize_t count)
    vec splat(real x)
    vec add(vec a, vec b)
    vec subtract(vec a, vec b)
    vec divide(vec a, vec b)
    vec multiply_add(vec sum, vec a, vec b)
    real horizontal_sum(vec a)
    vec even(vec a, vec b)
    vec odd(vec a, vec b)
    vec low(vec a, vec b)
    vec high(vec a, vec b)
    Py_ssize_t misaligned(const real* at)
    void copy_run(real* to, const real* source, Py_ssize_t count)
    vec load_some(const real* source, Py_ssize_t readable)
    void store_some(real* target, vec value, Py_ssize_t count)
    lane_ints load_lanes(const lane_int* source)
    void store_lanes(lane_int* target, lane_ints value)
    lane_ints splat_lane(lane_int x)
    lane_ints add_lanes(lane_ints a, lane_ints b)
    lane_ints same_lanes(lane_ints a, lane_ints b)
    lane_ints above(vec a, vec b)
    lane_ints above_or_nan(vec a, vec b)
    lane_ints choose_lanes(lane_ints mask, lane_ints a, lane_ints b)
    vec choose(lane_ints mask, vec a, vec b)
    vec larger(vec a, vec b)
    real horizontal_maximum(vec a)
    vec where(lane_ints mask, vec a)
    lane_ints first_lanes(Py_ssize_t count)
    vec load_strided(const real* x, Py_ssize_t step)
    void store_bytes(uint8_t* target, lane_ints value)
    lane_ints load_bytes(const uint8_t* source)
    lane_ints as_lanes(vec a)
    vec as_numbers(lane_ints a)
    lane_ints beats(vec a, vec b, lane_ints place, lane_ints other)
    void transpose(vec* corner)
    void store_transposed(
        vec* corner, real* to, Py_ssize_t pitch, Py_ssize_t lanes, Py_ssize_t count, bint accumulate)
