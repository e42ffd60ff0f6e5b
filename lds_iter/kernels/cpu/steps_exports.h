// What a compiled cell offers beside `cell_exports.h`: all steps, and their gradients. `tensors`: see `Net`.
#pragma once
#include "cell_backward.h"
#include "cell_chunks.h"

#define EXPORT(C, name, T, ending)                                                                                     \
    extern "C" int64_t steps##name##ending(const T* const* tensors, const T* s0, T* states, int64_t n, int64_t batch,  \
                                           int64_t width, int64_t inner, int64_t features, int64_t threads) {          \
        return guarded([&] { return steps<C<T>>(tensors, s0, states, n, batch, width, inner, features, threads); });   \
    }                                                                                                                  \
    extern "C" int64_t backward##name##ending(const T* const* tensors, const T* s0, const T* states, const T* g,       \
                                              T* const* out, T* first, int64_t n, int64_t batch, int64_t width,        \
                                              int64_t inner, int64_t threads) {                                        \
        return guarded([&] {                                                                                           \
            return backward<C<T>>(tensors, s0, states, g, out, first, n, batch, width, inner, threads);                \
        });                                                                                                            \
    }
