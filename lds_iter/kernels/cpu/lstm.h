// The compiled LSTM; its state is (h, c), side by side:
//     i, f, o = sigmoid(u_k + W_k h)   g = tanh(u_g + W_g h)   c' = f c + i g   h' = o tanh(c')        gates: i, f, g, o
#pragma once
#include "cell.h"

namespace {

template <class T, int W = NATIVE<T>> struct Lstm {
    using Number = T;
    template <int L> using Narrow = Lstm<T, L>;
    static constexpr int GATES = 4, PARTS = 2, FIRST = 1, OWN = 2, GRADIENTS = 5;
    static constexpr int INPUTS[] = {0, 1, 2, 3}, DIRECT[] = {-1, 4};
    static constexpr bool BIASED = false;
    using V = Vec<T, W>;
    V i, f, g, o, before, c, squashed;

    [[gnu::always_inline]] Lstm(const V* pre, const V* state, const V* u, V) {
        i = sigmoid<T, W>(pre[0] + u[0]);
        f = sigmoid<T, W>(pre[1] + u[1]);
        g = tanh_<T, W>(pre[2] + u[2]);
        o = sigmoid<T, W>(pre[3] + u[3]);
        before = state[1];
        c = f * before + i * g;
        squashed = tanh_<T, W>(c);
    }
    void value(V* out) const { out[0] = o * squashed, out[1] = c; }

    // d_c' = f d_c + P with P = sum of a_k p_k over i, f, g;   d_h' = e d_c' + a_o p_o.   own: f, e
    void jacobian(V* a, V* own) const {
        a[0] = g * ((1 - i) * i);
        a[1] = before * ((1 - f) * f);
        a[2] = i * (1 - g * g);
        a[3] = squashed * ((1 - o) * o);
        own[0] = f;
        own[1] = o * (1 - squashed * squashed);
    }
    template <class U> static void apply(const U* a, const U* own, const U* p, const U* d, U* out) {
        out[1] = own[0] * d[1] + a[0] * p[0] + a[1] * p[1] + a[2] * p[2];
        out[0] = own[1] * out[1] + a[3] * p[3];
    }
    template <class U> static void local(const U* a, const U* own, const U* w, U* out) {
        const U inner = a[0] * w[0] + a[1] * w[1] + a[2] * w[2];
        out[0] = own[1] * inner + a[3] * w[3], out[1] = own[1] * own[0];
        out[2] = inner, out[3] = own[0];
    }
    template <class U> static void transpose(const U* a, const U* own, const U* l, U* p, U* out) {
        const U cell = own[1] * l[0] + l[1];
        for (int k = 0; k < 3; k++) p[k] = a[k] * cell;
        p[3] = a[3] * l[0];
        out[0] = U{}, out[1] = own[0] * cell;
    }
    // For gradients of h' and c': of the four W_k h, which are those of u_k, and of c.
    void gradients(const V* l, V* out) const {
        V a[4], own[2], direct[2];
        jacobian(a, own);
        transpose(a, own, l, out, direct);
        out[4] = direct[1];
    }
};

}  // namespace
