"""What the machine can do at most: multiply-adds in registers, and copying. `fastconv bench` measures
against it; no layer uses it.
"""

from buffers cimport bytes_of, start_of
from parallel cimport run_items
from simd cimport LANES, horizontal_sum, load, multiply_add, real, splat, store, vec

cdef enum:
    # Two units with a latency of 4 or 5 cycles want 10 sums in flight; 12 fit 16 registers.
    CHAINS = 12


cdef struct Probe:
    const real* source
    real* target
    Py_ssize_t size, times, parts


def multiply_adds(out, Py_ssize_t rounds, int threads):
    """On each thread `rounds` times 12 vectors of independent multiply-adds. Returns the operations.

    out (out) is (threads,): what they come to, so that no compiler can leave them out.
    """
    cdef Probe p
    p.target, p.times, p.parts = <real*> start_of(out), rounds, bytes_of(out) // <Py_ssize_t> sizeof(real)
    run_items(chains_item, &p, p.parts, 0, 0, threads)
    return 2 * CHAINS * LANES * rounds * p.parts


cdef int chains_item(const void* problem, Py_ssize_t part, char* scratch) noexcept nogil:
    cdef const Probe* p = <const Probe*> problem
    p.target[part] = chains(p.times)
    return 0


cdef real chains(Py_ssize_t rounds) noexcept nogil:
    # x = x * 0.75 + 0.25 tends to 1 from anywhere: no overflow, no subnormals. (A product that did
    # not change from round to round would be moved out of the loop.)
    cdef vec factor = splat(<real> 0.75), term = splat(<real> 0.25)
    cdef vec x[CHAINS]
    cdef Py_ssize_t chain, _i
    cdef real total = 0
    for chain in range(CHAINS):
        x[chain] = splat(<real> chain)
    for _i in range(rounds):
        for chain in range(CHAINS):
            x[chain] = multiply_add(term, x[chain], factor)
    for chain in range(CHAINS):
        total += horizontal_sum(x[chain])
    return total


def copy(source, target, Py_ssize_t times, int threads):
    """target = source, `times` times, each thread its own part. source (in), target (out)."""
    cdef Probe p
    p.source, p.target = <const real*> start_of(source), <real*> start_of(target)
    p.size, p.times, p.parts = bytes_of(source) // <Py_ssize_t> sizeof(real), times, threads
    run_items(copy_item, &p, p.parts, 0, 0, threads)


cdef int copy_item(const void* problem, Py_ssize_t part, char* scratch) noexcept nogil:
    cdef const Probe* p = <const Probe*> problem
    cdef Py_ssize_t first = p.size * part // p.parts
    copy_part(p.source + first, p.target + first, p.size * (part + 1) // p.parts - first, p.times)
    return 0


cdef void copy_part(
    const real* source, real* target, Py_ssize_t size, Py_ssize_t times,
) noexcept nogil:
    cdef Py_ssize_t _turn, i
    for _turn in range(times):
        i = 0
        while i + LANES <= size:
            store(target + i, load(source + i))
            i += LANES
        while i < size:
            target[i] = source[i]
            i += 1
