// Rows of one iteration: their residual, which of them are accepted, and what is proposed for them.
#pragma once
#include <cmath>
#include <limits>

#include "cell.h"

// What one iteration knows of each number or sequence while it goes through time.
template <class T> struct Iteration {
    int64_t batch, numbers;  // numbers: of a state
    const T* states;         // row 0: the state before the first row at hand
    T* next;
    int64_t* lo;
    const int64_t* hi;
    T rtol, atol;
    T unfinished = 0;  // NaN once a proposal is not finite
    Room<T> room;
    T *d, *largest, *excess, *accepted;

    Iteration(int64_t batch, int64_t numbers, const T* states, T* next, int64_t* lo, const int64_t* hi, T rtol, T atol)
        : batch(batch), numbers(numbers), states(states), next(next), lo(lo), hi(hi), rtol(rtol), atol(atol) {
        const int64_t count = batch * numbers;
        room = Room<T>(3 * count + batch);
        d = room.all, largest = d + count, excess = largest + count, accepted = excess + count;
        for (int64_t i = 0; i < count; i++) excess[i] = -std::numeric_limits<T>::infinity();
    }
    // Of each sequence the largest residual, by how much it exceeds its relative part, and that of accepted rows.
    void tell(T* found) const {
        for (int64_t b = 0; b < batch; b++) {
            T most = 0, over = 0;
            for (int64_t i = b * numbers; i < (b + 1) * numbers; i++) {
                most = largest_of<T, 1>(most, largest[i]);
                over = largest_of<T, 1>(over, excess[i]);
            }
            found[b] = most, found[batch + b] = over, found[2 * batch + b] = accepted[b];
        }
    }
};

// Rows [t, t + rows) of the numbers [at, last): r = v - s, proposal s + d. d is what `a` holds where GIVEN, else
// a d + r. v and a have rows of `count`.
template <bool GIVEN, class T, int W = NATIVE<T>>
void move(Iteration<T>& it, const T* v, const T* a, int64_t t, int64_t rows, int64_t at, int64_t last) {
    using V = Vec<T, W>;
    const int64_t count = it.batch * it.numbers;
    for (; at + W <= last; at += W) {
        V d = load<V>(it.d + at), largest = load<V>(it.largest + at), excess = load<V>(it.excess + at), flaw = {};
        const T *s = it.states + (t + 1) * count + at, *vs = v + at, *as = a + at;
        T* next = it.next + t * count + at;
        for (int64_t i = 0; i < rows; i++, s += count, next += count, vs += count, as += count) {
            const V value = load<V>(vs), state = load<V>(s), r = value - state;
            if constexpr (GIVEN) d = load<V>(as);
            else d = load<V>(as) * d + r;
            const V now = state + d;
            store(next, now);
            flaw = flaw + (now - now);
            const V size = magnitude<T, W>(r);
            largest = largest_of<T, W>(largest, size);
            excess = largest_of<T, W>(excess, size - it.rtol * magnitude<T, W>(value));
        }
        store(it.d + at, d);
        store(it.largest + at, largest);
        store(it.excess + at, excess);
        T flaws[W];
        store(flaws, flaw);
        for (int k = 0; k < W; k++) it.unfinished += flaws[k];
    }
    if constexpr (W > 1)
        if (at < last) move<GIVEN, T, W / 2>(it, v, a, t, rows, at, last);
}

// The largest residual of a row where it is rounding alone, and within the stopping tolerance (see lds_iter.loop.frontier);
// else -1.
template <class T> T within_rounding(const T* v, const T* s, const T* prev, int64_t numbers, T rtol, T atol) {
    constexpr int W = NATIVE<T>;
    using V = Vec<T, W>;
    const auto over_row = [&](auto act) {
        int64_t j = 0;
        for (; j + W <= numbers; j += W) act(load<V>(v + j), load<V>(s + j), load<V>(prev + j));
        if (j == numbers) return;
        T last[3][W] = {};
        for (int k = 0; j + k < numbers; k++) last[0][k] = v[j + k], last[1][k] = s[j + k], last[2][k] = prev[j + k];
        act(load<V>(last[0]), load<V>(last[1]), load<V>(last[2]));
    };
    V most = {}, worst = {}, beyond = {};
    over_row([&](V value, V, V before) {
        most = largest_of<T, W>(most, magnitude<T, W>(value));
        most = largest_of<T, W>(most, magnitude<T, W>(before));
    });
    const T rounding = largest_in<T, W>(most) * (4 * std::numeric_limits<T>::epsilon());
    over_row([&](V value, V state, V) {
        const V own = magnitude<T, W>(value) * rtol + atol, bound = rounding < own ? V{} + rounding : own;
        const V size = magnitude<T, W>(value - state);
        beyond = (size <= bound) & (bound < std::numeric_limits<T>::infinity()) ? beyond : V{} + 1;
        worst = largest_of<T, W>(worst, size);
    });
    return largest_in<T, W>(beyond) > 0 ? -1 : largest_in<T, W>(worst);
}

enum Place { HELD, FRONTIER, FREE };

// What a row of a sequence is. A row that is accepted or beyond the window keeps its state (d = 0), the frontier row
// takes its value as it is (A = 0).
template <class T> Place place(Iteration<T>& it, const T* v, int64_t row, int64_t time, int64_t mate) {
    const int64_t count = it.batch * it.numbers, at = mate * it.numbers;
    const T *s = it.states + (row + 1) * count + at, *prev = it.states + row * count + at;
    int64_t& lo = it.lo[mate];
    if (time > lo && time < it.hi[mate]) return FREE;
    if (time != lo || time >= it.hi[mate]) return HELD;
    const T size = within_rounding(v + at, s, prev, it.numbers, it.rtol, it.atol);
    if (size < 0) return FRONTIER;
    if (size > it.accepted[mate]) it.accepted[mate] = size;
    lo = time + 1;
    return HELD;
}

// The end of a row that is not free, in d and in the proposal.
template <class T> void hold(Iteration<T>& it, Place where, const T* v, int64_t row, int64_t mate) {
    const int64_t count = it.batch * it.numbers, at = mate * it.numbers;
    const T* s = it.states + (row + 1) * count + at;
    T *next = it.next + row * count + at, *d = it.d + at;
    std::memcpy(next, where == HELD ? s : v + at, it.numbers * sizeof(T));
    for (int64_t j = 0; j < it.numbers; j++) d[j] = where == HELD ? 0 : v[at + j] - s[j];
}
