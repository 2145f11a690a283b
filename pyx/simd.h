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
#if defined(__AVX2__)
#include <immintrin.h>
#endif

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

enum { LANES = FASTCONV_VECTOR_BYTES / sizeof(real), LANES_LOG2 = __builtin_ctz(FASTCONV_VECTOR_BYTES / sizeof(real)) };

/* That hold vectors, and that the compiler puts to use: NEON has 32, too, but of a tile with 24 sums GCC 12
 * kept five in memory there, and Clang 14 nine on AVX-512. */
#if defined(__AVX512F__) && !defined(__clang__)
enum { REGISTERS = 32 };
#else
enum { REGISTERS = 16 };
#endif

typedef real vec __attribute__((vector_size(FASTCONV_VECTOR_BYTES)));
/* The same, in memory of any alignment. */
typedef real vec_in_memory
    __attribute__((vector_size(FASTCONV_VECTOR_BYTES), aligned(sizeof(real)), may_alias));

static inline vec load(const real *source) { return *(const vec_in_memory *)source; }
static inline void store(real *target, vec value) { *(vec_in_memory *)target = value; }
/* Into the second-level cache, ahead of its use. (A macro, and always inline: to GCC 12 such a function does
 * nothing, and where it is not inlined early, calls of it are left out.) */
#define prefetch(source) __builtin_prefetch(source, 0, 2)
static inline __attribute__((always_inline)) void prefetch_run(const real *source, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i += 64 / (ptrdiff_t)sizeof(real))
        prefetch(source + i);
}
/* x - 0 rather than x + 0: it keeps the sign of -0. */
static inline vec splat(real x) { return x - (vec){0}; }
static inline vec add(vec a, vec b) { return a + b; }
static inline vec subtract(vec a, vec b) { return a - b; }
/* Not Cython's own division: with checks on, it would compare the vector to 0. */
static inline vec divide(vec a, vec b) { return a / b; }
/* sum + a * b, fused where the instruction set has it. */
static inline vec multiply_add(vec sum, vec a, vec b) { return sum + a * b; }
#if FASTCONV_VECTOR_BYTES == 16 && defined(FASTCONV_FLOAT64)
#define FASTCONV_LANES(f, b) f(0, b), f(1, b)
#define FASTCONV_EVEN 0, 2
#define FASTCONV_ODD 1, 3
#define FASTCONV_LOW 0, 2
#define FASTCONV_HIGH 1, 3
#elif FASTCONV_VECTOR_BYTES == 16 || (FASTCONV_VECTOR_BYTES == 32 && defined(FASTCONV_FLOAT64))
#define FASTCONV_LANES(f, b) f(0, b), f(1, b), f(2, b), f(3, b)
#define FASTCONV_EVEN 0, 2, 4, 6
#define FASTCONV_ODD 1, 3, 5, 7
#define FASTCONV_LOW 0, 4, 1, 5
#define FASTCONV_HIGH 2, 6, 3, 7
#elif FASTCONV_VECTOR_BYTES == 32 || defined(FASTCONV_FLOAT64)
#define FASTCONV_LANES(f, b) \
    f(0, b), f(1, b), f(2, b), f(3, b), f(4, b), f(5, b), f(6, b), f(7, b)
#define FASTCONV_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define FASTCONV_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define FASTCONV_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define FASTCONV_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define FASTCONV_LANES(f, b)                                                   \
    f(0, b), f(1, b), f(2, b), f(3, b), f(4, b), f(5, b), f(6, b), f(7, b),    \
    f(8, b), f(9, b), f(10, b), f(11, b), f(12, b), f(13, b), f(14, b), f(15, b)
#define FASTCONV_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define FASTCONV_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define FASTCONV_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define FASTCONV_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif

/* As many integers, each as wide as a real: what comparing two `vec` gives, all bits set for true. */
typedef lane_int lane_ints __attribute__((vector_size(FASTCONV_VECTOR_BYTES)));
typedef lane_int lane_ints_in_memory
    __attribute__((vector_size(FASTCONV_VECTOR_BYTES), aligned(sizeof(lane_int)), may_alias));

#if defined(__clang__)
#define FASTCONV_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FASTCONV_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lane_ints){__VA_ARGS__})
#endif

/* Of a and b one after the other: the numbers in even places, and those in odd places. */
static inline vec even(vec a, vec b) { return FASTCONV_SHUFFLE(a, b, FASTCONV_EVEN); }
static inline vec odd(vec a, vec b) { return FASTCONV_SHUFFLE(a, b, FASTCONV_ODD); }
/* Pair by pair, in LANES_LOG2 steps. */
static inline real horizontal_sum(vec a)
{
    for (int step = 0; step < LANES_LOG2; step++)
        a = even(a, a) + odd(a, a);
    return a[0];
}
/* a[0], b[0], a[1], b[1], ...: the first LANES of these, and the last. */
static inline vec low(vec a, vec b) { return FASTCONV_SHUFFLE(a, b, FASTCONV_LOW); }
static inline vec high(vec a, vec b) { return FASTCONV_SHUFFLE(a, b, FASTCONV_HIGH); }

/* Exchange the rows and columns of LANES vectors: first blocks of one number, then of two, four, ...
 * On AVX2 that is one or two instructions a pair, where `low` and `high` take two each. */
#define FASTCONV_UPPER(k, b) ((k) & (b) ? LANES + (k) - (b) : (k))
#define FASTCONV_LOWER(k, b) ((k) & (b) ? LANES + (k) : ((k) + (b)) % (2 * LANES))
#define FASTCONV_EXCHANGE(b)                                                                   \
    for (int i = 0; LANES > b && i < LANES; i++)                                               \
        if (!(i & b)) {                                                                        \
            vec upper = corner[i], lower = corner[(i + b) % LANES];                            \
            corner[i] = FASTCONV_SHUFFLE(upper, lower, FASTCONV_LANES(FASTCONV_UPPER, b));     \
            corner[(i + b) % LANES] =                                                          \
                FASTCONV_SHUFFLE(upper, lower, FASTCONV_LANES(FASTCONV_LOWER, b));             \
        }
static inline void transpose(vec *corner)
{
    FASTCONV_EXCHANGE(1)
    FASTCONV_EXCHANGE(2)
    FASTCONV_EXCHANGE(4)
    FASTCONV_EXCHANGE(8)
}

/* Numbers since the last address that is a multiple of a vector's size. */
static inline ptrdiff_t misaligned(const real *at)
{
    return (ptrdiff_t)((uintptr_t)at % FASTCONV_VECTOR_BYTES / sizeof(real));
}

/* `count` numbers, 0 to LANES, and then zeros; nothing beyond is read or written. (AddressSanitizer does not
 * see into masked instructions.) */
#if defined(__AVX512F__) && !defined(__SANITIZE_ADDRESS__)
#define FASTCONV_FIRST(count) ((1u << (count)) - 1)
#if defined(FASTCONV_FLOAT32)
static inline vec load_first(const real *source, ptrdiff_t count)
{
    return (vec)_mm512_maskz_loadu_ps((__mmask16)FASTCONV_FIRST(count), source);
}
static inline void store_first(real *target, vec value, ptrdiff_t count)
{
    _mm512_mask_storeu_ps(target, (__mmask16)FASTCONV_FIRST(count), (__m512)value);
}
#else
static inline vec load_first(const real *source, ptrdiff_t count)
{
    return (vec)_mm512_maskz_loadu_pd((__mmask8)FASTCONV_FIRST(count), source);
}
static inline void store_first(real *target, vec value, ptrdiff_t count)
{
    _mm512_mask_storeu_pd(target, (__mmask8)FASTCONV_FIRST(count), (__m512d)value);
}
#endif
#undef FASTCONV_FIRST
static inline void copy_few(real *to, const real *from, ptrdiff_t count)
{
    store_first(to, load_first(from, count), count);
}
#else
static inline void copy_few(real *to, const real *from, ptrdiff_t count)
{
#define FASTCONV_COPY(n)                                   \
    if (LANES > n && (count & n)) {                        \
        __builtin_memcpy(to, from, n * sizeof(real));      \
        to += n, from += n;                                \
    }
    FASTCONV_COPY(8)
    FASTCONV_COPY(4)
    FASTCONV_COPY(2)
    FASTCONV_COPY(1)
#undef FASTCONV_COPY
}
static inline vec load_first(const real *source, ptrdiff_t count)
{
    vec some = {0};
    for (ptrdiff_t lane = 0; lane < count; lane++)
        some[lane] = source[lane];
    return some;
}
static inline void store_first(real *target, vec value, ptrdiff_t count)
{
    real lanes[LANES];
    store(lanes, value);
    copy_few(target, lanes, count);
}
#endif

/* Copy `count` numbers between places that do not overlap. Rows of images are mostly short, and a
 * call of memcpy takes longer than this. */
static inline void copy_run(real *to, const real *from, ptrdiff_t count)
{
    if (count >= LANES) {
        ptrdiff_t i = 0;
        for (; i <= count - LANES; i += LANES)
            store(to + i, load(from + i));
        store(to + count - LANES, load(from + count - LANES));
        return;
    }
    copy_few(to, from, count);
}

/* The first `readable` numbers and then zeros, or LANES of them. */
static inline vec load_some(const real *source, ptrdiff_t readable)
{
    return readable >= LANES ? load(source) : load_first(source, readable > 0 ? readable : 0);
}
/* The first `count` lanes, or all, or none. */
static inline void store_some(real *target, vec value, ptrdiff_t count)
{
    if (count >= LANES)
        store(target, value);
    else if (count > 0)
        store_first(target, value, count);
}

/* to[lane * pitch + i] = corner[i][lane], or += it, for lane < lanes and i < count. It exchanges the
 * corner. */
static inline void store_transposed(
    vec *corner, real *to, ptrdiff_t pitch, ptrdiff_t lanes, ptrdiff_t count, int accumulate)
{
    transpose(corner);
    for (ptrdiff_t lane = 0; lane < lanes; lane++, to += pitch)
        store_some(to, accumulate ? load_some(to, count) + corner[lane] : corner[lane], count);
}

/* ---- choices, lane by lane ---- */

static inline lane_ints load_lanes(const lane_int *source) { return *(const lane_ints_in_memory *)source; }
static inline void store_lanes(lane_int *target, lane_ints value) { *(lane_ints_in_memory *)target = value; }
static inline lane_ints splat_lane(lane_int x) { return x - (lane_ints){0}; }
static inline lane_ints add_lanes(lane_ints a, lane_ints b) { return a + b; }
static inline lane_ints same_lanes(lane_ints a, lane_ints b) { return a == b; }
static inline lane_ints above(vec a, vec b) { return a > b; }
/* The same, and true for a NaN that meets a number. */
static inline lane_ints above_or_nan(vec a, vec b) { return ~(a <= b) & (b == b); }
/* a where the mask is set, else b. GCC makes a blend of it. */
static inline lane_ints choose_lanes(lane_ints mask, lane_ints a, lane_ints b)
{
    return (mask & a) | (~mask & b);
}
static inline vec choose(lane_ints mask, vec a, vec b)
{
    return (vec)choose_lanes(mask, (lane_ints)a, (lane_ints)b);
}
static inline lane_ints as_lanes(vec a) { return (lane_ints)a; }
static inline vec as_numbers(lane_ints a) { return (vec)a; }
/* a is above b, NaN above all, or neither is and its place comes first. */
static inline lane_ints beats(vec a, vec b, lane_ints place, lane_ints other)
{
    return above_or_nan(a, b) | (~above_or_nan(b, a) & (place < other));
}
static inline vec larger(vec a, vec b) { return choose(a > b, a, b); }
static inline real horizontal_maximum(vec a)
{
    for (int step = 0; step < LANES_LOG2; step++)
        a = larger(even(a, a), odd(a, a));
    return a[0];
}
static inline vec where(lane_ints mask, vec a) { return (vec)(mask & (lane_ints)a); }
/* True in the first `count` lanes (0 to LANES). */
static inline lane_ints first_lanes(ptrdiff_t count)
{
    static const lane_int set[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    return load_lanes(set + 16 - count);
}
/* x[0], x[step], ...: LANES of them, for any step, and reading up to x[LANES * 2] for a step of 2. */
static inline vec load_strided(const real *x, ptrdiff_t step)
{
    vec lanes;
    if (step == 1)
        return load(x);
    if (step == 2)
        return even(load(x), load(x + LANES));
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = x[lane * step];
    return lanes;
}

/* LANES integers from 0 to 255 as as many bytes in memory. */
typedef uint8_t lane_bytes __attribute__((vector_size(FASTCONV_VECTOR_BYTES / sizeof(real))));
static inline void store_bytes(uint8_t *target, lane_ints value)
{
    lane_bytes bytes = __builtin_convertvector(value, lane_bytes);
    __builtin_memcpy(target, &bytes, LANES);
}
/* (GCC 12 would convert them one by one.) */
static inline lane_ints load_bytes(const uint8_t *source)
{
#if defined(__AVX2__)
    __m128i low = {0};
    __builtin_memcpy(&low, source, LANES);
#else
    lane_bytes bytes;
    __builtin_memcpy(&bytes, source, LANES);
#endif
#if defined(__AVX512F__) && defined(FASTCONV_FLOAT32)
    return (lane_ints)_mm512_cvtepu8_epi32(low);
#elif defined(__AVX512F__)
    return (lane_ints)_mm512_cvtepu8_epi64(low);
#elif defined(__AVX2__) && defined(FASTCONV_FLOAT32)
    return (lane_ints)_mm256_cvtepu8_epi32(low);
#elif defined(__AVX2__)
    return (lane_ints)_mm256_cvtepu8_epi64(low);
#else
    return __builtin_convertvector(bytes, lane_ints);
#endif
}

#endif
