// All states of a cell, one step after the other: s_t = f(s_{t-1}, u_t). A step is what it would be alone: the same
// operations in the same order for any batch, number of threads and number of steps.
#pragma once
#include "cell_net.h"

// Room for `rows` steps of `mine` batch elements: states in planes, the one before the block first.
template <class C> struct StepsRoom {
    using T = typename C::Number;
    int64_t rows, row, plane;
    Room<T> room;
    T *states, *u, *fed;

    StepsRoom(const Net<C>& net, int64_t mine, int64_t n) : row(mine * net.padded) {
        rows = 4096 / row + 1;
        if (rows > n) rows = n;
        plane = (rows + 1) * row;
        const int64_t inputs = Inputs<C>::room(net, rows * row);
        room = Room<T>(C::PARTS * plane + inputs + mine * net.projection.padded);
        states = room.all, u = states + C::PARTS * plane, fed = u + inputs;
    }
};

// `rows` steps, from the first row of the planes on.
template <class C, int W, class T>
void some_steps(const Net<C>& net, StepsRoom<C>& at, const Inputs<C>& u, int64_t rows, const Share& share) {
    constexpr int G = C::GATES, P = C::PARTS;
    using Cell = typename C::template Narrow<W>;
    using V = Vec<T, W>;
    const int64_t padded = net.padded, begin = share.begin(padded, W), end = share.end(padded, W);
    const int64_t fed = net.projection.padded;
    for (int64_t t = 0; t < rows; t++) {
        T* states = at.states + t * at.row;
        const T* h = states;
        if (net.projected) {
            multiply_all<1, W>(net.projection, states, padded, share.mine, at.fed, fed, 0, share.begin(fed, W), share.end(fed, W));
            share.wait();
            h = at.fed;
        }
        const int64_t apart = net.projected ? fed : padded;
        for (int64_t j = begin; j < end; j += W) {
            const V bias = load<V>(net.bias.all + j);
            together<G>(share.mine, [&](int64_t i, auto some) {
                constexpr int R = decltype(some)::value;
                V sum[G][R];
                times<G, W, R>(net.gates, j, h + i * apart, apart, sum);
                UNROLLED for (int r = 0; r < R; r++) {
                    V pre[G], x[G], before[P], value[P];
                    T* here = states + (i + r) * padded + j;
                    for (int g = 0; g < G; g++) pre[g] = sum[g][r], x[g] = load<V>(u.at[g] + t * u.step + (i + r) * u.apart + j);
                    load_all<P>(before, here, at.plane);
                    Cell(pre, before, x, bias).value(value);
                    store_all<P>(here + at.row, at.plane, value);
                }
            });
        }
        share.wait();
    }
}

template <class C, class T>
int64_t steps(const T* const* tensors, const T* s0, T* states, int64_t n, int64_t batch, int64_t width, int64_t inner,
              int64_t threads) {
    constexpr int P = C::PARTS;
    const Net<C> net(tensors, batch, width, inner);
    in_large_pages(states, n * batch * P * width * sizeof(T));
    const auto make = [&](int64_t mine) { return StepsRoom<C>(net, mine, n); };
    over_batch(batch, n, net.work(), threads, make, [&](StepsRoom<C>& at, const Share& share) {
        if (share.leads()) take<P>(at.states, at.plane, s0, 1, share, batch, width, net.padded);
        for (int64_t t = 0; t < n; t += at.rows) {
            const int64_t some = n - t < at.rows ? n - t : at.rows;
            const Inputs<C> u(net, share, at.u, at.rows * at.row, t, some);
            share.wait();
            by_lanes<T>(net.lanes, [&](auto lanes) { some_steps<C, decltype(lanes)::value, T>(net, at, u, some, share); });
            if (!share.leads()) continue;
            give<P>(states + t * batch * P * width, at.states + at.row, at.plane, some, share, batch, width, net.padded);
            for (int p = 0; p < P; p++)
                std::memcpy(at.states + p * at.plane, at.states + p * at.plane + some * at.row, at.row * sizeof(T));
        }
    });
    return 0;
}
