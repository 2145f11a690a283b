/* Exponential and normal distribution, a vector at a time. NaN goes through all of them.
 *
 * The polynomials were fitted at Chebyshev points with 50 digits. exp_negative is good to
 * 1 unit in the last place, sigmoid_of and tanh_of to 3, normal_below to 6 (1 + x^2 / 4): tests/
 * test_activation_accuracy.py holds them to it.
 */
#ifndef FASTCONV_ELEMENTARY_H
#define FASTCONV_ELEMENTARY_H

#include "simd.h"

#if defined(FASTCONV_FLOAT32)
#define EXP_LOWEST -104.0f      /* exp is 0 from here down */
#define ROUNDER 12582912.0f     /* 1.5 * 2^23: a number added to it is rounded to an integer */
#define MANTISSA_BITS 23
#define TWO_TO_64_BITS (127 + 64)
#define LN2_HIGH 0.693359375f   /* few bits: exact in products */
#define LN2_LOW -2.12194440e-4f
#define TANH_LOWEST -64.0f      /* far enough that exp(x) is nothing beside 1 */
#define NORMAL_TAIL 14.5f       /* P(X < -14.5) is 0 */
#define MILLS_FROM 4.0f
#define MILLS_TO 14.5f
static const real EXP_TERMS[] = {1.393373322e-3f, 8.363235385e-3f, 0.04166646417f, 0.1666657664f, 0.5f};
static const real MILLS_TERMS[] = {
    -4.499669669e-6f, -1.348692418e-5f, 7.310307882e-5f, 1.857762820e-4f, -1.294104636e-3f,
    -4.608938003e-4f, 0.02474306882f, -0.1162607256f, 0.3229452811f, -0.6301465878f, 0.9068412342f};
#else
#define EXP_LOWEST -746.0
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52 */
#define MANTISSA_BITS 52
#define TWO_TO_64_BITS (1023 + 64)
#define LN2_HIGH 6.93147180369123816490e-1
#define LN2_LOW 1.90821492927058770002e-10
#define TANH_LOWEST -64.0
#define NORMAL_TAIL 38.7
#define MILLS_FROM 5.0
#define MILLS_TO 39.0
static const real EXP_TERMS[] = {
    2.5105313423078522597e-8, 2.7620202631315898907e-7, 2.7557255168123061037e-6,
    2.4801521055364205099e-5, 1.9841269875003973789e-4, 1.3888888917368964054e-3,
    8.3333333333260825535e-3, 4.1666666666623815998e-2, 0.16666666666666671030, 0.5};
static const real MILLS_TERMS[] = {
    -1.1468931742692757911e-11, 1.7090479863491669445e-10, 2.7092480126379766788e-10,
    -2.1858160948268122219e-9, -3.4985258917078973768e-9, 1.8733394800769342377e-8,
    3.4827925686942661759e-8, -1.6031329219214867545e-7, -2.9512924837416754121e-7,
    1.5842623241549244699e-6, 1.8564825364729902828e-6, -1.7809851943653625459e-5,
    4.4711122775034632188e-6, 1.9322756600932802865e-4, -5.2435147085739724618e-4,
    -8.6274862009361414214e-4, 1.1065377990200251711e-2, -4.5972932975526668458e-2,
    0.12867006513544156324, -0.27721847210375635364, 0.48398989574979626364,
    -0.70122600866436613666, 0.85168964455883641527};
#endif
enum {
    EXP_COUNT = sizeof(EXP_TERMS) / sizeof(real),
    MILLS_COUNT = sizeof(MILLS_TERMS) / sizeof(real),
};

/* Highest power first. Odd and even powers are two chains: one alone is all waiting. */
static inline vec polynomial(const real *terms, int count, vec x)
{
    vec square = x * x, first = splat(terms[0]), second = splat(terms[1]);
    for (int i = 2; i + 1 < count; i += 2) {
        first = first * square + terms[i];
        second = second * square + terms[i + 1];
    }
    return count % 2 ? (first * square + terms[count - 1]) + second * x : first * x + second;
}

static inline lane_ints below(vec a, real b) { return a < b; }
static inline lane_ints differ(vec a, real b) { return a != b; }
/* At least `least`. */
static inline vec at_least(vec x, real least) { return choose(below(x, least), splat(least), x); }
static inline vec minus_magnitude(vec x)
{
    return (vec)((lane_ints)x | (lane_ints)splat(-(real)0));
}

#define TWO_TO_MINUS_64 (real)5.421010862427522e-20

/* exp(x - n ln 2) - 1 with n = x / ln 2 rounded, for x <= 0, and not far below EXP_LOWEST; and
 * 2^(n + 64), which is normal. */
static inline vec exp_parts(vec x, vec *power)
{
    vec rounded = x * (real)1.44269504088896340736 + ROUNDER;
    vec n = rounded - ROUNDER;
    vec r = (x - n * LN2_HIGH) - n * LN2_LOW;
    *power = (vec)(((lane_ints)rounded << MANTISSA_BITS) + ((lane_int)TWO_TO_64_BITS << MANTISSA_BITS));
    return polynomial(EXP_TERMS, EXP_COUNT, r) * (r * r) + r;
}
/* exp(x) for such x. Subnormal results are rounded once. */
static inline vec exp_in_range(vec x)
{
    vec power, small = exp_parts(x, &power);
    return (small + 1) * power * TWO_TO_MINUS_64;
}
/* exp(x) for x <= 0. */
static inline vec exp_negative(vec x) { return exp_in_range(at_least(x, EXP_LOWEST)); }

/* 1 / (1 + exp(-x)). */
static inline vec sigmoid_of(vec x)
{
    vec e = exp_negative(minus_magnitude(x));
    return choose(below(x, 0), e, splat(1)) / (1 + e);
}
/* The same, and its derivative, sigmoid(x) * sigmoid(-x), without cancellation. */
static inline vec sigmoid_and_slope(vec x, vec *slope)
{
    vec e = exp_negative(minus_magnitude(x));
    vec high_part = 1 / (1 + e), low_part = e * high_part;
    *slope = low_part * high_part;
    return choose(below(x, 0), low_part, high_part);
}

/* m / (2 - m) with m = 1 - exp(-2 abs(x)), which keeps the digits of a small x; and the sign of x. */
static inline vec tanh_of(vec x)
{
    lane_ints sign = (lane_ints)splat(-(real)0);
    vec power, small = exp_parts(at_least(2 * minus_magnitude(x), TANH_LOWEST), &power);
    vec scale = power * TWO_TO_MINUS_64;
    vec m = (1 - scale) - small * scale;
    return (vec)((lane_ints)(m / (2 - m)) | ((lane_ints)x & sign));
}

/* P(X < x) of a standard normal X, and exp(-x^2 / 2).
 *
 * P(X < -t) = exp(-t^2 / 2) * p(y) / (t + a) with y = ((1 + 2a/T) t - a) / (t + a), which maps
 * [0, T] to [-1, 1]: Mills' ratio is smooth in y. Exact in the lower tail, too, as far as t^2 is.
 */
static inline vec normal_below(vec x, vec *bell)
{
    vec t = -at_least(minus_magnitude(x), -NORMAL_TAIL);
    vec e = exp_in_range(t * t * (real)-0.5);
    vec inverse = 1 / (t + MILLS_FROM);
    vec y = (t * (real)(1 + 2 * MILLS_FROM / MILLS_TO) - MILLS_FROM) * inverse;
    vec tail = polynomial(MILLS_TERMS, MILLS_COUNT, y) * inverse * e;
    *bell = e;
    return choose(below(x, 0), tail, 1 - tail);
}

#endif
