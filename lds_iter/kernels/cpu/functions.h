// exp, sigmoid and tanh of W numbers at once, without branches, to 2 units in the last place; inf and NaN come through.
// Coefficients: S. L. Moshier, Cephes Mathematical Library (exp of floats, both tanh); the double exp is Taylor's series.
#pragma once
#include <cmath>

#include "lanes.h"

template <class T, int W> struct Math;

template <int W> struct Math<float, W> {
    using V = Vec<float, W>;
    using Bits = Vec<uint32_t, W>;
    static constexpr uint32_t SIGN = 1u << 31;
    static constexpr float LEAST = -87, MOST = 89;

    // exp(x) for x from LEAST, whose exp is normal, to MOST, whose exp is inf.
    static inline V exp_between(V x) {
        const V shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number, in the last bits
        const V whole = shifted - 12582912.0f;
        V r = x - whole * 0.693359375f;
        r = r + whole * 2.12194440e-4f;
        V p = V{} + 1.9875691500e-4f;
        p = p * r + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = p * (r * r) + r + 1.0f;
        return p * (V)(((Bits)shifted << 23) + (127u << 23));
    }

    static inline V small_tanh(V x) {
        const V y = x * x;
        V p = V{} - 5.70498872745e-3f;
        p = p * y + 2.06390887954e-2f;
        p = p * y - 5.37397155531e-2f;
        p = p * y + 1.33314422036e-1f;
        p = p * y - 3.33332819422e-1f;
        return p * y * x + x;
    }
};

template <int W> struct Math<double, W> {
    using V = Vec<double, W>;
    using Bits = Vec<uint64_t, W>;
    static constexpr uint64_t SIGN = 1ull << 63;
    static constexpr double LEAST = -708, MOST = 710;

    static inline V exp_between(V x) {
        const V shifted = x * 1.4426950408889634074 + 6755399441055744.0;  // 1.5 * 2^52
        const V whole = shifted - 6755399441055744.0;
        V r = x - whole * 6.93145751953125e-1;
        r = r - whole * 1.42860682030941723212e-6;
        V p = V{} + 1.0 / 6227020800.0;
        p = p * r + 1.0 / 479001600.0;
        p = p * r + 1.0 / 39916800.0;
        p = p * r + 1.0 / 3628800.0;
        p = p * r + 1.0 / 362880.0;
        p = p * r + 1.0 / 40320.0;
        p = p * r + 1.0 / 5040.0;
        p = p * r + 1.0 / 720.0;
        p = p * r + 1.0 / 120.0;
        p = p * r + 1.0 / 24.0;
        p = p * r + 1.0 / 6.0;
        p = p * r + 0.5;
        p = p * (r * r) + r + 1.0;
        return p * (V)(((Bits)shifted << 52) + (1023ull << 52));
    }

    static inline V small_tanh(V x) {
        const V y = x * x;
        const V p = ((-9.64399179425052238628e-1 * y - 9.92877231001918586564e1) * y - 1.61468768441708447952e3);
        const V q = (((y + 1.12811678491632931402e2) * y + 2.23548839060100448583e3) * y + 4.84406305325125486048e3);
        return x * y * (p / q) + x;
    }
};

template <class T, int W> static inline Vec<T, W> magnitude(Vec<T, W> x) {
    if constexpr (W == 1) return std::abs(x);
    else return (Vec<T, W>)((typename Math<T, W>::Bits)x & ~Math<T, W>::SIGN);
}

// The larger of two; NaN where the second is NaN or the first was.
template <class T, int W> static inline Vec<T, W> largest_of(Vec<T, W> so_far, Vec<T, W> x) {
    return (x > so_far) | (x != x) ? x : so_far;
}
template <class T, int W> static inline T largest_in(Vec<T, W> x) {
    if constexpr (W == 1) return x;
    else {
        Vec<T, W / 2> half[2];
        std::memcpy(half, &x, sizeof(x));
        return largest_in<T, W / 2>(largest_of<T, W / 2>(half[0], half[1]));
    }
}

template <class T, int W> static inline Vec<T, W> sigmoid(Vec<T, W> x) {
    using M = Math<T, W>;
    x = x > -M::LEAST ? Vec<T, W>{} - M::LEAST : x;
    x = x < -M::MOST ? Vec<T, W>{} - M::MOST : x;
    return 1 / (1 + M::exp_between(-x));
}

template <class T, int W> static inline Vec<T, W> tanh_(Vec<T, W> x) {
    using M = Math<T, W>;
    const Vec<T, W> size = magnitude<T, W>(x), twice = -2 * size;
    const Vec<T, W> e = M::exp_between(twice < M::LEAST ? Vec<T, W>{} + M::LEAST : twice);
    const Vec<T, W> large = 1 - 2 * e / (e + 1);  // tanh = (1 - e) / (1 + e)
    const Vec<T, W> with_sign = (Vec<T, W>)((typename M::Bits)large | ((typename M::Bits)x & M::SIGN));
    return size < (T)0.625 ? M::small_tanh(x) : with_sign;
}
