// Matrices in the order in which their products with vectors read them, and these products.
#pragma once
#include "room.h"

// How many chains of additions a sum is made of. A processor finishes an addition only after some cycles, but begins one
// or two in each. The same number for any number of vectors at once, so that a product does not depend on its neighbours.
template <int G> constexpr int CHAINS = G > 1 ? 2 : 4;

// Of how many vectors the registers hold the sums.
template <int G> constexpr int TOGETHER = larger(1, (VECTOR_BYTES == 64 ? 24 : 12) / (G * CHAINS<G>));

// G matrices of the same shape: for every W of their rows, for every column, for every matrix, the W numbers.
template <class T, int G> struct Packed {
    int64_t inner = 0, padded = 0;  // columns; rows, in whole vectors
    Room<T> room;
    Packed() = default;
    // row(g, k) points to row k of the transposed matrix g, whose numbers are `apart` from each other; null: zeros.
    template <class Row>
    Packed(int64_t rows, int64_t inner, int64_t lanes, int64_t apart, Row row)
        : inner(inner), padded((rows + lanes - 1) / lanes * lanes), room(G * inner * padded) {
        T* to = room.all;
        for (int64_t first = 0; first < rows; first += lanes)
            for (int64_t k = 0; k < inner; k++)
                for (int g = 0; g < G; g++, to += lanes) {
                    const T* from = row(g, k);
                    if (from)
                        for (int64_t j = first; j < first + lanes && j < rows; j++) to[j - first] = from[j * apart];
                }
    }
    const T* at(int64_t row) const { return room.all + G * inner * row; }
};

// sum[g][i] = rows [row, row + W) of matrix g times vector i of R, which lie `stride` apart.
template <int G, int W, int R, class T>
INLINE void times(const Packed<T, G>& matrix, int64_t row, const T* x, int64_t stride, Vec<T, W> (&sum)[G][R]) {
    constexpr int E = CHAINS<G>;
    using V = Vec<T, W>;
    const T* w = matrix.at(row);
    V chain[E][G][R] = {};
    int64_t k = 0;
    for (; k + E <= matrix.inner; k += E, w += E * G * W)
        UNROLLED for (int e = 0; e < E; e++) {
            V column[G];
            UNROLLED for (int g = 0; g < G; g++) column[g] = load<V>(w + (e * G + g) * W);
            UNROLLED for (int i = 0; i < R; i++) {
                const T one = x[i * stride + k + e];
                UNROLLED for (int g = 0; g < G; g++) chain[e][g][i] = column[g] * one + chain[e][g][i];
            }
        }
    for (; k < matrix.inner; k++, w += G * W)
        UNROLLED for (int i = 0; i < R; i++)
            UNROLLED for (int g = 0; g < G; g++) chain[0][g][i] = load<V>(w + g * W) * x[i * stride + k] + chain[0][g][i];
    UNROLLED for (int step = E / 2; step > 0; step /= 2)
        UNROLLED for (int e = 0; e < step; e++)
            UNROLLED for (int g = 0; g < G; g++)
                UNROLLED for (int i = 0; i < R; i++) chain[e][g][i] = chain[e][g][i] + chain[e + step][g][i];
    UNROLLED for (int g = 0; g < G; g++)
        UNROLLED for (int i = 0; i < R; i++) sum[g][i] = chain[0][g][i];
}

// Run body(i, std::integral_constant<int, R>) on R of `count` vectors at a time: as many as go together, then each.
template <int G, class Body> INLINE void together(int64_t count, Body body) {
    int64_t i = 0;
    for (; i + TOGETHER<G> <= count; i += TOGETHER<G>) body(i, std::integral_constant<int, TOGETHER<G>>());
    for (; i < count; i++) body(i, std::integral_constant<int, 1>());
}

// to[i][row] = (matrix x_i)[row] for rows [begin, end) of all matrices, which lie `plane` apart in `to`.
template <int G, int W, class T>
inline void multiply_all(const Packed<T, G>& matrix, const T* x, int64_t stride, int64_t count, T* to, int64_t apart,
                         int64_t plane, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += W)
        together<G>(count, [&](int64_t i, auto some) {
            constexpr int R = decltype(some)::value;
            Vec<T, W> sum[G][R];
            times<G, W, R>(matrix, j, x + i * stride, stride, sum);
            UNROLLED for (int g = 0; g < G; g++)
                UNROLLED for (int r = 0; r < R; r++) store(to + g * plane + (i + r) * apart + j, sum[g][r]);
        });
}
