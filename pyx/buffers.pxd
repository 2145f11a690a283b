"""Arrays as pointers. A memoryview argument takes 0.1 us, four times as long, of a tiny call's 3.

Arrays must be of the kernel's dtype and stay alive: the caller holds them. All but filters must be
C-contiguous.
"""

from cpython.buffer cimport PyBUF_ND, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer

from simd cimport real

cdef struct Batch:
    # Of images.
    real* start
    Py_ssize_t N, C, H, W


cdef struct Filters:
    # Weights of a convolution, of any strides: the distances from one to the next, in numbers.
    const real* start
    Py_ssize_t O, C, KH, KW
    Py_ssize_t per_filter, per_channel, per_row, per_col
    bint packed  # and if so, in the order of packing.pxd


cdef inline char* start_of(array) except NULL:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_ND)
    PyBuffer_Release(&view)
    return <char*> view.buf


cdef inline Batch batch_of(array) except *:
    """An array of four dimensions."""
    cdef Py_buffer view
    cdef Batch batch
    PyObject_GetBuffer(array, &view, PyBUF_ND)
    batch.start = <real*> view.buf
    batch.N, batch.C, batch.H, batch.W = view.shape[0], view.shape[1], view.shape[2], view.shape[3]
    PyBuffer_Release(&view)
    return batch


cdef inline Filters filters_of(array) except *:
    """An array of four dimensions."""
    cdef Py_buffer view
    cdef Filters w
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    w.start = <const real*> view.buf
    w.O, w.C, w.KH, w.KW = view.shape[0], view.shape[1], view.shape[2], view.shape[3]
    w.per_filter, w.per_channel = view.strides[0] // view.itemsize, view.strides[1] // view.itemsize
    w.per_row, w.per_col = view.strides[2] // view.itemsize, view.strides[3] // view.itemsize
    PyBuffer_Release(&view)
    w.packed = False
    return w


cdef inline const real* bias_of(array) except? NULL:
    """NULL for None."""
    if array is None:
        return NULL
    return <const real*> start_of(array)


cdef inline Py_ssize_t bytes_of(array) except -1:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_ND)
    PyBuffer_Release(&view)
    return view.len
