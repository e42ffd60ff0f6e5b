// Kalman's filter and smoother with diagonal matrices: numbers for every channel, all channels of a step side by side.
//     X = q + j^2 K    p = 1 / (1 + X)    K <- X p    d <- p (j d + r)        back: g = j z    z <- d + p g    d -= X p g
// All of X, p and K is positive and nothing is subtracted. Of channels that are not free see kalman.cpp.
#pragma once
#include <memory>
#include <type_traits>

#include "lanes.h"

template <class T> struct Channels {
    const T *j, *r, *q;         // (n, mates * width), rows of j being j_row apart; r alike; (mates)
    const unsigned char* free;  // (n, mates)
    T *d, *predicted;           // (n, mates * width); X of the smoother, else null
    int64_t n, mates, width, j_row;
    int64_t count() const { return mates * width; }
};

// The channels [begin, last) in their way through time: what they carry, K and d or, backwards, z.
template <class T> struct Carried {
    const Channels<T>& p;
    int64_t begin, last;
    std::unique_ptr<T[]> all;
    T *q, *gain, *d;  // from channel `begin` on
    Carried(const Channels<T>& p, int64_t begin, int64_t last) : p(p), begin(begin), last(last) {
        const int64_t some = last - begin;
        all.reset(new T[3 * some]());
        q = all.get(), gain = q + some, d = gain + some;
        for (int64_t i = 0; i < some; i++) q[i] = p.q[(begin + i) / p.width];
    }

    bool all_free(int64_t t, int64_t rows) const {
        const int64_t one = begin / p.width, other = (last - 1) / p.width;
        for (int64_t i = t; i < t + rows; i++)
            for (int64_t m = one; m <= other; m++)
                if (!p.free[i * p.mates + m]) return false;
        return true;
    }

    // Run body(from, to, m) on the channels of each mate that lie here.
    template <class Body> void mates(Body body) const {
        for (int64_t m = begin / p.width; m * p.width < last; m++) {
            const int64_t from = m * p.width, to = from + p.width;
            body(from < begin ? begin : from, to > last ? last : to, m);
        }
    }

    // Run body(W, U, i) on strips of U vectors of W channels, from channel i on.
    template <int W, int U, class Body> static void strips(int64_t i, int64_t to, Body body) {
        for (; i + W * U <= to; i += W * U) body(std::integral_constant<int, W>{}, std::integral_constant<int, U>{}, i);
        if constexpr (U > 1) strips<W, 1>(i, to, body);
        else if constexpr (W > 1) strips<W / 2, 1>(i, to, body);
    }
};

constexpr int SIDE_BY_SIDE = 4;    // vectors of channels: each waits for a division a step
constexpr int64_t AT_A_TIME = 64;  // rows of a strip

template <class T, int W, int U> void filter_strip(Carried<T>& at, int64_t i, int64_t t, int64_t rows) {
    using V = Vec<T, W>;
    const Channels<T>& p = at.p;
    const int64_t own = i - at.begin;
    V q[U], gain[U], d[U];
    for (int u = 0; u < U; u++)
        q[u] = load<V>(at.q + own + u * W), gain[u] = load<V>(at.gain + own + u * W), d[u] = load<V>(at.d + own + u * W);
    for (; rows > 0; rows--, t++)
        for (int u = 0; u < U; u++) {
            const V j = load<V>(p.j + t * p.j_row + i + u * W), r = load<V>(p.r + t * p.count() + i + u * W);
            const V predicted = j * j * gain[u] + q[u], keep = 1 / (predicted + 1);
            gain[u] = predicted * keep;
            d[u] = keep * (j * d[u] + r);
            store(p.d + t * p.count() + i + u * W, d[u]);
            if (p.predicted) store(p.predicted + t * p.count() + i + u * W, predicted);
        }
    for (int u = 0; u < U; u++) store(at.gain + own + u * W, gain[u]), store(at.d + own + u * W, d[u]);
}

// From row t + rows - 1 back to t. `z` lies in at.d; `leads` says whether j of the row after is free, `moves` whether t is.
template <class T, int W, int U>
void smoother_strip(Carried<T>& at, int64_t i, int64_t t, int64_t rows, bool leads, bool moves) {
    using V = Vec<T, W>;
    const Channels<T>& p = at.p;
    const int64_t own = i - at.begin;
    V z[U];
    for (int u = 0; u < U; u++) z[u] = load<V>(at.d + own + u * W);
    for (t += rows - 1; rows > 0; rows--, t--)
        for (int u = 0; u < U; u++) {
            const V g = leads ? load<V>(p.j + (t + 1) * p.j_row + i + u * W) * z[u] : V{};
            T* here = p.d + t * p.count() + i + u * W;
            const V d = load<V>(here);
            if (!moves) {
                z[u] = d + g;
                continue;
            }
            const V predicted = load<V>(p.predicted + t * p.count() + i + u * W), kept = g / (predicted + 1);
            z[u] = d + kept;
            store(here, d - predicted * kept);
        }
    for (int u = 0; u < U; u++) store(at.d + own + u * W, z[u]);
}

template <class T> void filter_channels(Carried<T>& at) {
    const Channels<T>& p = at.p;
    const auto move = [&](int64_t from, int64_t to, int64_t t, int64_t rows) {
        at.template strips<NATIVE<T>, SIDE_BY_SIDE>(from, to, [&](auto lanes, auto vectors, int64_t i) {
            filter_strip<T, lanes(), vectors()>(at, i, t, rows);
        });
    };
    for (int64_t begin = 0; begin < p.n; begin += AT_A_TIME) {
        const int64_t rows = p.n - begin < AT_A_TIME ? p.n - begin : AT_A_TIME;
        if (at.all_free(begin, rows)) {
            move(at.begin, at.last, begin, rows);
            continue;
        }
        for (int64_t t = begin; t < begin + rows; t++)
            at.mates([&](int64_t from, int64_t to, int64_t m) {
                if (p.free[t * p.mates + m]) return move(from, to, t, 1);
                for (int64_t i = from; i < to; i++) {
                    at.gain[i - at.begin] = 0;
                    at.d[i - at.begin] = p.d[t * p.count() + i] = p.r[t * p.count() + i];
                }
            });
    }
}

template <class T> void smoother_channels(Carried<T>& at) {
    const Channels<T>& p = at.p;
    const auto move = [&](int64_t from, int64_t to, int64_t t, int64_t rows, bool leads, bool moves) {
        at.template strips<NATIVE<T>, SIDE_BY_SIDE>(from, to, [&](auto lanes, auto vectors, int64_t i) {
            smoother_strip<T, lanes(), vectors()>(at, i, t, rows, leads, moves);
        });
    };
    for (int64_t end = p.n; end > 0; end -= AT_A_TIME) {
        const int64_t rows = end < AT_A_TIME ? end : AT_A_TIME, begin = end - rows;
        if (end < p.n && at.all_free(begin, rows + 1)) {
            move(at.begin, at.last, begin, rows, true, true);
            continue;
        }
        for (int64_t t = end - 1; t >= begin; t--)
            at.mates([&](int64_t from, int64_t to, int64_t m) {
                const bool leads = t + 1 < p.n && p.free[(t + 1) * p.mates + m];
                move(from, to, t, 1, leads, p.free[t * p.mates + m]);
            });
    }
}

template <class T> int64_t diagonal(const Channels<T>& p, int64_t threads) {
    if (p.n * p.count() < 16384) threads = 1;
    spread(p.count(), 64 / (int64_t)sizeof(T), threads, [&](int64_t begin, int64_t last) {
        Carried<T> at(p, begin, last);
        filter_channels(at);
        if (p.predicted) smoother_channels(at);
    });
    return 0;
}
