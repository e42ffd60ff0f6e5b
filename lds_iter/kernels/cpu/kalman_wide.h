// The step of a Kalman filter (see kalman_step.h) with matrices too large for the registers, by tiles that fit there.
#pragma once
#include <type_traits>

#include "kalman_step.h"

// Matrices of any size, in the first-level cache as far as that reaches.
template <class T, int W> struct Wide {
    using V = Vec<T, W>;
    static constexpr int LANES = W;
    static constexpr int BLOCK = W < 4 ? W : 4;  // pivots whose columns lie in one vector
    static constexpr int TALL = VECTOR_BYTES == 64 ? 8 : 4;  // rows whose sums fit the registers, of two vectors each
    int64_t width, vectors;
    explicit Wide(int64_t width) : width(width), vectors((width + W - 1) / W) {}
    int64_t size() const { return width; }
    int64_t row() const { return vectors * W; }

    // sum += a(r, k) b[k] for R rows, C vectors and k in [from, to).
    template <int R, int C, class A>
    inline void accumulate(V (&sum)[R][C], const T* b, int64_t from, int64_t to, A a) const {
        for (int64_t k = from; k < to; k++) {
            V there[C];
            for (int c = 0; c < C; c++) there[c] = load<V>(b + k * row() + c * W);
            for (int r = 0; r < R; r++)
                for (int c = 0; c < C; c++) sum[r][c] = a(r, k) * there[c] + sum[r][c];
        }
    }

    template <int K> using Number = std::integral_constant<int, K>;

    // Run body(R, C, i, c) on tiles of rows and vectors.
    template <class Body> void tiles(Body body) const {
        int64_t i = 0;
        for (; i + TALL <= width; i += TALL) columns<TALL>(i, body);
        for (; i < width; i++) columns<1>(i, body);
    }
    template <int R, class Body> void columns(int64_t i, Body body) const {
        int64_t c = 0;
        for (; c + 2 <= vectors; c += 2) body(Number<R>{}, Number<2>{}, i, c);
        if (c < vectors) body(Number<R>{}, Number<1>{}, i, c);
    }

    void step(T* state, T* entry, T q, T* room) const {
        T *made = room, *x = state, *r = entry + width * row();
        const int64_t row = this->row();
        tiles([&](auto rows, auto cols, int64_t i, int64_t c) {
            constexpr int R = decltype(rows)::value, C = decltype(cols)::value;
            V sum[R][C] = {};
            const T *here = state + i * row, *b = entry + c * W;
            accumulate<R, C>(sum, b, 0, i, [&](int r, int64_t k) { return here[r * row + k]; });
            UNROLLED for (int e = 0; e < R; e++)
                accumulate<R, C>(sum, b, i + e, i + e + 1, [&](int r, int64_t k) {
                    return e <= r ? here[r * row + k] : state[k * row + i + r];
                });
            accumulate<R, C>(sum, b, i + R, width, [&](int r, int64_t k) { return state[k * row + i + r]; });
            for (int k = 0; k < R; k++)
                for (int e = 0; e < C; e++) store(made + (i + k) * row + (c + e) * W, sum[k][e]);
        });
        add_product<T, W>(r, state + width * row, entry, width, row, 1);
        tiles([&](auto rows, auto cols, int64_t i, int64_t c) {
            constexpr int R = decltype(rows)::value, C = decltype(cols)::value;
            V sum[R][C];
            for (int k = 0; k < R; k++)
                for (int e = 0; e < C; e++) sum[k][e] = with_lane<T, W>(V{}, i + k - (c + e) * W, q);
            accumulate<R, C>(sum, made + c * W, 0, width, [&](int r, int64_t k) { return entry[k * row + i + r]; });
            for (int k = 0; k < R; k++)
                for (int e = 0; e < C; e++) store(x + (i + k) * row + (c + e) * W, sum[k][e]);
        });
        std::memcpy(x + width * row, r, row * sizeof(T));
        observe(x, room);
        std::memcpy(r, x + width * row, row * sizeof(T));
    }

    // `BLOCK` pivots at a time, in their own rows and that of d; then what they take off the other rows, all at once.
    void observe(T* x, T* room) const {
        const int64_t row = this->row();
        T *old = room, *ahead = room + BLOCK * row;
        int64_t i = 0;
        for (; i + BLOCK <= width; i += BLOCK) {
            pivots<BLOCK>(x, i, old, ahead);
            others<BLOCK>(x, i + BLOCK, width, i, old, ahead);
            others<BLOCK>(x, 0, i, i, old, ahead);
        }
        for (; i < width; i++) {
            pivots<1>(x, i, old, ahead);
            others<1>(x, i + 1, width, i, old, ahead);
            others<1>(x, 0, i, i, old, ahead);
        }
    }

    // The vector with the pivots' own columns says what every pivot takes off every row; then the other vectors follow.
    // Keeps the rows as each pivot found them, and what it takes off others.
    template <int B> void pivots(T* x, int64_t i, T* old, T* ahead) const {
        const int64_t row = this->row(), own = i / W * W;
        T factor[B][B + 1], p[B];
        const auto row_of = [&](int k) { return x + (k < B ? i + k : width) * row; };
        V v[B + 1];
        UNROLLED for (int k = 0; k <= B; k++) v[k] = load<V>(row_of(k) + own);
        UNROLLED for (int e = 0; e < B; e++) {
            T *kept = old + e * row + own, last[W];
            store(kept, v[e]);
            store(last, v[B]);
            p[e] = 1 / (1 + kept[i - own + e]);
            const auto lane = places<T, W>() == (typename Whole<T>::type)(i - own + e);
            v[e] = v[e] * p[e];
            const V here = lane ? V{} - p[e] : v[e];
            store(ahead + e * row + own, here);
            UNROLLED for (int k = 0; k <= B; k++) {
                if (k == e) continue;
                factor[e][k] = k < B ? kept[i - own + k] : last[i - own + e];
                v[k] = (lane ? V{} : v[k]) - factor[e][k] * here;
            }
        }
        UNROLLED for (int k = 0; k <= B; k++) store(row_of(k) + own, v[k]);
        for (int64_t c = 0; c < row; c += W) {
            if (c == own) continue;
            UNROLLED for (int k = 0; k <= B; k++) v[k] = load<V>(row_of(k) + c);
            UNROLLED for (int e = 0; e < B; e++) {
                store(old + e * row + c, v[e]);
                v[e] = v[e] * p[e];
                store(ahead + e * row + c, v[e]);
                UNROLLED for (int k = 0; k <= B; k++)
                    if (k != e) v[k] = v[k] - factor[e][k] * v[e];
            }
            UNROLLED for (int k = 0; k <= B; k++) store(row_of(k) + c, v[k]);
        }
    }

    // B pivots from i on, whose columns lie in one vector, in the rows [from, to).
    template <int B> void others(T* x, int64_t from, int64_t to, int64_t i, const T* old, const T* ahead) const {
        int64_t k = from;
        for (; k + 4 <= to; k += 4) others<B, 4>(x, k, i, old, ahead);
        for (; k < to; k++) others<B, 1>(x, k, i, old, ahead);
    }
    template <int B, int R> void others(T* x, int64_t k, int64_t i, const T* old, const T* ahead) const {
        const int64_t own = i / W * W, row = this->row();
        take<B, R, 1, true>(x, k, own, i, old, ahead);
        for (int64_t c = 0; c < row; c += W)
            if (c + W < row && c != own && c + W != own) take<B, R, 2, false>(x, k, c, i, old, ahead), c += W;
            else if (c != own) take<B, R, 1, false>(x, k, c, i, old, ahead);
    }
    template <int B, int R, int C, bool OWN>
    inline void take(T* x, int64_t k, int64_t c, int64_t i, const T* old, const T* ahead) const {
        const int64_t row = this->row();
        V v[R][C];
        for (int r = 0; r < R; r++)
            for (int d = 0; d < C; d++) v[r][d] = load<V>(x + (k + r) * row + c + d * W);
        for (int e = 0; e < B; e++)
            for (int d = 0; d < C; d++) {
                const V there = load<V>(ahead + e * row + c + d * W);
                const auto lane = places<T, W>() == (typename Whole<T>::type)(i + e - c);
                for (int r = 0; r < R; r++)
                    v[r][d] = (OWN && d == 0 ? (lane ? V{} : v[r][d]) : v[r][d]) - old[e * row + k + r] * there;
            }
        for (int r = 0; r < R; r++)
            for (int d = 0; d < C; d++) store(x + (k + r) * row + c + d * W, v[r][d]);
    }
};
