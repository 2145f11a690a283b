"""The functions of elementary.h as Cython sees them."""

from simd cimport lane_ints, real, vec

cdef extern from "elementary.h" nogil:
    real NORMAL_TAIL

    lane_ints below(vec a, real b)
    lane_ints differ(vec a, real b)
    vec at_least(vec x, real least)
    vec exp_negative(vec x)
    vec sigmoid_of(vec x)
    vec sigmoid_and_slope(vec x, vec* slope)
    vec tanh_of(vec x)
    vec normal_below(vec x, vec* bell)
