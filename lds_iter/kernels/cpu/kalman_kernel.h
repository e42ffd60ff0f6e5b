// The matrices of a Kalman filter by their size: how they are laid out, and which functions take a step with them.
#pragma once
#include "kalman_step.h"
#include "kalman_wide.h"
#include "transpose.h"

// to[k * row + i] = from[i * over_i + k * over_k]
template <class T, int W>
static inline void lay_out(T* to, const T* from, int64_t over_i, int64_t over_k, int64_t size, int64_t row) {
    if (over_i == 1) {
        for (int64_t k = 0; k < size; k++) std::memcpy(to + k * row, from + k * over_k, size * sizeof(T));
        return;
    }
    const int64_t whole = over_k == 1 ? size / 4 * 4 : 0;
    int64_t i = 0;
    if constexpr (W > 4)
        for (; i + W <= whole; i += W)
            for (int64_t k = 0; k < whole; k += 4) transpose<T, W>(to + k * row + i, row, from + i * over_i + k, over_i);
    for (; i < whole; i += 4)
        for (int64_t k = 0; k < whole; k += 4) transpose<T, 4>(to + k * row + i, row, from + i * over_i + k, over_i);
    for (int64_t k = 0; k < size; k++)
        for (int64_t i = k < whole ? whole : 0; i < size; i++) to[k * row + i] = from[i * over_i + k * over_k];
}

// What is done with the matrices of one size: addresses of functions, so that what calls them is compiled once.
template <class T> struct Kernel {
    int64_t size, tall, row;  // D; rows of a matrix, numbers of a row, as they lie here
    int64_t together;         // sequences that take turns: while one waits for a result, the processor does the next
    // An entry: J^T, or J, from `j` unless that is null, and below it a row of numbers.
    void (*load)(const Kernel&, T* entry, const T* j, int64_t over_i, int64_t over_k, const T* numbers);
    void (*save)(T* to, const T* row_of_numbers, int64_t size);
    void (*step)(const Kernel&, T* state, T* entry, T q, T* room);
    int64_t kept;  // numbers of a K that is kept; and how it comes back, in this room or where it is
    void (*keep)(const Kernel&, T* to, const T* state);
    const T* (*whole)(const Kernel&, T* room, const T* kept);
    // made += sign * (the sum over k of v[k] times row k)
    void (*add)(const Kernel&, T* made, const T* v, const T* rows, T sign);
};

template <class T, class Step> Kernel<T> kernel_of(int64_t width) {
    Kernel<T> kernel;
    kernel.size = Step(width).size(), kernel.tall = Step(width).tall(), kernel.row = Step(width).row();
    kernel.together = Step::TOGETHER;
    kernel.load = [](const Kernel<T>& k, T* entry, const T* j, int64_t over_i, int64_t over_k, const T* numbers) {
        const Step step(k.size);
        if (j) lay_out<T, Step::LANES>(entry, j, over_i, over_k, step.size(), step.row());
        std::memcpy(entry + step.tall() * step.row(), numbers, step.size() * sizeof(T));
    };
    kernel.save = [](T* to, const T* numbers, int64_t size) { std::memcpy(to, numbers, Step(size).size() * sizeof(T)); };
    kernel.step = [](const Kernel<T>& k, T* state, T* entry, T q, T* room) { Step(k.size).step(state, entry, q, room); };
    kernel.kept = Step(width).kept();
    kernel.whole = [](const Kernel<T>& k, T* room, const T* kept) { return Step(k.size).whole(room, kept); };
    kernel.keep = [](const Kernel<T>& k, T* to, const T* state) { Step(k.size).keep(to, state); };
    kernel.add = [](const Kernel<T>& k, T* made, const T* v, const T* rows, T sign) {
        const Step step(k.size);
        add_product<T, Step::LANES>(made, v, rows, step.size(), step.row(), sign);
    };
    return kernel;
}

template <class T, int D> constexpr int lanes_for() {
    int lanes = NATIVE<T>;
    while (lanes > 16 / (int)sizeof(T) && lanes / 2 >= D) lanes /= 2;
    return lanes;
}
template <class T, int D> Kernel<T> small() { return kernel_of<T, Small<T, lanes_for<T, D>(), D>>(D); }

template <class T> Kernel<T> kernel_for(int64_t width) {
    switch (width) {
        case 2: return small<T, 2>();
        case 3: return small<T, 3>();
        case 4: return small<T, 4>();
        case 5: return small<T, 5>();
        case 6: return small<T, 6>();
        case 7: return small<T, 7>();
        case 8: return small<T, 8>();
    }
    constexpr int W = NATIVE<T>;
    switch ((width + W - 1) / W) {
        case 1: return kernel_of<T, Wide<T, W, 1>>(width);
        case 2: return kernel_of<T, Wide<T, W, 2>>(width);
        default: return kernel_of<T, Wide<T, W, 0>>(width);
    }
}
