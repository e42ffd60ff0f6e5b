// One step of a Kalman filter with full matrices, and one of the smoother's way back. The state is the gain K with the
// mean d as one more row; J^T lies in padded rows with r, as one more row, below it. With q the weight of the observation:
//     [B; b] = [K; d] J^T, + r in the last row        X = J B + q I        [K; d] <- [X; b] (I + X)^{-1}
// The last is done one coordinate i of the observation after the other: x = row i of X, p = 1 / (1 + x_i), and every row k
// loses x_k p x but in column i, which becomes x_k p, where the difference would cancel; row i becomes p x. Of K the next
// step reads one triangle, so that what rounding does to the symmetry is forgotten and cannot grow.
// A vector always holds neighbours of one row, and sums run over k in order: no step depends on where a matrix lies.
#pragma once
#include "lanes.h"

template <class T> struct Whole;
template <> struct Whole<float> { typedef int32_t type; };
template <> struct Whole<double> { typedef int64_t type; };

// The numbers of the lanes, to choose one by a comparison.
template <class T, int W> static inline Vec<typename Whole<T>::type, W> places() {
    Vec<typename Whole<T>::type, W> v;
    for (int k = 0; k < W; k++) v[k] = k;
    return v;
}

template <class V, class T> static inline V all(T number) { return number - V{}; }  // 0 + number may not be left out

// `v` with `instead` in lane `at`; nowhere for an `at` outside.
template <class T, int W> static inline Vec<T, W> with_lane(Vec<T, W> v, int64_t at, T instead) {
    return places<T, W>() == (typename Whole<T>::type)at ? all<Vec<T, W>>(instead) : v;
}

// made += sign * (the sum over k of v[k] times row k).
template <class T, int W>
static inline void add_product(T* made, const T* v, const T* rows, int64_t size, int64_t row, T sign) {
    using V = Vec<T, W>;
    for (int64_t c = 0; c < row; c += W) {
        V sum[4] = {};
        int64_t k = 0;
        for (; k + 4 <= size; k += 4)
            for (int e = 0; e < 4; e++) sum[e] = v[k + e] * load<V>(rows + (k + e) * row + c) + sum[e];
        for (; k < size; k++) sum[0] = v[k] * load<V>(rows + k * row + c) + sum[0];
        store(made + c, sign * ((sum[0] + sum[1]) + (sum[2] + sum[3])) + load<V>(made + c));
    }
}

constexpr int64_t ROOM = 16;  // rows that a step may write beyond a matrix of its own

// Matrices of D columns, in registers as far as these reach.
template <class T, int W, int D> struct Small {
    using V = Vec<T, W>;
    static constexpr int LANES = W, TOGETHER = 8;
    static constexpr int N = (D + W - 1) / W;
    explicit Small(int64_t) {}
    static constexpr int64_t size() { return D; }
    static constexpr int64_t tall() { return D; }
    static constexpr int64_t row() { return N * W; }

    static constexpr int64_t kept() { return D * row(); }
    void keep(T* to, const T* state) const { std::memcpy(to, state, kept() * sizeof(T)); }
    const T* whole(T*, const T* kept) const { return kept; }

    void step(T* state, T* entry, T q, T*) const {
        V made[D + 1][N], x[D + 1][N];
        UNROLLED for (int k = 0; k <= D; k++)
            UNROLLED for (int c = 0; c < N; c++) {
                V sum = k < D ? V{} : load<V>(entry + D * row() + c * W);
                UNROLLED for (int l = 0; l < D; l++)
                    sum = state[k < l ? l * row() + k : k * row() + l] * load<V>(entry + l * row() + c * W) + sum;
                made[k][c] = sum;
            }
        UNROLLED for (int i = 0; i < D; i++)
            UNROLLED for (int c = 0; c < N; c++) {
                V sum = with_lane<T, W>(V{}, i - c * W, q);
                UNROLLED for (int k = 0; k < D; k++) sum = entry[k * row() + i] * made[k][c] + sum;
                x[i][c] = sum;
            }
        UNROLLED for (int c = 0; c < N; c++) x[D][c] = made[D][c];
        observe(x);
        UNROLLED for (int k = 0; k <= D; k++)
            UNROLLED for (int c = 0; c < N; c++) store(state + k * row() + c * W, x[k][c]);
        UNROLLED for (int c = 0; c < N; c++) store(entry + D * row() + c * W, x[D][c]);
    }

    static inline void observe(V (&x)[D + 1][N]) {
        V pivots[N];  // 1 + the diagonal, by itself: then a pivot waits for little but the division before it
        UNROLLED for (int c = 0; c < N; c++) {
            V diagonal = {};
            UNROLLED for (int i = 0; i < D; i++)
                if (i / W == c) diagonal = places<T, W>() == (typename Whole<T>::type)(i - c * W) ? x[i][c] : diagonal;
            pivots[c] = 1 + diagonal;
        }
        UNROLLED for (int i = 0; i < D; i++) {
            T old[N * W];
            V ahead[N];
            const T pivot = pivots[i / W][i % W];
            const V p = sizeof(V) > 32 ? all<V>(1 / pivot) : 1 / all<V>(pivot);  // the widest vectors divide slowly
            UNROLLED for (int c = 0; c < N; c++) {
                store(old + c * W, x[i][c]);
                const V scaled = x[i][c] * p;
                pivots[c] = pivots[c] - x[i][c] * scaled;
                x[i][c] = scaled;
                ahead[c] = places<T, W>() == (typename Whole<T>::type)(i - c * W) ? -p : scaled;
            }
            UNROLLED for (int k = 0; k <= D; k++) {
                if (k == i) continue;
                const T factor = k < D ? old[k] : x[D][i / W][i % W];
                UNROLLED for (int c = 0; c < N; c++) x[k][c] = with_lane<T, W>(x[k][c], i - c * W, 0) - factor * ahead[c];
            }
        }
    }
};
