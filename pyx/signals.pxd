"""Ctrl-C in a long call: kernels run in portions, and look at pending signals between them."""

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    # Under half a second of multiply-adds on the slowest level, or of numbers read.
    MACS_BETWEEN_SIGNALS = 1 << 30
    READS_BETWEEN_SIGNALS = 1 << 28


cdef inline Py_ssize_t items_until_signals(Py_ssize_t items, double macs) noexcept nogil:
    """How many of the items, which take so many multiply-adds together, to run at once."""
    cdef double share = MACS_BETWEEN_SIGNALS / max(macs, 1.0)
    return max(<Py_ssize_t> 1, <Py_ssize_t> (items * min(share, 1.0)))
