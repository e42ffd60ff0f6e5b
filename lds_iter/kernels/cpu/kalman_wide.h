// The step of a Kalman filter (see kalman_step.h) with matrices too large for the registers, by tiles that fit there.
#pragma once
#include <type_traits>
#include <utility>

#include "kalman_step.h"
#include "transpose.h"

// Matrices of any size, in the first-level cache as far as that reaches. Rows hold N vectors, or, where N is 0, as many
// as it takes. Coordinates that are not there fill up the last block of pivots: zeros, which the others do not feel.
template <class T, int W, int N> struct Wide {
    using V = Vec<T, W>;
    static constexpr int LANES = W, TOGETHER = 1;  // a step is longer than the processor looks ahead
    static constexpr int B = W < 4 ? W : 4;  // pivots at a time, whose columns lie in one vector
    static constexpr int TALL = VECTOR_BYTES == 64 ? 8 : B;  // rows whose sums fit the registers, of two vectors each
    static constexpr bool HALF = N != 1;  // of two parts of X that are transposes of each other one is worked out
    using P = Vec<T, B>;
    int64_t width, vectors;
    explicit Wide(int64_t width) : width(width), vectors((width + W - 1) / W) {}
    int64_t size() const { return width; }
    int64_t tall() const { return (width + B - 1) / B * B; }
    int64_t row() const { return (N ? N : vectors) * W; }

    template <int K> using Number = std::integral_constant<int, K>;

    // Run body(R, i) on the rows [i, last), and body(C, c) on the vectors of a row; R is TALL or B, C two or one.
    template <class Body> static INLINE void rows(int64_t i, int64_t last, Body body) {
        for (; i + TALL <= last; i += TALL) body(Number<TALL>{}, i);
        for (; i < last; i += B) body(Number<B>{}, i);
    }
    template <class Body> static INLINE void columns(int64_t c, int64_t last, Body body) {
        for (; c + 2 <= last; c += 2) body(Number<2>{}, c * W);
        if (c < last) body(Number<1>{}, c * W);
    }
    int64_t across() const { return row() / W; }

    // sum += a(r) b, for R rows and C vectors.
    template <int R, int C, class A> static INLINE void add(V (&sum)[R][C], const T* b, A a) {
        V there[C];
        UNROLLED for (int c = 0; c < C; c++) there[c] = load<V>(b + c * W);
        UNROLLED for (int r = 0; r < R; r++)
            UNROLLED for (int c = 0; c < C; c++) sum[r][c] = a(r) * there[c] + sum[r][c];
    }
    template <int R, int C> static INLINE void put(T* to, int64_t row, const V (&sum)[R][C]) {
        UNROLLED for (int r = 0; r < R; r++)
            UNROLLED for (int c = 0; c < C; c++) store(to + r * row + c * W, sum[r][c]);
    }

    void step(T* state, T* entry, T q, T* room) const {
        const int64_t row = this->row(), tall = this->tall();
        T *made = room, *r = entry + tall * row;
        rows(0, tall, [&](auto some, int64_t i) {
            columns(0, across(), [&](auto vectors, int64_t c) {
                from_left<some(), vectors()>(made + c, state, i, entry + c);
            });
        });
        add_product<T, W>(r, state + tall * row, entry, width, row, 1);
        std::memcpy(state + tall * row, r, row * sizeof(T));
        observe(state, q, room + tall * row, [&](auto some, int64_t i) {
            columns(HALF ? i / W : 0, across(), [&](auto vectors, int64_t c) {
                predict<some(), vectors()>(state, entry, made, c, i);
            });
        });
        std::memcpy(r, state + tall * row, row * sizeof(T));
    }

    // Rows i to i + R of K times C vectors of J^T, from the triangle of K at and below the diagonal.
    template <int R, int C> inline void from_left(T* made, const T* gain, int64_t i, const T* b) const {
        const int64_t row = this->row(), tall = this->tall();
        V sum[R][C] = {};
        const T *here = gain + i * row, *below = gain + i;
        int64_t k = 0;
        for (; k < i; k++) add<R, C>(sum, b + k * row, [&](int r) { return here[r * row + k]; });
        UNROLLED for (int e = 0; e < R; e++)
            add<R, C>(sum, b + (i + e) * row, [&](int r) {
                return e <= r ? here[r * row + i + e] : here[e * row + i + r];
            });
        for (k = i + R; k < tall; k++) add<R, C>(sum, b + k * row, [&](int r) { return below[k * row + r]; });
        put<R, C>(made + i * row, row, sum);
    }

    // Rows i to i + R of J B, in C vectors from number c on.
    template <int R, int C> inline void predict(T* x, const T* entry, const T* made, int64_t c, int64_t i) const {
        const int64_t row = this->row(), tall = this->tall();
        const T* j = entry + i;
        V sum[R][C] = {};
        for (int64_t k = 0; k < tall; k++) add<R, C>(sum, made + k * row + c, [&](int r) { return j[k * row + r]; });
        put<R, C>(x + i * row + c, row, sum);
    }

    // B pivots at a time, in their own rows and that of d; then what they take off the other rows, all at once. The rows
    // of the next pivots come first, and these are under way while the others follow, for each waits for a division.
    // `make(R, i)` makes R rows of X; q is added to each pivot when it is its turn.
    // X is symmetric. Where that pays, of the vectors that W rows have in common with W others only those of one are kept
    // up to date: of the rows with the pivots or, of two without, of the first while both are to come, later of the
    // second. So it begins above the diagonal, with the vectors from the diagonal's on, and ends below it.
    template <class Make> void observe(T* x, T q, T* room, Make make) const {
        const int64_t tall = this->tall(), first = tall < TALL ? B : TALL;
        T *at = room, *next = room + 2 * B * row();
        rows(0, first, make);
        pivots(x, 0, q, at);
        rows(first, tall, make);
        for (int64_t i = 0; i < tall; i += B) {
            const auto take_off = [&](auto some, int64_t k) { take<some()>(x, k, i, at); };
            const int64_t after = i + B, end = i / W * W + W < tall ? i / W * W + W : tall;
            const bool turns = HALF && after % W == 0;
            if (turns) {
                rows(after, tall, take_off);
                rows(0, i, take_off);
                turn(x, after);
            } else if (after < tall) {
                take_off(Number<B>{}, after);
            }
            if (after < tall) pivots(x, after, q, next);
            if (!turns) {
                rows(after + B, end, take_off);
                rows(end, tall, take_off);
                rows(0, i, take_off);
            }
            std::swap(at, next);
        }
    }

    // The rows from i on take over, from the rows before them, what X has in common with these.
    void turn(T* x, int64_t i) const {
        const int64_t row = this->row();
        for (int64_t k = i; k < i + W && k < tall(); k += B)
            for (int64_t c = 0; c < i; c += W) mirror<W>(x + k * row + c, x + c * row + k);
    }
    template <int L> inline void mirror(T* to, const T* from) const {  // L rows of B numbers
        if constexpr (B == 4) transpose<T, L>(to, row(), from, row());
        else
            for (int k = 0; k < B; k++)
                for (int c = 0; c < L; c++) to[k * row() + c] = from[c * row() + k];
    }

    // Of K only the vectors up to the diagonal's are kept.
    int64_t until(int64_t k) const { return HALF ? (k / W + 1) * W : row(); }
    int64_t kept() const {
        int64_t numbers = 0;
        for (int64_t k = 0; k < tall(); k++) numbers += until(k);
        return numbers;
    }
    void keep(T* to, const T* state) const {
        for (int64_t k = 0; k < tall(); to += until(k), k++) std::memcpy(to, state + k * row(), until(k) * sizeof(T));
    }
    const T* whole(T* room, const T* kept) const {
        if (!HALF) return kept;
        const int64_t row = this->row();
        for (int64_t k = 0; k < tall(); kept += until(k), k++) std::memcpy(room + k * row, kept, until(k) * sizeof(T));
        for (int64_t c = W; c < tall();) {
            const int64_t some = c + W <= tall() ? W : B;
            for (int64_t k = 0; k < c / W * W; k += B)
                if (some == W) mirror<W>(room + k * row + c, room + c * row + k);
                else mirror<B>(room + k * row + c, room + c * row + k);
            c += some;
        }
        return room;
    }

    struct Factors {  // of pivot e, as it finds X and d: 1 / (1 + X_ee), B times; X_ke for the rows k of the block; d_e
        T p[B][B], of[B][B], d[B];
    };

    // From the square of the pivots' own rows and columns alone, so that one follows on the other at once.
    inline void factors(Factors& f, const T* x, int64_t i, T q) const {
        const int64_t row = this->row();
        P a[B], d = load<P>(x + tall() * row + i);
        UNROLLED for (int k = 0; k < B; k++)
            a[k] = load<P>(x + (i + k) * row + i) + with_lane<T, B>(P{}, k, 1 + q);
        UNROLLED for (int e = 0; e < B; e++) {
            const auto lane = places<T, B>() == (typename Whole<T>::type)e;
            const P p = 1 / all<P>(a[e][e]), here = lane ? -p : a[e] * p;
            store(f.p[e], p);
            store(f.of[e], a[e]);
            f.d[e] = d[e];
            UNROLLED for (int k = e + 1; k < B; k++) a[k] = (lane ? P{} : a[k]) - a[e][k] * here;
            d = (lane ? P{} : d) - d[e] * here;
        }
    }

    // Keeps the rows as each pivot found them, and behind them what it adds to others, times their column.
    void pivots(T* x, int64_t i, T q, T* old) const {
        const int64_t row = this->row(), own = i / W * W;
        Factors f;
        factors(f, x, i, q);
        pivots<true>(x, i, own, q, old, f);
        for (int64_t c = 0; c < row; c += W)
            if (c != own) pivots<false>(x, i, c, q, old, f);
    }
    template <bool OWN> INLINE void pivots(T* x, int64_t i, int64_t c, T q, T* old, const Factors& f) const {
        const int64_t row = this->row();
        T *mean = x + tall() * row + c, *mine = x + i * row + c, *ahead = old + B * row + c;
        V v[B], d = load<V>(mean);
        UNROLLED for (int k = 0; k < B; k++) {
            v[k] = load<V>(mine + k * row);
            if (OWN) v[k] = with_lane<T, W>(V{}, i + k - c, q) + v[k];
        }
        UNROLLED for (int e = 0; e < B; e++) {
            store(old + e * row + c, v[e]);
            v[e] = v[e] * f.p[e][0];
            V here = -v[e];
            if constexpr (OWN) {
                const auto place = places<T, W>() - (typename Whole<T>::type)(i - c);
                const auto lane = place == (typename Whole<T>::type)e;
                here = lane ? all<V>(f.p[e][0]) : here;
                const auto later = (place > (typename Whole<T>::type)e) & (place < (typename Whole<T>::type)B);
                store(ahead + e * row, later ? V{} : here);  // of the columns of later pivots nothing will be left
                UNROLLED for (int k = 0; k < B; k++)
                    if (k != e) v[k] = lane ? V{} : v[k];
                d = lane ? V{} : d;
            } else {
                store(ahead + e * row, here);
            }
            UNROLLED for (int k = 0; k < B; k++)
                if (k != e) v[k] = f.of[e][k] * here + v[k];
            d = f.d[e] * here + d;
        }
        UNROLLED for (int k = 0; k < B; k++) store(mine + k * row, v[k]);
        store(mean, d);
    }

    // What the pivots from i on take off R rows, in C vectors and in all.
    template <int R, int C> INLINE void take(T* x, int64_t k, int64_t c, int64_t i, const T* old) const {
        const int64_t row = this->row();
        V v[R][C];
        UNROLLED for (int e = 0; e < C; e++) {
            const auto place = places<T, W>() - (typename Whole<T>::type)(i - c - e * W);
            const auto theirs = (place >= (typename Whole<T>::type)0) & (place < (typename Whole<T>::type)B);
            UNROLLED for (int r = 0; r < R; r++) v[r][e] = theirs ? V{} : load<V>(x + (k + r) * row + c + e * W);
        }
        UNROLLED for (int e = 0; e < B; e++)
            add<R, C>(v, old + (B + e) * row + c, [&](int r) { return old[e * row + k + r]; });
        put<R, C>(x + k * row + c, row, v);
    }
    template <int R> __attribute__((noinline)) void take(T* x, int64_t k, int64_t i, const T* old) const {
        const auto body = [&](auto vectors, int64_t c) __attribute__((always_inline)) {
            take<R, vectors()>(x, k, c, i, old);
        };
        const int64_t theirs = i / W, own = k / W;
        if (!HALF) return columns(0, across(), body);
        columns(own > theirs ? own : 0, own < theirs ? own + 1 : across(), body);
        if (own < theirs) columns(theirs + 1, across(), body);
    }
};
