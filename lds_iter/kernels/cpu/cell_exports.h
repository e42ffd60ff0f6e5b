// What a compiled cell offers: its step with the part of the Jacobian within a channel, all of the Jacobian, the gradients
// of a step, the adjoint and whole iterations. `tensors`: see `pack`; they begin at the same row as the states.
#pragma once
#include "cell_adjoint.h"
#include "cell_sweep.h"

// Run body(block, some, at, here) on blocks of `some` rows, whose numbers begin at `at` and whose inputs are `here`.
template <class C, class T, class Body>
void by_blocks(const Weights<C>& cell, const T* const* u, int64_t rows, int64_t threads, Body body) {
    if (rows * cell.width * C::PARTS < 8192) threads = 1;
    spread(rows, cell.rows, threads, [&](int64_t begin, int64_t last) {
        Block<C> block(cell);
        for (int64_t i = begin; i < last; i += cell.rows) {
            const T* here[C::GATES];
            for (int g = 0; g < C::GATES; g++) here[g] = u[g] + i * cell.width;
            body(block, last - i < cell.rows ? last - i : cell.rows, i * cell.width, here);
        }
    });
}

// The value and, unless null, the blocks of the Jacobian within the channels, PARTS x PARTS numbers each.
template <class C, class T>
int64_t step(const T* const* tensors, const T* s, T* value, T* blocks, int64_t rows, int64_t width, int64_t threads) {
    constexpr int P = C::PARTS;
    const Weights<C> cell = pack<C>(tensors, width);
    by_blocks(cell, tensors, rows, threads, [&](Block<C>& block, int64_t some, int64_t at, const T* const* here) {
        if (blocks) {
            evaluate(cell, block, some, s + at * P, here, [&](int64_t i, int64_t c, const C& step) {
                keep_value<C, T>(block, i, step);
                Vec<T, NATIVE<T>> local[P * P];
                local_of(cell, c, step, local);
                store_all<P * P>(block.pre + i, block.size, local);
            });
            gather_rows<P * P>(blocks + at * P * P, block.pre, block.size, some, width, cell.padded);
        } else {
            evaluate(cell, block, some, s + at * P, here,
                     [&](int64_t i, int64_t, const C& step) { keep_value<C, T>(block, i, step); });
        }
        gather_rows<P>(value + at * P, block.value, block.size, some, width, cell.padded);
    });
    return 0;
}

// to[j * P] = slopes[0] w_0[j] + slopes[1] w_1[j] + ..., W channels at a time where they lie side by side.
template <class C, int W, class T>
inline void combine(T* to, const T* slopes, const T* const* w, int64_t at, int64_t j, int64_t width) {
    constexpr int P = C::PARTS;
    for (; j + W <= width; j += W) {
        Vec<T, W> sum = slopes[0] * load<Vec<T, W>>(w[0] + at + j);
        for (int g = 1; g < C::GATES; g++) sum = slopes[g] * load<Vec<T, W>>(w[g] + at + j) + sum;
        if constexpr (P == 1) store(to + j, sum);
        else if constexpr (W == 1) to[j * P] = sum;
        else
            for (int k = 0; k < W; k++) to[(j + k) * P] = sum[k];
    }
    if constexpr (W > 1) combine<C, W / 2>(to, slopes, w, at, j, width);
}

// All Jacobians, (PARTS width) x (PARTS width). What J makes of a product and of a number of the channel is what `apply`
// makes of a 1 in its place.
template <class C, class T>
int64_t jacobian(const T* const* tensors, const T* s, T* out, int64_t rows, int64_t width, int64_t threads) {
    constexpr int P = C::PARTS, G = C::GATES;
    const Weights<C> cell = pack<C>(tensors, width);
    by_blocks(cell, tensors, rows, threads, [&](Block<C>& block, int64_t some, int64_t at, const T* const* here) {
        evaluate(cell, block, some, s + at * P, here,
                 [&](int64_t i, int64_t, const C& step) { keep_jacobian<C, T>(block, i, step); });
        const int64_t row = P * width;
        T* to = out + at * P * row;
        for (int64_t i = 0; i < some * width; i++) {
            const int64_t k = i / width * cell.padded + i % width;
            T a[G], own[larger(C::OWN, 1)] = {}, slopes[P][G], local[P][P];
            for (int g = 0; g < G; g++) a[g] = block.pre[g * block.size + k];
            for (int m = 0; m < C::OWN; m++) own[m] = block.own[m * block.size + k];
            for (int one = 0; one < G + P; one++) {
                T p[G] = {}, d[P] = {}, made[P];
                (one < G ? p[one] : d[one - G]) = 1;
                C::apply(a, own, p, d, made);
                for (int q = 0; q < P; q++) (one < G ? slopes[q][one] : local[q][one - G]) = made[q];
            }
            for (int q = 0; q < P; q++, to += row) {
                if (P > 1) std::memset(to, 0, row * sizeof(T));
                combine<C, NATIVE<T>>(to, slopes[q], tensors + G, i % width * width, 0, width);
                for (int c = 0; c < P; c++) to[i % width * P + c] += local[q][c];
            }
        }
    });
    return 0;
}

// sum[k][g][j] += p_g[row][j] h[row][k], W channels j of all gates for R numbers k at a time, in the order of `arrange`.
template <class C, int W, int R, class T>
inline void outer_tile(const Weights<C>& cell, const Block<C>& block, const T* s, int64_t rows, int64_t k, T* to) {
    constexpr int G = C::GATES, P = C::PARTS;
    using V = Vec<T, W>;
    V sum[R][G] = {};
    for (int64_t i = 0; i < rows; i++) {
        V p[G];
        load_all<G>(p, block.pre + i * cell.padded, block.size);
        for (int r = 0; r < R; r++) {
            const T x = s[(i * cell.width + k + r) * P];
            for (int g = 0; g < G; g++) sum[r][g] = p[g] * x + sum[r][g];
        }
    }
    for (int r = 0; r < R; r++)
        for (int g = 0; g < G; g++) store(to + (r * G + g) * W, sum[r][g]);
}

// What the slopes of a block of rows make of the gradients of the matrices, in the order of `arrange`.
template <class C, class T>
void outer(const Weights<C>& cell, Block<C>& block, const T* s, int64_t rows, T* to) {
    by_lanes<T>(cell.lanes, [&](auto lanes) {
        constexpr int W = decltype(lanes)::value, R = rows_at_once<C>;
        T* pre = block.pre;
        for (int64_t j = 0; j < cell.padded; j += W, block.pre += W) {
            int64_t k = 0;
            for (; k + R <= cell.width; k += R, to += R * C::GATES * W) outer_tile<C, W, R>(cell, block, s, rows, k, to);
            for (; k < cell.width; k++, to += C::GATES * W) outer_tile<C, W, 1>(cell, block, s, rows, k, to);
        }
        block.pre = pre;
    });
}

// For a gradient g of the value the tensors that the cell says and, unless null, the gradients of the matrices, whose
// sum runs over blocks of rows in their order.
template <class C, class T>
int64_t gradients(const T* const* tensors, const T* s, const T* g, T* const* out, T* matrices, int64_t rows,
                  int64_t width, int64_t threads) {
    using V = Vec<T, NATIVE<T>>;
    constexpr int P = C::PARTS, G = C::GATES, N = C::GRADIENTS;
    const Weights<C> cell = pack<C>(tensors, width);
    const int64_t numbers = G * width * cell.padded, blocks = (rows + cell.rows - 1) / cell.rows;
    const Room<T> total(matrices ? numbers : 0);
    struct Own {
        Block<C> block;
        Room<T> part;
        explicit Own(const Weights<C>& cell) : block(cell), part(G * cell.width * cell.padded) {}
    };
    if (rows * width * P < 8192) threads = 1;
    in_turn<Own>(cell, blocks, threads, [&](Own& own, int64_t b, auto turn) {
        Block<C>& block = own.block;
        const int64_t first = b * cell.rows, some = rows - first < cell.rows ? rows - first : cell.rows;
        const T *here[G], *states = s + first * width * P;
        for (int k = 0; k < G; k++) here[k] = tensors[k] + first * width;
        spread_rows<P>(block.value, block.size, g + first * width * P, some, width, cell.padded);
        evaluate(cell, block, some, states, here, [&](int64_t i, int64_t, const C& step) {
            V incoming[P], made[N];
            load_all<P>(incoming, block.value + i, block.size);
            step.gradients(incoming, made);
            store_all<G>(block.pre + i, block.size, made);
            store_all<N - G>(block.own + i, block.size, made + G);
        });
        for (int k = 0; k < N; k++)
            gather_rows<1>(out[k] + first * width, (k < G ? block.pre : block.own - G * block.size) + k * block.size, 0,
                           some, width, cell.padded);
        if (!matrices) return;
        outer(cell, block, states, some, own.part.all);
        turn([&] {
            for (int64_t i = 0; i < numbers; i++) total.all[i] += own.part.all[i];
        });
    });
    if (matrices) disarrange(matrices, total.all, G, width, cell.lanes);
    return 0;
}

#define EXPORT(C, name, T, ending)                                                                                     \
    extern "C" int64_t step##name##ending(const T* const* tensors, const T* s, T* value, T* blocks, int64_t rows,      \
                                          int64_t width, int64_t threads) {                                            \
        return guarded([&] { return step<C<T>>(tensors, s, value, blocks, rows, width, threads); });                   \
    }                                                                                                                  \
    extern "C" int64_t jacobian##name##ending(const T* const* tensors, const T* s, T* out, int64_t rows, int64_t width, \
                                              int64_t threads) {                                                       \
        return guarded([&] { return jacobian<C<T>>(tensors, s, out, rows, width, threads); });                         \
    }                                                                                                                  \
    extern "C" int64_t gradients##name##ending(const T* const* tensors, const T* s, const T* g, T* const* out,         \
                                               T* matrices, int64_t rows, int64_t width, int64_t threads) {            \
        return guarded([&] { return gradients<C<T>>(tensors, s, g, out, matrices, rows, width, threads); });           \
    }                                                                                                                  \
    extern "C" int64_t adjoint##name##ending(const T* const* tensors, const T* s, const T* g, T* l, int64_t n,         \
                                             int64_t batch, int64_t width, int64_t threads) {                          \
        return guarded([&] { return adjoint<C<T>>(tensors, s, g, l, n, batch, width, threads); });                     \
    }                                                                                                                  \
    extern "C" int64_t sweep##name##ending(const T* const* tensors, const T* buffer, T* next, T* found, int64_t* lo,   \
                                           const int64_t* hi, int64_t start, int64_t n, int64_t batch, int64_t width,  \
                                           int64_t form, int64_t threads, double rtol, double atol) {                  \
        return guarded([&] {                                                                                           \
            Iteration<T> it(batch, C<T>::PARTS * width, buffer, next, lo, hi, (T)rtol, (T)atol);                       \
            return sweep<C<T>>(it, found, tensors, start, n, width, (Form)form, threads);                              \
        });                                                                                                            \
    }
