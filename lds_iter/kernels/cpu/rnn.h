// The compiled plain recurrent network: value = tanh(u + W h), or relu of it.
#pragma once
#include "cell.h"

namespace {

template <class T, bool RELU, int W = NATIVE<T>> struct Rnn {
    using Number = T;
    template <int L> using Narrow = Rnn<T, RELU, L>;
    static constexpr int GATES = 1, PARTS = 1, FIRST = 1, OWN = 0, GRADIENTS = 1;
    static constexpr int INPUTS[] = {0}, DIRECT[] = {-1};
    static constexpr bool BIASED = false;
    using V = Vec<T, W>;
    V h;

    [[gnu::always_inline]] Rnn(const V* pre, const V*, const V* u, V) {
        const V x = pre[0] + u[0];
        if constexpr (RELU) h = x < 0 ? V{} : x;  // NaN stays
        else h = tanh_<T, W>(x);
    }
    void value(V* out) const { out[0] = h; }

    void jacobian(V* a, V*) const {
        if constexpr (RELU) a[0] = h > 0 ? V{} + 1 : V{};
        else a[0] = 1 - h * h;
    }
    template <class U> static void apply(const U* a, const U*, const U* p, const U*, U* out) { out[0] = a[0] * p[0]; }
    template <class U> static void local(const U* a, const U*, const U* w, U* out) { out[0] = a[0] * w[0]; }
    template <class U> static void transpose(const U* a, const U*, const U* l, U* p, U* out) {
        p[0] = a[0] * l[0];
        out[0] = U{};
    }
    void gradients(const V* g, V* out) const {
        V a[1], own[1], direct[1];
        jacobian(a, own);
        transpose(a, own, g, out, direct);
    }
};

template <class T> using Tanh = Rnn<T, false>;
template <class T> using Relu = Rnn<T, true>;

}  // namespace
