// One iteration of Newton's method, or of its diagonal form, over all rows of a GRU, in one pass over memory: what the
// loop in lds_iter/sweep.py does in tiles. Blocks of rows are evaluated by any thread; then, in turn, the residual is
// measured, rows at the frontier are accepted, and d_t = A_t d_{t-1} + r_t runs on.
#pragma once
#include <cmath>
#include <limits>

#include "gru_cell.h"

// What one iteration knows of each channel or sequence while it goes through time.
template <class T> struct Iteration {
    int64_t batch, width;
    const T *states;  // row 0: the state before the first row at hand
    T *next, *d, *largest, *excess;
    int64_t *lo;
    const int64_t* hi;
    T rtol, atol;
    T unfinished = 0;  // NaN once a proposal is not finite
};

// Rows [t, t + rows) of the channels [at, last): r = v - s, d = a d + r, proposal s + d; v and a have rows of `count`.
template <class T, int W>
void move(Iteration<T>& it, const T* v, const T* a, int64_t t, int64_t rows, int64_t at, int64_t last) {
    using V = Vec<T, W>;
    const int64_t count = it.batch * it.width;
    for (; at + W <= last; at += W) {
        V d = load<V>(it.d + at), largest = load<V>(it.largest + at), excess = load<V>(it.excess + at), flaw = {};
        const T *s = it.states + (t + 1) * count + at, *vs = v + at, *as = a + at;
        T* next = it.next + t * count + at;
        for (int64_t i = 0; i < rows; i++, s += count, next += count, vs += count, as += count) {
            const V value = load<V>(vs), state = load<V>(s), r = value - state;
            d = load<V>(as) * d + r;
            const V now = state + d;
            store(next, now);
            flaw = flaw + (now - now);
            const V size = r < 0 ? -r : r, over = size - it.rtol * (value < 0 ? -value : value);
            largest = (size > largest) | (size != size) ? size : largest;
            excess = (over > excess) | (over != over) ? over : excess;
        }
        store(it.d + at, d);
        store(it.largest + at, largest);
        store(it.excess + at, excess);
        T flaws[W];
        store(flaws, flaw);
        for (int k = 0; k < W; k++) it.unfinished += flaws[k];
    }
    if constexpr (W > 1)
        if (at < last) move<T, W / 2>(it, v, a, t, rows, at, last);
}

// made = J d with J = diag(z) + diag(a_r) W_r + diag(a_z) W_z + diag(a_n) W_n, which is never formed. z and the slopes
// are a padded row of the block, d and made are padded too; W lanes at a time, two sums a gate.
template <class T, int W>
void multiply(const Cell<T>& cell, const Block<T>& block, int64_t in, const T* d, T* made) {
    using V = Vec<T, W>;
    const T* w = cell.w;
    for (int64_t j = 0; j < cell.padded; j += W) {
        V sum[3][2] = {};
        int64_t k = 0;
        for (; k + 2 <= cell.width; k += 2, w += 6 * W)
            for (int g = 0; g < 3; g++)
                for (int e = 0; e < 2; e++) sum[g][e] = load<V>(w + (3 * e + g) * W) * d[k + e] + sum[g][e];
        if (k < cell.width) {
            for (int g = 0; g < 3; g++) sum[g][0] = load<V>(w + g * W) * d[k] + sum[g][0];
            w += 3 * W;
        }
        V out = load<V>(block.diagonal + in + j) * load<V>(d + j);
        for (int g = 0; g < 3; g++) out = load<V>(block.pre + g * block.size + in + j) * (sum[g][0] + sum[g][1]) + out;
        store(made + j, out);
    }
}

template <class T> void multiply(const Cell<T>& cell, const Block<T>& block, int64_t in, const T* d, T* made) {
    constexpr int N = NATIVE<T>, SMALL = 16 / (int)sizeof(T);
    const int lanes = lanes_for<T>(cell.width);
    if (lanes == N) return multiply<T, N>(cell, block, in, d, made);
    if (lanes == SMALL) return multiply<T, SMALL>(cell, block, in, d, made);
    return multiply<T, N / 2>(cell, block, in, d, made);
}

// Whether the residual of a row is rounding alone, and within the stopping tolerance (see lds_iter.frontier).
template <class T> bool at_rounding_level(const T* v, const T* s, const T* prev, int64_t width, T rtol, T atol) {
    T largest = 0;
    for (int64_t j = 0; j < width; j++) {
        const T one = std::abs(v[j]), other = std::abs(prev[j]);
        if (!(one <= largest)) largest = one;
        if (!(other <= largest)) largest = other;
    }
    const T rounding = largest * (4 * std::numeric_limits<T>::epsilon());
    for (int64_t j = 0; j < width; j++) {
        const T own = std::abs(v[j]) * rtol + atol, bound = rounding < own ? rounding : own;
        if (!(std::abs(v[j] - s[j]) <= bound) || !(bound < std::numeric_limits<T>::infinity())) return false;
    }
    return true;
}

enum Place { HELD, FRONTIER, FREE };

// What a row of a sequence is. A row that is accepted or beyond the window keeps its state (d = 0), the frontier row
// takes its value as it is (A = 0).
template <class T>
Place place(Iteration<T>& it, const T* v, int64_t row, int64_t time, int64_t mate, T* accepted) {
    const int64_t count = it.batch * it.width, at = mate * it.width;
    const T *s = it.states + (row + 1) * count + at, *prev = it.states + row * count + at;
    int64_t& lo = it.lo[mate];
    if (time > lo && time < it.hi[mate]) return FREE;
    if (time != lo || time >= it.hi[mate]) return HELD;
    if (!at_rounding_level(v + at, s, prev, it.width, it.rtol, it.atol)) return FRONTIER;
    for (int64_t j = 0; j < it.width; j++) {
        const T size = std::abs(v[at + j] - s[j]);
        if (size > accepted[mate]) accepted[mate] = size;
    }
    lo = time + 1;
    return HELD;
}

// The end of a row that is not free, in `d` and in the proposal.
template <class T> void hold(Iteration<T>& it, Place where, const T* v, int64_t row, int64_t mate, T* d) {
    const int64_t count = it.batch * it.width, at = mate * it.width;
    const T* s = it.states + (row + 1) * count + at;
    T* next = it.next + row * count + at;
    for (int64_t j = 0; j < it.width; j++) {
        d[j] = where == HELD ? 0 : v[at + j] - s[j];
        next[j] = where == HELD ? s[j] : v[at + j];
    }
}

// One iteration from the states in `buffer` (its row 0 lies before the first row at hand) to the proposals in `next`:
// A_t is the Jacobian where `full`, else its diagonal. 1 comes back where a proposal is not finite.
template <class T>
int64_t sweep(const T* buffer, T* next, const T* const u[3], const T* const w[3], const T* bias, T* d, T* largest,
              T* excess, T* accepted, int64_t* lo, const int64_t* hi, int64_t start, int64_t n, int64_t batch,
              int64_t width, int64_t full, int64_t threads, T rtol, T atol) {
    Cell<T> cell = pack(w[0], w[1], w[2], bias, width);
    const int64_t count = batch * width, steps = cell.rows > batch ? cell.rows / batch : 1;
    const int64_t blocks = (n + steps - 1) / steps;
    cell.rows = steps * batch;
    int64_t lowest = lo[0], farthest = hi[0];
    for (int64_t b = 0; b < batch; b++) {
        if (lo[b] < lowest) lowest = lo[b];
        if (hi[b] > farthest) farthest = hi[b];
    }
    Iteration<T> it{batch, width, buffer, next, d, largest, excess, lo, hi, rtol, atol};
    // Of a full iteration: the updates and the product with one of them, padded, and factors 1 in place of a diagonal.
    std::unique_ptr<T[]> updates(new T[(batch + 1) * cell.padded + count]());
    T *product = &updates[batch * cell.padded], *ones = product + cell.padded;
    for (int64_t i = 0; i < count; i++) ones[i] = 1;
    const auto prepare = [&](Block<T>& block, int64_t row, int64_t some) {
        if (start + row + some <= lowest || start + row >= farthest) return false;
        const T *h = buffer + row * count, *here[3] = {u[0] + row * count, u[1] + row * count, u[2] + row * count};
        if (full) {
            evaluate(cell, block, some * batch, h, here, [&](int64_t i, int64_t, const Gates<T>& gates) {
                const auto through = gates.through_n();
                store(block.pre + i, gates.slope_r() * through);
                store(block.pre + block.size + i, gates.slope_z());
                store(block.pre + 2 * block.size + i, gates.r * through);
                store(block.diagonal + i, gates.z);
                store(block.value + i, gates.value());
            });
        } else {
            evaluate_diagonal(cell, block, some * batch, h, here);
            if (cell.padded != width) gather_rows(block.u[0], block.diagonal, some * batch, cell);
        }
        if (cell.padded != width) gather_rows(block.h, block.value, some * batch, cell);  // room that has been read
        return true;
    };
    const auto finish = [&](Block<T>& block, int64_t row, int64_t some) {
        const bool same = cell.padded == width;
        const T *v = same ? block.value : block.h, *a = same ? block.diagonal : block.u[0];
        bool free = !full;
        for (int64_t b = 0; b < batch; b++) free &= lo[b] < start + row && hi[b] >= start + row + some;
        if (free) return move<T, NATIVE<T>>(it, v, a, row, some, 0, count);
        for (int64_t i = 0; i < some; i++)
            for (int64_t b = 0; b < batch; b++) {
                const T* values = v + i * count;
                const Place where = place(it, values, row + i, start + row + i, b, accepted);
                T *own = &updates[b * cell.padded], *update = d + b * width;
                if (full && where != HELD) {
                    multiply(cell, block, (i * batch + b) * cell.padded, own, product);
                    std::memcpy(update, product, width * sizeof(T));
                }
                if (where != HELD)
                    move<T, NATIVE<T>>(it, values, full ? ones : a + i * count, row + i, 1, b * width, (b + 1) * width);
                if (where != FREE) hold(it, where, values, row + i, b, update);
                if (full) std::memcpy(own, update, width * sizeof(T));
            }
    };
    const auto rest = [&](int64_t row, int64_t some) {
        std::memcpy(next + row * count, buffer + (row + 1) * count, some * count * sizeof(T));
        std::memset(d, 0, count * sizeof(T));
        std::memset(updates.get(), 0, batch * cell.padded * sizeof(T));
    };
    if (n * count < 8192) threads = 1;
    in_turn<Block<T>>(cell, blocks, threads, [&](Block<T>& block, int64_t i, auto turn) {
        const int64_t row = i * steps, some = n - row < steps ? n - row : steps;
        const bool moves = prepare(block, row, some);
        turn([&] {
            if (moves) finish(block, row, some);
            else rest(row, some);
        });
    });
    return it.unfinished == 0 ? 0 : 1;
}
