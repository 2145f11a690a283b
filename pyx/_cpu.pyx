"""What this processor can run, and how the kernels were compiled.

Compiled for the baseline alone: it must load anywhere, since it decides which of the other
modules may be loaded at all. (Merely initialising a module compiled for instructions that the
processor lacks can kill the process.)
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_New

cdef extern from *:
    """
    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    /* Also true only where the operating system saves the registers. */
    #define HAS_V3 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") \
                    && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
    #define HAS_V4 (HAS_V3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") \
                    && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") \
                    && __builtin_cpu_supports("avx512vl"))
    #define CPU_INIT() __builtin_cpu_init()
    #else
    #define HAS_V3 0
    #define HAS_V4 0
    #define CPU_INIT() ((void)0)
    #endif

    #if defined(__clang__)
    #define COMPILER __VERSION__
    #elif defined(__GNUC__)
    #define COMPILER "GCC " __VERSION__
    #else
    #define COMPILER "unknown"
    #endif

    #if defined(_OPENMP)
    #include <omp.h>
    #define HAS_OPENMP 1
    #define OPENMP_THREADS() omp_get_max_threads()
    #else
    #define HAS_OPENMP 0
    #define OPENMP_THREADS() 1
    #endif
    """
    void CPU_INIT()
    bint HAS_V3, HAS_V4, HAS_OPENMP
    const char* COMPILER
    int OPENMP_THREADS()


cdef extern from "scratch.h":
    enum:
        WATCHED
    ctypedef struct Kept:
        int off

cdef Kept blocks
# Python itself keeps no memory then.
blocks.off = WATCHED or os.environ.get("PYTHONMALLOC", "").startswith("malloc")
kept_blocks = PyCapsule_New(&blocks, "fastconv._kernels._cpu.kept_blocks", NULL)


def levels():
    """The instruction-set levels that this processor and operating system can run, lowest first."""
    CPU_INIT()
    found = ["baseline"]
    if HAS_V3:
        found.append("x86-64-v3")
    if HAS_V4:
        found.append("x86-64-v4")
    return found


def compiler():
    """Name and version of the compiler that built the kernels."""
    return COMPILER.decode()


def has_openmp():
    """Whether the kernels were built with OpenMP."""
    return bool(HAS_OPENMP)


def default_threads():
    """Threads that OpenMP would use: OMP_NUM_THREADS, else the processors this process may run on."""
    return OPENMP_THREADS()


def address(array):
    """Of the first number of a contiguous array. (NumPy's own way takes 3 us.)"""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    PyBuffer_Release(&view)
    return <size_t> view.buf
