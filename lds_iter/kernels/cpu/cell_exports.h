// What a compiled cell offers: its step with the part of the Jacobian within a channel, the gradients of a step, the
// adjoint and whole iterations. `tensors`: see `pack`; they begin at the same row as the states.
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

// For a gradient g of the value the tensors that the cell says.
template <class C, class T>
int64_t gradients(const T* const* tensors, const T* s, const T* g, T* const* out, int64_t rows, int64_t width,
                  int64_t threads) {
    using V = Vec<T, NATIVE<T>>;
    constexpr int P = C::PARTS, G = C::GATES, N = C::GRADIENTS;
    const Weights<C> cell = pack<C>(tensors, width);
    by_blocks(cell, tensors, rows, threads, [&](Block<C>& block, int64_t some, int64_t at, const T* const* here) {
        spread_rows<P>(block.value, block.size, g + at * P, some, width, cell.padded);
        evaluate(cell, block, some, s + at * P, here, [&](int64_t i, int64_t, const C& step) {
            V incoming[P], made[N];
            load_all<P>(incoming, block.value + i, block.size);
            step.gradients(incoming, made);
            store_all<G>(block.pre + i, block.size, made);
            store_all<N - G>(block.own + i, block.size, made + G);
        });
        for (int k = 0; k < N; k++)
            gather_rows<1>(out[k] + at, (k < G ? block.pre : block.own - G * block.size) + k * block.size, 0, some, width,
                           cell.padded);
    });
    return 0;
}

#define EXPORT(C, name, T, ending)                                                                                     \
    extern "C" int64_t step##name##ending(const T* const* tensors, const T* s, T* value, T* blocks, int64_t rows,      \
                                          int64_t width, int64_t threads) {                                            \
        return step<C<T>>(tensors, s, value, blocks, rows, width, threads);                                            \
    }                                                                                                                  \
    extern "C" int64_t gradients##name##ending(const T* const* tensors, const T* s, const T* g, T* const* out,         \
                                               int64_t rows, int64_t width, int64_t threads) {                         \
        return gradients<C<T>>(tensors, s, g, out, rows, width, threads);                                              \
    }                                                                                                                  \
    extern "C" int64_t adjoint##name##ending(const T* const* tensors, const T* s, const T* g, T* l, int64_t n,         \
                                             int64_t batch, int64_t width, int64_t threads) {                          \
        return adjoint<C<T>>(tensors, s, g, l, n, batch, width, threads);                                              \
    }                                                                                                                  \
    extern "C" int64_t sweep##name##ending(const T* const* tensors, const T* buffer, T* next, T* found, int64_t* lo,    \
                                           const int64_t* hi, int64_t start, int64_t n, int64_t batch, int64_t width,  \
                                           int64_t form, int64_t threads, double rtol, double atol) {                  \
        Iteration<T> it(batch, C<T>::PARTS * width, buffer, next, lo, hi, (T)rtol, (T)atol);                           \
        return sweep<C<T>>(it, found, tensors, start, n, width, (Form)form, threads);                                  \
    }
