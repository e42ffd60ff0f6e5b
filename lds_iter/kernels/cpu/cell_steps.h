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

// Steps [first, last) of some batch elements, from the state that the room begins with, which ends with the last one.
// Told to `states` unless that is null.
template <class C, class T>
void run_steps(const Net<C>& net, StepsRoom<C>& at, const Share& share, T* states, int64_t first, int64_t last) {
    constexpr int P = C::PARTS;
    const int64_t numbers = net.batch * P * net.width;
    for (int64_t t = first; t < last; t += at.rows) {
        const int64_t some = last - t < at.rows ? last - t : at.rows;
        const Inputs<C> u(net, share, at.u, at.rows * at.row, t, some);
        share.wait();
        by_lanes<T>(net.lanes, [&](auto lanes) { some_steps<C, decltype(lanes)::value, T>(net, at, u, some, share); });
        if (!share.leads()) continue;
        if (states) give<P>(states + t * numbers, at.states + at.row, at.plane, some, share, net.batch, net.width, net.padded);
        for (int p = 0; p < P; p++)
            std::memcpy(at.states + p * at.plane, at.states + p * at.plane + some * at.row, at.row * sizeof(T));
    }
}
