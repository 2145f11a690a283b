"""The error function of every number of an array, for GELU: NumPy has none."""

from cython.parallel cimport prange

from signals cimport PyErr_CheckSignals
from simd cimport real

cdef extern from "math.h" nogil:
    double c_erf "erf"(double x)
    float c_erff "erff"(float x)

cdef enum:
    NUMBERS_BETWEEN_SIGNALS = 1 << 23  # about a quarter of a second


def erf(const real[::1] x, real[::1] out, int threads):
    """out = erf(x), elementwise. x (in), out (out)."""
    cdef Py_ssize_t i, first, last
    for first in range(0, x.shape[0], NUMBERS_BETWEEN_SIGNALS):
        last = min(x.shape[0], first + NUMBERS_BETWEEN_SIGNALS)
        with nogil:
            for i in prange(first, last, schedule="static", num_threads=threads):
                out[i] = c_erf(x[i]) if sizeof(real) == sizeof(double) else c_erff(<float> x[i])
        PyErr_CheckSignals()
