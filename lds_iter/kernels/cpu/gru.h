// The compiled GRU:
//     r = sigmoid(u_r + W_r h)   z = sigmoid(u_z + W_z h)   q = W_n h + b   n = tanh(u_n + r q)   value = n + z (h - n)
#pragma once
#include "cell.h"

namespace {

template <class T, int W = NATIVE<T>> struct Gru {
    using Number = T;
    template <int L> using Narrow = Gru<T, L>;
    static constexpr int GATES = 3, PARTS = 1, FIRST = 0, OWN = 1, GRADIENTS = 5;
    static constexpr int INPUTS[] = {0, 1, 4}, DIRECT[] = {3};
    static constexpr bool BIASED = true;
    using V = Vec<T, W>;
    V r, z, q, n, gap;

    [[gnu::always_inline]] Gru(const V* pre, const V* h, const V* u, V bias) {
        r = sigmoid<T, W>(pre[0] + u[0]);
        z = sigmoid<T, W>(pre[1] + u[1]);
        q = pre[2] + bias;
        n = tanh_<T, W>(r * q + u[2]);
        gap = h[0] - n;
    }
    void value(V* out) const { out[0] = z * gap + n; }
    V through_n() const { return (1 - z) * (1 - n * n); }  // what a change of the argument of n makes of the value

    // J = diag(z) + diag(a_r) W_r + diag(a_z) W_z + diag(a_n) W_n
    void jacobian(V* a, V* own) const {
        const V through = through_n();
        a[0] = q * ((1 - r) * r) * through;
        a[1] = gap * ((1 - z) * z);
        a[2] = r * through;
        own[0] = z;
    }
    template <class U> static void apply(const U* a, const U* own, const U* p, const U* d, U* out) {
        out[0] = own[0] * d[0] + a[0] * p[0] + a[1] * p[1] + a[2] * p[2];
    }
    template <class U> static void local(const U* a, const U* own, const U* w, U* out) {
        out[0] = own[0] + a[0] * w[0] + a[1] * w[1] + a[2] * w[2];
    }
    template <class U> static void transpose(const U* a, const U* own, const U* l, U* p, U* out) {
        for (int g = 0; g < 3; g++) p[g] = a[g] * l[0];
        out[0] = own[0] * l[0];
    }
    // For a gradient g of the value: of W_r h, W_z h and q, the direct part of that of h, and of u_n.
    void gradients(const V* g, V* out) const {
        V a[3], own[1];
        jacobian(a, own);
        transpose(a, own, g, out, out + 3);
        out[4] = through_n() * g[0];
    }
};

}  // namespace
