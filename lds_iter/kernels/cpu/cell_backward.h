// The gradients of all steps of a cell: from the last to the first, l_t = g_t + J_{t+1}^T l_{t+1}, and on the way what
// arrives at products and inputs. Products are made anew, for a whole block of steps; no Jacobian is formed.
#pragma once
#include "cell_net.h"

// Room for `rows` steps of `mine` batch elements.
template <class C> struct BackwardRoom {
    using T = typename C::Number;
    static constexpr int G = C::GATES, P = C::PARTS, EXTRA = C::GRADIENTS - C::GATES;
    int64_t rows, row, plane;
    Room<T> room;
    T *states, *incoming, *pre, *slopes, *extra, *carry, *u, *fed, *back;

    BackwardRoom(const Net<C>& net, int64_t mine, int64_t n) : row(mine * net.padded) {
        rows = 2048 / row + 8;
        if (rows > n) rows = n;
        plane = rows * row;
        const int64_t inputs = Inputs<C>::room(net, plane), fed_row = mine * net.projection.padded;
        room = Room<T>((2 * P + 2 * G + EXTRA) * plane + P * row + inputs + (rows + 1) * fed_row);
        states = room.all, incoming = states + P * plane, pre = incoming + P * plane, slopes = pre + G * plane;
        extra = slopes + G * plane, carry = extra + EXTRA * plane, u = carry + P * row, fed = u + inputs;
        back = fed + rows * fed_row;
    }
};

// The matrices that carry gradients from products back to what was multiplied.
template <class C> struct Back {
    using T = typename C::Number;
    Packed<T, 1> gates, projection;
    explicit Back(const Net<C>& net) {
        constexpr int G = C::GATES;
        gates = Packed<T, 1>(net.inner, G * net.padded, net.lanes, 1, [&](int, int64_t k) -> const T* {
            return k % net.padded < net.width ? net.tensors[G + k / net.padded] + k % net.padded * net.inner : nullptr;
        });
        if (!net.projected) return;
        const T* w = net.tensors[2 * G + C::BIASED];
        projection = Packed<T, 1>(net.width, gates.padded, net.lanes, 1, [&](int, int64_t k) -> const T* {
            return k < net.inner ? w + k * net.width : nullptr;
        });
    }
};

// The products of a block, each thread its part of the channels.
template <class C, int W> void again(const Net<C>& net, BackwardRoom<C>& at, int64_t rows, const Share& share) {
    const auto* h = at.states;
    int64_t apart = net.padded, fed = net.projection.padded;
    if (net.projected) {
        multiply_all<1, W>(net.projection, h, apart, rows * share.mine, at.fed, fed, 0, share.begin(fed, W), share.end(fed, W));
        share.wait();
        h = at.fed, apart = fed;
    }
    multiply_all<C::GATES, W>(net.gates, h, apart, rows * share.mine, at.pre, net.padded, at.plane,
                              share.begin(net.padded, W), share.end(net.padded, W));
}

// carry = J^T l for what carry holds of J^T l already, beside what comes through products. slopes: of these.
template <class C, int W, class T>
void through_products(const Net<C>& net, const Back<C>& back, BackwardRoom<C>& at, const T* slopes, const Share& share) {
    using V = Vec<T, W>;
    const auto add = [&](const Packed<T, 1>& matrix, const T* x, int64_t apart) {
        for (int64_t j = share.begin(net.padded, W); j < share.end(net.padded, W); j += W)
            together<1>(share.mine, [&](int64_t i, auto some) {
                constexpr int R = decltype(some)::value;
                V sum[1][R];
                times<1, W, R>(matrix, j, x + i * apart, apart, sum);
                UNROLLED for (int r = 0; r < R; r++) {
                    T* to = at.carry + (i + r) * net.padded + j;
                    store(to, load<V>(to) + sum[0][r]);
                }
            });
    };
    const int64_t apart = C::GATES * net.padded, inner = back.gates.padded;
    if (!net.projected) return add(back.gates, slopes, apart);
    multiply_all<1, W>(back.gates, slopes, apart, share.mine, at.back, inner, 0, share.begin(inner, W), share.end(inner, W));
    share.wait();
    add(back.projection, at.back, inner);
}

template <class C, int W, class T>
void some_steps_back(const Net<C>& net, const Back<C>& back, BackwardRoom<C>& at, const Inputs<C>& u, int64_t rows,
                     const Share& share) {
    constexpr int G = C::GATES, P = C::PARTS, N = C::GRADIENTS;
    using Cell = typename C::template Narrow<W>;
    using V = Vec<T, W>;
    const int64_t padded = net.padded, begin = share.begin(padded, W), end = share.end(padded, W);
    again<C, W>(net, at, rows, share);
    for (int64_t t = rows - 1; t >= 0; t--) {
        T* slopes = at.slopes + t * G * at.row;
        for (int64_t i = 0; i < share.mine; i++)
            for (int64_t j = begin; j < end; j += W) {
                const int64_t in = t * at.row + i * padded + j;
                V pre[G], x[G], before[P], l[P], made[N];
                T* carry = at.carry + i * padded + j;
                load_all<G>(pre, at.pre + in, at.plane);
                load_all<P>(before, at.states + in, at.plane);
                load_all<P>(l, at.incoming + in, at.plane);
                for (int p = 0; p < P; p++) l[p] = l[p] + load<V>(carry + p * at.row);
                for (int g = 0; g < G; g++) x[g] = load<V>(u.at[g] + t * u.step + i * u.apart + j);
                Cell(pre, before, x, load<V>(net.bias.all + j)).gradients(l, made);
                store_all<G>(slopes + i * G * padded + j, padded, made);
                store_all<N - G>(at.extra + in, at.plane, made + G);
                for (int p = 0; p < P; p++)
                    store(carry + p * at.row, C::DIRECT[p] < 0 ? V{} : made[larger(C::DIRECT[p], 0)]);
            }
        share.wait();
        through_products<C, W>(net, back, at, slopes, share);
        share.wait();
    }
}

// What the steps of a block found out: out[k] are the tensors of `gradients`, as far as wanted.
template <class C, class T>
void tell(const Net<C>& net, const BackwardRoom<C>& at, T* const* out, int64_t time, int64_t rows, const Share& share) {
    constexpr int G = C::GATES;
    for (int64_t t = 0; t < rows; t++)
        for (int64_t i = 0; i < share.mine; i++) {
            const int64_t row = ((time + t) * net.batch + share.first + i) * net.width;
            for (int k = 0; k < C::GRADIENTS; k++) {
                const T* from = k < G ? at.slopes + ((t * share.mine + i) * G + k) * net.padded
                                      : at.extra + (k - G) * at.plane + t * at.row + i * net.padded;
                if (out[k]) std::memcpy(out[k] + row, from, net.width * sizeof(T));
            }
        }
}

template <class C, class T>
int64_t backward(const T* const* tensors, const T* s0, const T* states, const T* g, T* const* out, T* first, int64_t n,
                 int64_t batch, int64_t width, int64_t inner, int64_t threads) {
    constexpr int P = C::PARTS;
    const Net<C> net(tensors, batch, width, inner);
    const Back<C> back(net);
    const int64_t count = batch * P * width, padded = net.padded;
    for (int k = 0; k < C::GRADIENTS; k++) in_large_pages(out[k], n * batch * width * sizeof(T));
    const auto make = [&](int64_t mine) { return BackwardRoom<C>(net, mine, n); };
    over_batch(batch, n, 2 * net.work(), threads, make, [&](BackwardRoom<C>& at, const Share& share) {
        for (int64_t end = n; end > 0; end -= at.rows) {
            const int64_t t = end > at.rows ? end - at.rows : 0, some = end - t;
            if (share.leads()) {
                if (t == 0) take<P>(at.states, at.plane, s0, 1, share, batch, width, padded);
                const int64_t skip = t == 0 ? 1 : 0;
                take<P>(at.states + skip * at.row, at.plane, states + (t - 1 + skip) * count, some - skip, share, batch, width, padded);
                take<P>(at.incoming, at.plane, g + t * count, some, share, batch, width, padded);
            }
            const Inputs<C> u(net, share, at.u, at.plane, t, some);
            share.wait();
            by_lanes<T>(net.lanes, [&](auto lanes) {
                some_steps_back<C, decltype(lanes)::value, T>(net, back, at, u, some, share);
            });
            if (share.leads()) tell(net, at, out, t, some, share);
        }
        if (share.leads()) give<P>(first, at.carry, at.row, 1, share, batch, width, padded);
    });
    return 0;
}
