"""How every kernel runs: a function of work items, on threads.

What a result is summed from, and in which order, depends on the problem alone, never on the number of
threads: so results are the same bits on any number. Items run in portions, with a look at pending signals
between them (Ctrl-C in a long call), and each thread has a piece of scratch memory of its own (scratch.h).
"""

from cython.parallel cimport prange, threadid

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from "scratch.h" nogil:
    enum:
        CACHE_LINE
        GAP
        STACK_SCRATCH
    void forbid(char* memory, Py_ssize_t size)
    void allow(char* memory, Py_ssize_t size)
    ctypedef struct Kept:
        pass

cdef extern from "scratch.h":
    Kept* kept_blocks() except NULL
    char* take_block(Kept* kept, size_t size)
    void keep_block(Kept* kept, char* memory)

# Does one item; returns what is to be added up over all of them.
ctypedef int (*Item)(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil

cdef enum:
    # Under half a second on the slowest level.
    MACS_BETWEEN_SIGNALS = 1 << 30


cdef inline Py_ssize_t round_to_line(Py_ssize_t size) noexcept nogil:
    """Bytes that a piece of so many takes, on cache lines of its own."""
    return (size + GAP + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


cdef inline char* on_line(char* memory) noexcept nogil:
    return <char*> ((<Py_ssize_t> memory + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE)


cdef inline char* allocate(Py_ssize_t pieces, Py_ssize_t size) except NULL:
    """Memory for so many pieces, each on cache lines of its own; `on_line` finds the first. `release` it."""
    cdef char* memory = take_block(kept_blocks(), pieces * round_to_line(size) + CACHE_LINE)
    cdef char* piece
    cdef Py_ssize_t _i
    if memory == NULL:
        raise MemoryError(f"no memory for {pieces} x {size} bytes of scratch")
    piece = on_line(memory)
    forbid(memory, piece - memory)
    for _i in range(pieces):
        carve(&piece, size)
    return memory


cdef inline void release(char* memory) except *:
    """What `allocate` has given, or NULL."""
    if memory != NULL:
        keep_block(kept_blocks(), memory)


cdef inline char* carve(char** scratch, Py_ssize_t size) noexcept nogil:
    """The next `size` bytes of a piece."""
    cdef char* taken = scratch[0]
    scratch[0] += round_to_line(size)
    forbid(taken + size, round_to_line(size) - size)
    return taken


cdef inline int do_item(
    Item work, const void* problem, Py_ssize_t item, char* scratch, Py_ssize_t size,
) noexcept nogil:
    allow(scratch, size)  # another item may have carved it in other ways
    return work(problem, item, scratch)


cdef inline Py_ssize_t run_items(
    Item work, const void* problem, Py_ssize_t items, double macs, Py_ssize_t size, int threads,
) except -1:
    """Run `items` items, which take so many multiply-adds together and `size` bytes of scratch each."""
    cdef Py_ssize_t first, last, item, total = 0
    # Items between two looks at signals.
    cdef Py_ssize_t step = max(
        <Py_ssize_t> 1, <Py_ssize_t> (items * min(MACS_BETWEEN_SIGNALS / max(macs, 1.0), 1.0))
    )
    cdef char small[STACK_SCRATCH + CACHE_LINE]
    cdef char* memory = NULL
    cdef char* scratch
    threads = <int> min(<Py_ssize_t> threads, items)
    if threads > 1 or size > STACK_SCRATCH:
        memory = allocate(max(1, threads), size)
    scratch = on_line(memory if memory != NULL else small)
    try:
        for first in range(0, items, step):
            last = min(items, first + step)
            with nogil:
                if threads == 1:  # OpenMP would take 0.4 us to run nothing in parallel
                    for item in range(first, last):
                        total += do_item(work, problem, item, scratch, size)
                else:
                    # Static: what a thread has written in one run of items, or in one layer, lies in its
                    # own cache in the next. (Two threads, against dynamic portions: 1.04 to 1.08 times as
                    # fast over all benchmarks; Winograd, whose runs follow each other, 1.04 to 1.26 times.)
                    for item in prange(first, last, schedule="static", num_threads=threads):
                        total += do_item(
                            work, problem, item, scratch + threadid() * round_to_line(size), size
                        )
            PyErr_CheckSignals()
    finally:
        release(memory)
    return total
