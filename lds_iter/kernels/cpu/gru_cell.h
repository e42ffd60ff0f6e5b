// One step of a GRU for a block of rows in the first-level cache:
//     r = sigmoid(u_r + W_r h)   z = sigmoid(u_z + W_z h)   q = W_n h + b   n = tanh(u_n + r q)   value = n + z (h - n)
// Every row is computed by the same instructions, padded to whole vectors, wherever it lies.
#pragma once
#include <memory>

#include "functions.h"

// The weights as they are read: for every vector of channels j, for every k, for every gate, W_gate[j][k].
template <class T> struct Cell {
    int64_t width, padded, rows;  // rows of a block
    std::unique_ptr<T[]> store;
    T *w, *bias, *w_r, *w_z, *w_n;
};

template <class T> int lanes_for(int64_t width) {
    int lanes = NATIVE<T>;
    while (lanes > 16 / (int)sizeof(T) && lanes / 2 >= width) lanes /= 2;
    return lanes;
}

// Rows of channel numbers, repeated up to whole vectors: index i of a block belongs to channel i mod padded.
template <class T> void repeat(T* to, int64_t numbers, const T* from, int64_t stride, int64_t width, int64_t padded) {
    for (int64_t i = 0; i < numbers; i++) to[i] = i % padded < width ? from[(i % padded) * stride] : 0;
}

template <class T>
void arrange(T* to, const T* const w[3], int64_t width, int64_t padded, int64_t lanes, int64_t over_j, int64_t over_k) {
    for (int64_t first = 0; first < padded; first += lanes)
        for (int64_t k = 0; k < width; k++)
            for (int g = 0; g < 3; g++)
                for (int64_t j = first; j < first + lanes; j++)
                    *to++ = j < width ? w[g][j * over_j + k * over_k] : 0;
}

template <class T>
Cell<T> pack(const T* w_r, const T* w_z, const T* w_n, const T* bias, int64_t width) {
    Cell<T> cell;
    const int64_t lanes = lanes_for<T>(width), padded = (width + lanes - 1) / lanes * lanes;
    const int64_t period = padded < NATIVE<T> ? NATIVE<T> : padded;
    cell.width = width, cell.padded = padded;
    cell.rows = 8 * (1 + 2048 / (8 * padded));
    cell.store.reset(new T[3 * width * padded + 4 * period]);
    cell.w = cell.store.get();
    const T* all[3] = {w_r, w_z, w_n};
    arrange(cell.w, all, width, padded, lanes, width, 1);
    T* after = cell.w + 3 * width * padded;
    cell.bias = after, cell.w_r = after + period, cell.w_z = after + 2 * period, cell.w_n = after + 3 * period;
    repeat(cell.bias, period, bias, 1, width, padded);
    repeat(cell.w_r, period, w_r, width + 1, width, padded);
    repeat(cell.w_z, period, w_z, width + 1, width, padded);
    repeat(cell.w_n, period, w_n, width + 1, width, padded);
    return cell;
}

// pre[g][row * padded + j] = sum_k W_g[j][k] h[row][k], R rows and W channels of all gates at a time.
template <class T, int W, int R>
inline void tile(const Cell<T>& cell, const T* h, T* pre, int64_t gate, int64_t j) {
    using V = Vec<T, W>;
    V sum[3][R] = {};
    const T* w = cell.w + 3 * cell.width * j;
    for (int64_t k = 0; k < cell.width; k++, w += 3 * W) {
        const V a = load<V>(w), b = load<V>(w + W), c = load<V>(w + 2 * W);
        for (int i = 0; i < R; i++) {
            const T x = h[i * cell.width + k];
            sum[0][i] = a * x + sum[0][i];
            sum[1][i] = b * x + sum[1][i];
            sum[2][i] = c * x + sum[2][i];
        }
    }
    for (int g = 0; g < 3; g++)
        for (int i = 0; i < R; i++) store(pre + g * gate + i * cell.padded + j, sum[g][i]);
}

template <class T, int W>
void products(const Cell<T>& cell, const T* h, int64_t rows, T* pre, int64_t gate) {
    constexpr int R = VECTOR_BYTES == 64 ? 8 : 4;
    for (int64_t j = 0; j < cell.padded; j += W) {
        int64_t i = 0;
        for (; i + R <= rows; i += R) tile<T, W, R>(cell, h + i * cell.width, pre + i * cell.padded, gate, j);
        for (; i < rows; i++) tile<T, W, 1>(cell, h + i * cell.width, pre + i * cell.padded, gate, j);
    }
}

template <class T> void products(const Cell<T>& cell, const T* h, int64_t rows, T* pre, int64_t gate) {
    constexpr int N = NATIVE<T>;
    const int lanes = lanes_for<T>(cell.width);
    if (lanes == N) return products<T, N>(cell, h, rows, pre, gate);
    if constexpr (N * sizeof(T) > 16)
        if (lanes == N / 2) return products<T, N / 2>(cell, h, rows, pre, gate);
    if constexpr (N * sizeof(T) > 32)
        if (lanes == N / 4) return products<T, N / 4>(cell, h, rows, pre, gate);
}

template <class T> struct Block {  // room for one block of rows, in the first-level cache
    std::unique_ptr<T[]> store;
    int64_t size;
    T *pre, *h, *u[3], *value, *diagonal;
    explicit Block(const Cell<T>& cell) {
        size = (cell.rows * cell.padded + NATIVE<T> - 1) / NATIVE<T> * NATIVE<T>;
        store.reset(new T[9 * size]());
        pre = store.get(), h = pre + 3 * size, value = h + 4 * size, diagonal = value + size;
        for (int g = 0; g < 3; g++) u[g] = h + (g + 1) * size;
    }
};

template <class T> void spread_rows(T* to, const T* from, int64_t rows, const Cell<T>& cell) {
    for (int64_t i = 0; i < rows; i++) std::memcpy(to + i * cell.padded, from + i * cell.width, cell.width * sizeof(T));
}
template <class T> void gather_rows(T* to, const T* from, int64_t rows, const Cell<T>& cell) {
    for (int64_t i = 0; i < rows; i++) std::memcpy(to + i * cell.width, from + i * cell.padded, cell.width * sizeof(T));
}

// What one vector of numbers is to the step and its derivatives.
template <class T> struct Gates {
    static constexpr int W = NATIVE<T>;
    using V = Vec<T, W>;
    V r, z, q, n, gap;
    Gates(const T* pre, int64_t gate, const T* h, const T* u_r, const T* u_z, const T* u_n, const T* bias) {
        r = sigmoid<T, W>(load<V>(pre) + load<V>(u_r));
        z = sigmoid<T, W>(load<V>(pre + gate) + load<V>(u_z));
        q = load<V>(pre + 2 * gate) + load<V>(bias);
        n = tanh_<T, W>(r * q + load<V>(u_n));
        gap = load<V>(h) - n;
    }
    V value() const { return z * gap + n; }
    V through_n() const { return (1 - z) * (1 - n * n); }  // what a change of the argument of n makes of the value
    V slope_r() const { return q * ((1 - r) * r); }        // times through_n
    V slope_z() const { return gap * ((1 - z) * z); }
    V diagonal(V w_r, V w_z, V w_n) const {
        const V inner = q * ((1 - r) * r) * w_r + r * w_n;
        const V through = (1 - n * n) * inner;
        return gap * ((1 - z) * z) * w_z + (z * (1 - through) + through);
    }
};

// One block of rows: each(i, p, gates) for every vector of numbers, at i in the padded block, p among the channels.
template <class T, class Each>
inline void evaluate(const Cell<T>& cell, Block<T>& block, int64_t rows, const T* h, const T* const u[3], Each each) {
    constexpr int W = NATIVE<T>;
    const int64_t used = (rows * cell.padded + W - 1) / W * W;
    products(cell, h, rows, block.pre, block.size);
    const T *hs = h, *us[3] = {u[0], u[1], u[2]};
    if (cell.padded != cell.width || used != rows * cell.width) {
        spread_rows(block.h, h, rows, cell);
        hs = block.h;
        for (int g = 0; g < 3; g++) spread_rows(block.u[g], u[g], rows, cell), us[g] = block.u[g];
    }
    const int64_t period = cell.padded < W ? W : cell.padded;
    for (int64_t first = 0; first < used; first += period)
        for (int64_t p = 0; p < period && first + p < used; p += W) {
            const int64_t i = first + p;
            each(i, p, Gates<T>(block.pre + i, block.size, hs + i, us[0] + i, us[1] + i, us[2] + i, cell.bias + p));
        }
}

template <class T>
void evaluate_diagonal(const Cell<T>& cell, Block<T>& block, int64_t rows, const T* h, const T* const u[3]) {
    using V = Vec<T, NATIVE<T>>;
    evaluate(cell, block, rows, h, u, [&](int64_t i, int64_t p, const Gates<T>& gates) {
        store(block.value + i, gates.value());
        store(block.diagonal + i,
              gates.diagonal(load<V>(cell.w_r + p), load<V>(cell.w_z + p), load<V>(cell.w_n + p)));
    });
}
