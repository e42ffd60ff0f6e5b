// One iteration of Newton's method, or of its forms with blocks and diagonals, over all rows of a cell, in one pass over
// memory: what the loop in lds_iter/sweep.py does in tiles. Blocks of rows are evaluated by any thread; then, in turn,
// d_t = A_t d_{t-1} + r_t runs on, rows at the frontier are accepted, and the residual is measured.
#pragma once
#include "cell_rows.h"

// What A_t is: the diagonal of the Jacobian, its blocks within the channels, or all of it, which is never formed.
enum Form { DIAGONAL, BLOCKS, FULL };

// The row at `in` of block.d = J d + r, where d is the row before it, in planes; W lanes at a time, several sums a gate.
template <class C, int W, class T>
void multiply(const Weights<C>& cell, const Block<C>& block, int64_t in, const T* d, int64_t plane) {
    constexpr int G = C::GATES, P = C::PARTS, E = G == 1 ? 4 : 2;
    using V = Vec<T, W>;
    const T* w = cell.w;
    for (int64_t j = 0; j < cell.padded; j += W) {
        V sum[G][E] = {}, p[G], a[G], own[larger(C::OWN, 1)], now[P], r[P], out[P];
        int64_t k = 0;
        for (; k + E <= cell.width; k += E, w += E * G * W)
            for (int g = 0; g < G; g++)
                for (int e = 0; e < E; e++) sum[g][e] = load<V>(w + (e * G + g) * W) * d[k + e] + sum[g][e];
        for (; k < cell.width; k++, w += G * W)
            for (int g = 0; g < G; g++) sum[g][0] = load<V>(w + g * W) * d[k] + sum[g][0];
        for (int g = 0; g < G; g++) {
            p[g] = sum[g][0] + sum[g][1];
            if (E == 4) p[g] = p[g] + (sum[g][E - 2] + sum[g][E - 1]);
        }
        load_all<G>(a, block.pre + in + j, block.size);
        load_all<C::OWN>(own, block.own + in + j, block.size);
        load_all<P>(now, d + j, plane);
        load_all<P>(r, block.r + in + j, block.size);
        C::apply(a, own, p, now, out);
        for (int q = 0; q < P; q++) store(block.d + q * block.size + in + j, out[q] + r[q]);
    }
}

// The same with the blocks of J within the channels, which lie where `multiply` has its slopes.
template <class C, int W, class T>
void multiply_blocks(const Weights<C>& cell, const Block<C>& block, int64_t in, const T* d, int64_t plane) {
    constexpr int P = C::PARTS;
    using V = Vec<T, W>;
    for (int64_t j = 0; j < cell.padded; j += W)
        for (int q = 0; q < P; q++) {
            V out = load<V>(block.r + q * block.size + in + j);
            for (int p = 0; p < P; p++)
                out = load<V>(block.pre + (q * P + p) * block.size + in + j) * load<V>(d + p * plane + j) + out;
            store(block.d + q * block.size + in + j, out);
        }
}

// Rows of a block, evaluated: values and, for a diagonal, A_t as rows; else r = v - s in planes, and A_t.
template <class C> struct Ready {
    using T = typename C::Number;
    const T *v, *a;
};

template <class C, class T>
Ready<C> prepare(const Iteration<T>& it, const Weights<C>& cell, Block<C>& block, const T* const* tensors, Form form,
                 int64_t row, int64_t some) {
    constexpr int G = C::GATES, P = C::PARTS;
    static_assert(P * P <= G, "blocks lie where slopes would");
    const int64_t count = it.batch * it.numbers, rows = some * it.batch, width = cell.width, padded = cell.padded;
    const T* here[G];
    for (int g = 0; g < G; g++) here[g] = tensors[g] + row * it.batch * width;
    evaluate(cell, block, rows, it.states + row * count, here, [&](int64_t i, int64_t c, const C& step) {
        keep_value<C, T>(block, i, step);
        if (form == FULL) return keep_jacobian<C, T>(block, i, step);
        Vec<T, NATIVE<T>> local[P * P];
        local_of(cell, c, step, local);
        if (form == BLOCKS) return store_all<P * P>(block.pre + i, block.size, local);
        for (int p = 0; p < P; p++) store(block.own + p * block.size + i, local[p * (P + 1)]);
    });
    const bool rows_as_planes = P == 1 && padded == width;
    const T* v = rows_as_planes ? block.value : block.state;
    if (!rows_as_planes) gather_rows<P>(block.state, block.value, block.size, rows, width, padded);
    if (form == DIAGONAL) {
        if (!rows_as_planes) gather_rows<P>(block.u, block.own, block.size, rows, width, padded);
        return {v, rows_as_planes ? block.own : block.u};
    }
    spread_rows<P>(block.r, block.size, it.states + (row + 1) * count, rows, width, padded);
    for (int p = 0; p < P; p++)
        for (int64_t i = p * block.size; i < p * block.size + rows * padded; i++) block.r[i] = block.value[i] - block.r[i];
    return {v, nullptr};
}

// Rows of a diagonal iteration; `free`: none is at or before the frontier or beyond the window.
template <class C, class T>
void finish_diagonal(Iteration<T>& it, const Ready<C>& ready, bool free, int64_t row, int64_t time, int64_t some) {
    const int64_t count = it.batch * it.numbers;
    if (free) return move<false>(it, ready.v, ready.a, row, some, 0, count);
    for (int64_t i = 0; i < some; i++)
        for (int64_t b = 0; b < it.batch; b++) {
            const T* v = ready.v + i * count;
            const Place where = place(it, v, row + i, time + i, b);
            if (where != HELD)
                move<false>(it, v, ready.a + i * count, row + i, 1, b * it.numbers, (b + 1) * it.numbers);
            if (where != FREE) hold(it, where, v, row + i, b);
        }
}

// Rows of another iteration: d runs on in planes, then all rows move. carry: the last d of the block before, in planes.
template <class C, int W, class T>
void finish(Iteration<T>& it, const Weights<C>& cell, Block<C>& block, const Ready<C>& ready, Form form, bool free,
            int64_t row, int64_t time, int64_t some, T* carry) {
    constexpr int P = C::PARTS;
    const int64_t count = it.batch * it.numbers, padded = cell.padded, beside = it.batch * padded;
    const bool rows_as_planes = P == 1 && padded == cell.width;
    T* d = rows_as_planes ? block.d : block.value;
    for (int64_t i = 0; i < some; i++)
        for (int64_t b = 0; b < it.batch; b++) {
            const int64_t in = (i * it.batch + b) * padded, at = b * it.numbers;
            const T *v = ready.v + i * count, *before = i ? block.d + in - beside : carry + b * padded;
            const Place where = free ? FREE : place(it, v, row + i, time + i, b);
            if (where == FREE && form == FULL) multiply<C, W>(cell, block, in, before, i ? block.size : beside);
            else if (where == FREE) multiply_blocks<C, W>(cell, block, in, before, i ? block.size : beside);
            else
                for (int p = 0; p < P; p++)
                    for (int64_t j = p * block.size + in; j < p * block.size + in + padded; j++)
                        block.d[j] = where == HELD ? 0 : block.r[j];
            if (free) continue;
            if (!rows_as_planes && where != HELD)
                gather_rows<P>(d + i * count + at, block.d + in, block.size, 1, cell.width, padded);
            if (where != HELD) move<true>(it, v, d + i * count, row + i, 1, at, at + it.numbers);
            if (where != FREE) hold(it, where, v, row + i, b);
        }
    for (int p = 0; p < P; p++)
        std::memcpy(carry + p * beside, block.d + p * block.size + (some - 1) * beside, beside * sizeof(T));
    if (!free) return;
    if (!rows_as_planes) gather_rows<P>(d, block.d, block.size, some * it.batch, cell.width, padded);
    move<true>(it, ready.v, d, row, some, 0, count);
}

// One iteration from the states to the proposals in `next`, the rows at hand beginning at time `start`. 1 comes back
// where a proposal is not finite.
template <class C, class T>
int64_t sweep(Iteration<T>& it, T* found, const T* const* tensors, int64_t start, int64_t n, int64_t width, Form form,
              int64_t threads) {
    Weights<C> cell = pack<C>(tensors, width);
    const int64_t batch = it.batch, count = batch * it.numbers, steps = cell.rows > batch ? cell.rows / batch : 1;
    const int64_t blocks = (n + steps - 1) / steps, planes = C::PARTS * batch * cell.padded;
    cell.rows = steps * batch;
    int64_t lowest = it.lo[0], farthest = it.hi[0];
    for (int64_t b = 0; b < batch; b++) {
        if (it.lo[b] < lowest) lowest = it.lo[b];
        if (it.hi[b] > farthest) farthest = it.hi[b];
    }
    const Room<T> carry(planes);
    const auto settle = [&](Block<C>& block, const Ready<C>& ready, int64_t row, int64_t some) {
        const int64_t time = start + row;
        bool free = true;
        for (int64_t b = 0; b < batch; b++) free &= it.lo[b] < time && it.hi[b] >= time + some;
        if (form == DIAGONAL) return finish_diagonal(it, ready, free, row, time, some);
        by_lanes<T>(cell.lanes, [&](auto lanes) {
            finish<C, decltype(lanes)::value>(it, cell, block, ready, form, free, row, time, some, carry.all);
        });
    };
    if (n * count < 8192) threads = 1;
    in_turn<Block<C>>(cell, blocks, threads, [&](Block<C>& block, int64_t i, auto turn) {
        const int64_t row = i * steps, some = n - row < steps ? n - row : steps;
        const bool moves = start + row + some > lowest && start + row < farthest;
        Ready<C> ready{};
        if (moves) ready = prepare(it, cell, block, tensors, form, row, some);
        turn([&] {
            if (moves) return settle(block, ready, row, some);
            std::memcpy(it.next + row * count, it.states + (row + 1) * count, some * count * sizeof(T));
            std::memset(it.d, 0, count * sizeof(T));
            std::memset(carry.all, 0, planes * sizeof(T));
        });
    });
    it.tell(found);
    return it.unfinished == 0 ? 0 : 1;
}
