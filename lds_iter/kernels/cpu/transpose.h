// Matrices the other way round, four columns at a time.
#pragma once
#include "lanes.h"

#ifdef __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES
#endif
#endif

#ifdef SHUFFLES
// Four numbers of every fourth row, side by side.
template <class T, int W> static inline Vec<T, W> fours(const T* from, int64_t from_row) {
    if constexpr (W == 4) {
        return load<Vec<T, 4>>(from);
    } else {
        const auto low = fours<T, W / 2>(from, from_row), high = fours<T, W / 2>(from + W / 2 * from_row, from_row);
        if constexpr (W == 8) return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
        else return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    }
}

// Of every four numbers of x, 0 to 3, and of y, 4 to 7, these.
template <int A, int B, int C, int D, int W, class V> static inline V of_fours(V x, V y) {
#define OF(P, g) ((P) % 4 + 4 * (g) + (P) / 4 * W)
#define FOUR(g) OF(A, g), OF(B, g), OF(C, g), OF(D, g)
    if constexpr (W == 4) return __builtin_shufflevector(x, y, FOUR(0));
    else if constexpr (W == 8) return __builtin_shufflevector(x, y, FOUR(0), FOUR(1));
    else return __builtin_shufflevector(x, y, FOUR(0), FOUR(1), FOUR(2), FOUR(3));
#undef FOUR
#undef OF
}
#endif

// W rows of four numbers each.
template <class T, int W> static inline void transpose(T* to, int64_t to_row, const T* from, int64_t from_row) {
#ifdef SHUFFLES
    Vec<T, W> r[4];
    UNROLLED for (int i = 0; i < 4; i++) r[i] = fours<T, W>(from + i * from_row, from_row);
    const auto ab = of_fours<0, 4, 1, 5, W>(r[0], r[1]), cd = of_fours<0, 4, 1, 5, W>(r[2], r[3]);
    store(to, of_fours<0, 1, 4, 5, W>(ab, cd));
    store(to + to_row, of_fours<2, 3, 6, 7, W>(ab, cd));
    const auto ba = of_fours<2, 6, 3, 7, W>(r[0], r[1]), dc = of_fours<2, 6, 3, 7, W>(r[2], r[3]);
    store(to + 2 * to_row, of_fours<0, 1, 4, 5, W>(ba, dc));
    store(to + 3 * to_row, of_fours<2, 3, 6, 7, W>(ba, dc));
#else
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < W; i++) to[k * to_row + i] = from[i * from_row + k];
#endif
}
