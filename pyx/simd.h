/* The two types every kernel is written in, and the few operations on them.
 *
 * `real` is float or double: setup.py compiles each kernel once for either. `vec` is as many of
 * them as one register of the instruction set in use holds. It is the compiler's own vector type
 * (GCC and Clang), so the same source serves SSE2, AVX2, AVX-512 and NEON.
 */
#ifndef FASTCONV_SIMD_H
#define FASTCONV_SIMD_H

#include <stddef.h>
#include <stdint.h>

#if defined(FASTCONV_FLOAT32)
typedef float real;
typedef int32_t lane_int; /* an integer as wide as a real, so that a loop over both vectorises */
#elif defined(FASTCONV_FLOAT64)
typedef double real;
typedef int64_t lane_int;
#else
#error "compile with -DFASTCONV_FLOAT32 or -DFASTCONV_FLOAT64 (setup.py does)"
#endif

#if defined(__AVX512F__)
#define FASTCONV_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define FASTCONV_VECTOR_BYTES 32
#else
#define FASTCONV_VECTOR_BYTES 16
#endif

enum { LANES = FASTCONV_VECTOR_BYTES / sizeof(real) };

typedef real vec __attribute__((vector_size(FASTCONV_VECTOR_BYTES)));
/* The same, in memory of any alignment. */
typedef real vec_in_memory
    __attribute__((vector_size(FASTCONV_VECTOR_BYTES), aligned(sizeof(real)), may_alias));

static inline vec load(const real *source) { return *(const vec_in_memory *)source; }
static inline void store(real *target, vec value) { *(vec_in_memory *)target = value; }
/* x - 0 rather than x + 0: it keeps the sign of -0. */
static inline vec splat(real x) { return x - (vec){0}; }
static inline vec add(vec a, vec b) { return a + b; }
static inline vec subtract(vec a, vec b) { return a - b; }
/* sum + a * b, fused where the instruction set has it. */
static inline vec multiply_add(vec sum, vec a, vec b) { return sum + a * b; }
static inline real horizontal_sum(vec a)
{
    real sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += a[lane];
    return sum;
}

#endif
