"""Scratch memory: one allocation a call, cut into a piece for each thread."""

from libc.stdlib cimport free, malloc

cdef enum:
    CACHE_LINE = 64


cdef inline Py_ssize_t round_to_line(Py_ssize_t size) noexcept nogil:
    return (size + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


cdef inline char* allocate(Py_ssize_t pieces, Py_ssize_t size) except NULL:
    cdef char* scratch = <char*> malloc(pieces * round_to_line(size) + CACHE_LINE)
    if scratch == NULL:
        raise MemoryError(f"no memory for {pieces} x {size} bytes of scratch")
    return scratch


cdef inline char* piece_of(char* scratch, Py_ssize_t size, Py_ssize_t piece) noexcept nogil:
    """The piece-th piece of an allocation, on a cache line of its own."""
    return <char*> round_to_line(<Py_ssize_t> scratch) + piece * round_to_line(size)


cdef inline char* carve(char** scratch, Py_ssize_t size) noexcept nogil:
    """The next `size` bytes of a piece."""
    cdef char* taken = scratch[0]
    scratch[0] += round_to_line(size)
    return taken
