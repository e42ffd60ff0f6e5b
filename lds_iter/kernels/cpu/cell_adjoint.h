// The adjoint recurrence of a cell, l_t = g_t + J_{t+1}^T l_{t+1}, which never forms a Jacobian.
#pragma once
#include "cell.h"

// y[i] += sum over gates and j of W_gate[j][i] p[gate][j]; several sums at once, for each waits for itself.
template <class C, int W, class T> void pull(const T* w, const T* p, int64_t width, int64_t padded, T* y) {
    constexpr int G = C::GATES, E = G == 1 ? 4 : 2;
    using V = Vec<T, W>;
    for (int64_t i = 0; i < padded; i += W) {
        V sum[G][E] = {}, all = load<V>(y + i);
        int64_t j = 0;
        for (; j + E <= width; j += E, w += E * G * W)
            for (int g = 0; g < G; g++)
                for (int e = 0; e < E; e++) sum[g][e] = load<V>(w + (G * e + g) * W) * p[g * padded + j + e] + sum[g][e];
        for (; j < width; j++, w += G * W)
            for (int g = 0; g < G; g++) sum[g][0] = load<V>(w + g * W) * p[g * padded + j] + sum[g][0];
        for (int g = 0; g < G; g++)
            for (int e = 0; e < E; e += 2) all = all + (sum[g][e] + sum[g][e + 1]);
        store(y + i, all);
    }
}

// All l_t from the last row to the first; s holds the state before each row. The Jacobians of a block of rows are
// computed by any thread, the recurrence goes through the blocks in turn.
template <class C, class T>
int64_t adjoint(const T* const* tensors, const T* s, const T* g, T* l, int64_t n, int64_t batch, int64_t width,
                int64_t threads) {
    constexpr int G = C::GATES, P = C::PARTS;
    Weights<C> cell = pack<C>(tensors, width);
    const int64_t padded = cell.padded, count = batch * P * width, plane = batch * padded;
    const int64_t steps = cell.rows > batch ? cell.rows / batch : 1, blocks = (n + steps - 1) / steps;
    cell.rows = steps * batch;
    const Room<T> turned(G * width * padded), carry(P * plane), inner(G * padded);
    arrange(turned.all, tensors + G, G, width, cell.lanes, 1, width);
    const auto prepare = [&](Block<C>& block, int64_t row, int64_t some) {
        const T* here[G];
        for (int k = 0; k < G; k++) here[k] = tensors[k] + row * batch * width;
        evaluate(cell, block, some * batch, s + row * count, here,
                 [&](int64_t i, int64_t, const C& step) { keep_jacobian<C, T>(block, i, step); });
        spread_rows<P>(block.value, block.size, g + row * count, some * batch, width, padded);
    };
    // carry holds what arrives at a row from the one after it: l_t = g_t + carry, then carry = J_t^T l_t.
    const auto finish = [&](Block<C>& block, int64_t row, int64_t some) {
        by_lanes<T>(cell.lanes, [&](auto lanes) {
            constexpr int W = decltype(lanes)::value;
            using V = Vec<T, W>;
            for (int64_t i = some * batch - 1; i >= 0; i--) {
                T *from = carry.all + i % batch * padded, *p = inner.all;
                for (int64_t j = 0; j < padded; j += W) {
                    const int64_t in = i * padded + j;
                    V a[G], own[larger(C::OWN, 1)], now[P], further[P], to[G];
                    load_all<G>(a, block.pre + in, block.size);
                    load_all<C::OWN>(own, block.own + in, block.size);
                    load_all<P>(now, block.value + in, block.size);
                    for (int q = 0; q < P; q++) now[q] = now[q] + load<V>(from + q * plane + j);
                    store_all<P>(block.state + in, block.size, now);
                    C::transpose(a, own, now, to, further);
                    store_all<G>(p + j, padded, to);
                    store_all<P>(from + j, plane, further);
                }
                pull<C, W>(turned.all, p, width, padded, from);
            }
        });
        gather_rows<P>(l + row * count, block.state, block.size, some * batch, width, padded);
    };
    if (n * count < 8192) threads = 1;
    in_turn<Block<C>>(cell, blocks, threads, [&](Block<C>& block, int64_t i, auto turn) {
        const int64_t row = (blocks - 1 - i) * steps, some = n - row < steps ? n - row : steps;
        prepare(block, row, some);
        turn([&] { finish(block, row, some); });
    });
    return 0;
}
