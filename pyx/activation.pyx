"""Activations, softmax and losses.

All arrays of a call have one shape and may have any: the kernels see them flat, or as rows. Work
items are blocks of fixed sizes; what is summed is summed a block at a time, and then over blocks
in order.
"""

from libc.math cimport log

from buffers cimport bytes_of, start_of
from elementary cimport (
    NORMAL_TAIL, at_least, below, differ, exp_negative, normal_below, sigmoid_and_slope, sigmoid_of,
    tanh_of,
)
from parallel cimport allocate, on_line, release, run_items
from simd cimport (
    LANES, above, add, choose, copy_run, first_lanes, horizontal_maximum, horizontal_sum, larger, load,
    load_some, misaligned, multiply_add, real, splat, store, store_some, subtract, vec, where,
)

cdef extern from *:
    """
    #include <float.h>
    #define LARGEST (sizeof(real) == 4 ? (real) FLT_MAX : (real) DBL_MAX)
    """
    real LARGEST

cdef enum:
    BLOCK = 1 << 12  # numbers: 16 or 32 KB, and sums of so many are added to a double
    BLOCKS_AN_ITEM = 4  # with one, 0.3 us of work, fetching items ate a third of what a second thread saves
    MACS_A_NUMBER = 32  # what takes as long as the slowest operation does
    RELU, RELU_GRADIENT, SIGMOID, SIGMOID_GRADIENT, TANH, TANH_GRADIENT, GELU, GELU_GRADIENT, SWISH
    SWISH_GRADIENT, SQUARED_ERROR, SCALED_DIFFERENCE
    SOFTMAX, SOFTMAX_GRADIENT, CROSS_ENTROPY, CROSS_ENTROPY_GRADIENT


cdef struct Operands:
    const real* x
    const real* y
    real* out
    real factor
    Py_ssize_t size, columns
    Py_ssize_t block, blocks  # numbers of each, and how many
    double count  # numbers, or rows, that a loss is a mean over
    double* sums  # of each block
    int op


cdef double run(int op, x, y, out, double factor, Py_ssize_t columns, int threads) except? -1:
    """Apply an operation to x, y and out (y and out may be None); the sum of its blocks' sums."""
    cdef Operands o
    cdef Py_ssize_t block, blocks, items
    cdef double total = 0, one = 0
    cdef char* memory = NULL
    cdef double* sums = &one
    o.x = <const real*> start_of(x)
    o.y = o.x if y is None else <const real*> start_of(y)
    o.out = NULL if out is None else <real*> start_of(out)
    o.size, o.columns, o.factor, o.op = bytes_of(x) // <Py_ssize_t> sizeof(real), columns, <real> factor, op
    o.count = <double> o.size / columns
    o.block = max(<Py_ssize_t> 1, BLOCK // columns) * columns
    blocks = (o.size + o.block - 1) // o.block
    if blocks > 1:
        memory = allocate(1, blocks * sizeof(double))
        sums = <double*> on_line(memory)
    o.sums, o.blocks = sums, blocks
    items = (blocks + BLOCKS_AN_ITEM - 1) // BLOCKS_AN_ITEM
    try:
        run_items(blocks_item, &o, items, <double> MACS_A_NUMBER * o.size, 0, threads)
        for block in range(blocks):
            total += sums[block]
    finally:
        release(memory)
    return total


cdef int blocks_item(const void* problem, Py_ssize_t item, char* scratch) noexcept nogil:
    cdef const Operands* o = <const Operands*> problem
    cdef Py_ssize_t block
    for block in range(item * BLOCKS_AN_ITEM, min(o.blocks, (item + 1) * BLOCKS_AN_ITEM)):
        o.sums[block] = apply(o.op, o, block * o.block, min(o.size, (block + 1) * o.block))
    return 0


cdef double apply(int op, const Operands* o, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Numbers first to last. Each operation has a loop of its own, with the choice made outside."""
    if op == RELU:
        return each(RELU, o, first, last)
    if op == RELU_GRADIENT:
        return each(RELU_GRADIENT, o, first, last)
    if op == SIGMOID:
        return each(SIGMOID, o, first, last)
    if op == SIGMOID_GRADIENT:
        return each(SIGMOID_GRADIENT, o, first, last)
    if op == TANH:
        return each(TANH, o, first, last)
    if op == TANH_GRADIENT:
        return each(TANH_GRADIENT, o, first, last)
    if op == GELU:
        return each(GELU, o, first, last)
    if op == GELU_GRADIENT:
        return each(GELU_GRADIENT, o, first, last)
    if op == SWISH:
        return each(SWISH, o, first, last)
    if op == SWISH_GRADIENT:
        return each(SWISH_GRADIENT, o, first, last)
    if op == SQUARED_ERROR:
        return each(SQUARED_ERROR, o, first, last)
    if op == SCALED_DIFFERENCE:
        return each(SCALED_DIFFERENCE, o, first, last)
    return each_row(op, o, first, last)


# ---- elementwise ---------------------------------------------------------------------------------

def relu(x, out, int threads):
    """out = max(x, 0); NaN stays. In all of this file: x and the like (in), out (out)."""
    run(RELU, x, None, out, 0, 1, threads)


def relu_gradient(dz, x, out, int threads):
    """out = dz where x > 0, else 0."""
    run(RELU_GRADIENT, x, dz, out, 0, 1, threads)


def sigmoid(x, out, int threads):
    """out = 1 / (1 + exp(-x))."""
    run(SIGMOID, x, None, out, 0, 1, threads)


def sigmoid_gradient(dz, a, out, int threads):
    """out = dz * a * (1 - a)."""
    run(SIGMOID_GRADIENT, a, dz, out, 0, 1, threads)


def tanh(x, out, int threads):
    """out = tanh(x)."""
    run(TANH, x, None, out, 0, 1, threads)


def tanh_gradient(dz, a, out, int threads):
    """out = dz * (1 - a^2)."""
    run(TANH_GRADIENT, a, dz, out, 0, 1, threads)


def gelu(x, out, int threads):
    """out = x * P(X <= x) for a standard normal X."""
    run(GELU, x, None, out, 0, 1, threads)


def gelu_gradient(dz, x, out, int threads):
    """out = dz * (P(X <= x) + x * p(x)), p the normal density."""
    run(GELU_GRADIENT, x, dz, out, 0, 1, threads)


def swish(x, double beta, out, int threads):
    """out = x * sigmoid(beta * x), 0 where the sigmoid is."""
    run(SWISH, x, None, out, beta, 1, threads)


def swish_gradient(dz, x, double beta, out, int threads):
    """out = dz * the derivative of `swish`; returns the gradient with respect to beta."""
    return run(SWISH_GRADIENT, x, dz, out, beta, 1, threads)


def squared_error(a, y, int threads):
    """The sum of (a - y)^2."""
    return run(SQUARED_ERROR, a, y, None, 0, 1, threads)


def scaled_difference(a, y, double factor, out, int threads):
    """out = (a - y) * factor."""
    run(SCALED_DIFFERENCE, a, y, out, factor, 1, threads)


cdef inline double each(const int op, const Operands* o, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef vec sums = splat(0), more = splat(0)
    cdef Py_ssize_t i = first
    cdef real x[LANES]
    cdef real y[LANES]
    if op != SWISH_GRADIENT and op != SQUARED_ERROR and i + LANES <= last and misaligned(o.out + i):
        # From here on no store crosses a cache line; what lies between is computed twice.
        result_of(op, o, o.x + i, o.y + i, o.out + i, &sums)
        i += LANES - misaligned(o.out + i)
    while i + 2 * LANES <= last:  # two in flight: one alone waits for its own results
        result_of(op, o, o.x + i, o.y + i, o.out + i, &sums)
        result_of(op, o, o.x + i + LANES, o.y + i + LANES, o.out + i + LANES, &more)
        i += 2 * LANES
    while i + LANES <= last:
        result_of(op, o, o.x + i, o.y + i, o.out + i, &sums)
        i += LANES
    if i < last:  # the last few, on a vector of their own
        store(x, load_some(o.x + i, last - i))
        store(y, load_some(o.y + i, last - i))
        result_of(op, o, x, y, x, &sums)
        if op != SQUARED_ERROR:
            copy_run(o.out + i, x, last - i)
    return <double> horizontal_sum(sums) + horizontal_sum(more)


cdef inline void result_of(
    const int op, const Operands* o, const real* at_x, const real* at_y, real* out, vec* sums,
) noexcept nogil:
    cdef vec x = load(at_x), y = load(at_y), one = splat(1), a, rest, steep
    if op == RELU:
        a = choose(below(x, 0), splat(0), x)
    elif op == RELU_GRADIENT:
        a = where(above(x, splat(0)), y)
    elif op == SIGMOID:
        a = sigmoid_of(x)
    elif op == SIGMOID_GRADIENT:
        a = y * (x * (one - x))
    elif op == TANH:
        a = tanh_of(x)
    elif op == TANH_GRADIENT:
        a = y * (one - x * x)
    elif op == GELU:
        a = normal_below(x, &rest)
        a = a * at_least(x, -NORMAL_TAIL)  # far below zero the factor is 0, and so is the result
    elif op == GELU_GRADIENT:
        a = normal_below(x, &rest)
        x = choose(above(x, splat(NORMAL_TAIL)), splat(NORMAL_TAIL), at_least(x, -NORMAL_TAIL))
        a = y * (a + x * rest * splat(<real> 0.39894228040143267794))
    elif op == SWISH:
        a = sigmoid_of(x * splat(o.factor))
        a = where(differ(a, 0), x * a)
    elif op == SWISH_GRADIENT:
        a = sigmoid_and_slope(x * splat(o.factor), &rest)
        steep = where(differ(rest, 0), x * rest)
        a = y * (a + steep * splat(o.factor))
        sums[0] = sums[0] + y * where(differ(steep, 0), x * steep)
    elif op == SQUARED_ERROR:
        a = x - y
        sums[0] = multiply_add(sums[0], a, a)
        return
    else:
        a = (x - y) * splat(o.factor)
    store(out, a)


# ---- rows ----------------------------------------------------------------------------------------

def softmax(x, out, Py_ssize_t columns, int threads):
    """out = exp(x) / sum of exp(x) over each row of so many columns, shifted by its maximum."""
    run(SOFTMAX, x, None, out, 0, columns, threads)


def softmax_gradient(dz, a, out, Py_ssize_t columns, int threads):
    """out = a * (dz - sum of dz * a over each row)."""
    run(SOFTMAX_GRADIENT, a, dz, out, 0, columns, threads)


def cross_entropy(x, y, Py_ssize_t columns, int threads):
    """Minus the sum of y * log(softmax(x)), mean over the rows. It is finite where x is."""
    return run(CROSS_ENTROPY, x, y, None, 0, columns, threads)


def cross_entropy_gradient(x, y, out, Py_ssize_t columns, int threads):
    """out = (softmax(x) - y) / rows."""
    run(CROSS_ENTROPY_GRADIENT, x, y, out, 0, columns, threads)


cdef double each_row(int op, const Operands* o, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t i = first
    while i < last:
        if op == SOFTMAX:
            softmax_row(SOFTMAX, o, i, last)
        elif op == CROSS_ENTROPY_GRADIENT:
            softmax_row(CROSS_ENTROPY_GRADIENT, o, i, last)
        elif op == SOFTMAX_GRADIENT:
            softmax_gradient_row(o, i, last)
        else:
            total += cross_entropy_row(o, i)
        i += o.columns
    return total


cdef inline real maximum(const real* x, Py_ssize_t columns, Py_ssize_t readable) noexcept nogil:
    """Of a row. NaN is passed over: it makes itself known in the sum of exponentials."""
    cdef vec best = splat(x[0]), more = best
    cdef Py_ssize_t i = 0
    while i + 2 * LANES <= columns:
        best = larger(load(x + i), best)
        more = larger(load(x + i + LANES), more)
        i += 2 * LANES
    while i < columns:
        best = choose(first_lanes(min(<Py_ssize_t> LANES, columns - i)),
                      larger(load_some(x + i, readable - i), best), best)
        i += LANES
    return horizontal_maximum(larger(best, more))


cdef inline void softmax_row(const int op, const Operands* o, Py_ssize_t at, Py_ssize_t last) noexcept nogil:
    """The row at `at`. It may write over the rows behind it, up to `last`: they are yet to come."""
    cdef const real* x = o.x + at
    cdef const real* y = o.y + at
    cdef real* out = o.out + at
    cdef Py_ssize_t i = 0, readable = o.size - at, rest
    cdef vec top = splat(maximum(x, o.columns, readable)), sums = splat(0), a, scale
    cdef vec scale_rows = splat(<real> (1 / o.count))
    cdef double total = 0
    while i < o.columns:
        rest = o.columns - i
        a = exp_negative(subtract(load_some(x + i, readable - i), top))
        store_some(out + i, a, last - at - i)
        if rest < LANES:
            a = where(first_lanes(rest), a)
        sums = add(sums, a)
        i += LANES
        if i % BLOCK == 0:
            total += horizontal_sum(sums)
            sums = splat(0)
    scale = splat(<real> (1 / (total + horizontal_sum(sums))))
    i = 0
    while i < o.columns:
        rest = o.columns - i
        a = load_some(out + i, last - at - i) * scale
        if op == CROSS_ENTROPY_GRADIENT:
            a = (a - load_some(y + i, readable - i)) * scale_rows
        store_some(out + i, a, last - at - i)
        i += LANES


cdef inline void softmax_gradient_row(const Operands* o, Py_ssize_t at, Py_ssize_t last) noexcept nogil:
    cdef const real* a = o.x + at
    cdef const real* dz = o.y + at
    cdef vec sums = splat(0), more = splat(0), inner
    cdef double total = 0
    cdef Py_ssize_t i = 0, readable = o.size - at, rest
    while i + 2 * LANES <= o.columns:
        sums = multiply_add(sums, load(a + i), load(dz + i))
        more = multiply_add(more, load(a + i + LANES), load(dz + i + LANES))
        i += 2 * LANES
        if i % BLOCK == 0:
            total += horizontal_sum(sums)
            sums = splat(0)
    while i < o.columns:
        rest = o.columns - i
        inner = load_some(a + i, readable - i) * load_some(dz + i, readable - i)
        sums = add(sums, where(first_lanes(min(<Py_ssize_t> LANES, rest)), inner))
        i += LANES
    inner = splat(<real> (total + horizontal_sum(add(sums, more))))
    i = 0
    while i < o.columns:
        rest = o.columns - i
        store_some(o.out + at + i,
                   load_some(a + i, readable - i) * (load_some(dz + i, readable - i) - inner),
                   last - at - i)
        i += LANES


cdef inline double cross_entropy_row(const Operands* o, Py_ssize_t at) noexcept nogil:
    """With d = x - max(x): the sum of y * (log(sum of exp(d)) - d), over the number of rows."""
    cdef const real* x = o.x + at
    cdef const real* y = o.y + at
    cdef Py_ssize_t i = 0, readable = o.size - at, rest
    cdef vec top = splat(maximum(x, o.columns, readable))
    cdef vec sums = splat(0), labels = splat(0), products = splat(0), d, e, label
    cdef double total = 0, all_labels = 0, product = 0
    while i < o.columns:
        rest = o.columns - i
        # A difference beyond the range of the dtype would be -inf, and times a zero of y a NaN.
        d = at_least(subtract(load_some(x + i, readable - i), top), -LARGEST)
        label = load_some(y + i, readable - i)
        e = exp_negative(d)
        if rest < LANES:
            e, label = where(first_lanes(rest), e), where(first_lanes(rest), label)
            d = where(first_lanes(rest), d)
        sums = add(sums, e)
        labels = add(labels, label)
        products = multiply_add(products, label, d)
        i += LANES
        if i % BLOCK == 0 or i >= o.columns:
            total += horizontal_sum(sums)
            all_labels += horizontal_sum(labels)
            product += horizontal_sum(products)
            sums, labels, products = splat(0), splat(0), splat(0)
    return all_labels / o.count * log(total) - product / o.count
