// What the compiled cells share: weights as they are read, and the evaluation of blocks of rows in the nearest cache.
// Every row is computed by the same instructions, padded to whole vectors, wherever it lies.
//
// A cell multiplies the first number h of each channel of its state by matrices W_g; all else happens within a channel:
//     value = value(W_g h, state, inputs)     J d = apply(p_g = W_g d_h, d)     J^T l = transpose(l) + sum W_g^T p_g
// It is a struct of vectors, one number of each for as many channels, with
//     Number, GATES, PARTS    float or double; how many matrices (and inputs) there are, how many numbers a channel has
//     FIRST                   the first of these that is read within the channel
//     OWN                     how many numbers besides a slope a_g for each matrix make up the Jacobian
//     GRADIENTS               how many tensors `gradients` fills: those of W_g h first
//     INPUTS, DIRECT          which of these are of the inputs, and of each number of a channel besides products; -1: none
//     Narrow<L>               the same cell with vectors of L lanes
//     BIASED                  whether the last product has a bias of its own
//     C(pre, state, u, bias)  the step: products, the state from FIRST on, inputs, bias of the last product
//     value(out), jacobian(a, own), gradients(g, out)
//     apply(a, own, p, d, out)             static: J d
//     transpose(a, own, l, p, out)         static: J^T l is `out`, and in h the sum of W_g^T p_g
//     local(a, own, w, out)                static: J between the numbers of one channel, row by row; w: its own weights
#pragma once
#include "room.h"

// For every vector of channels, for every k, for every gate, W_gate[j][k]; then rows of channel numbers.
template <class C> struct Weights {
    using T = typename C::Number;
    int64_t width, padded, lanes, rows;  // lanes: of a vector of channels; rows: of a block
    Room<T> room;
    T *w, *bias, *own[C::GATES];
};

// Rows of channel numbers, repeated up to whole vectors: index i of a block belongs to channel i mod padded.
template <class T> void repeat(T* to, int64_t numbers, const T* from, int64_t stride, int64_t width, int64_t padded) {
    for (int64_t i = 0; i < numbers; i++) to[i] = i % padded < width ? from[(i % padded) * stride] : 0;
}

template <class T>
void arrange(T* to, const T* const* w, int gates, int64_t width, int64_t lanes, int64_t over_j, int64_t over_k) {
    for (int64_t first = 0; first < width; first += lanes)
        for (int64_t k = 0; k < width; k++)
            for (int g = 0; g < gates; g++)
                for (int64_t j = first; j < first + lanes; j++)
                    *to++ = j < width ? w[g][j * over_j + k * over_k] : 0;
}

// Matrices, one after the other and row by row, from the order of `arrange`.
template <class T> void disarrange(T* to, const T* from, int gates, int64_t width, int64_t lanes) {
    for (int64_t first = 0; first < width; first += lanes)
        for (int64_t k = 0; k < width; k++)
            for (int g = 0; g < gates; g++, from += lanes)
                for (int64_t j = first; j < first + lanes && j < width; j++)
                    to[(g * width + j) * width + k] = from[j - first];
}

// tensors: the inputs, the matrices row by row, and, where the cell has one, the bias of the last product.
template <class C, class T> Weights<C> pack(const T* const* tensors, int64_t width) {
    constexpr int G = C::GATES;
    Weights<C> cell;
    const int64_t lanes = lanes_for<T>(width), padded = (width + lanes - 1) / lanes * lanes;
    const int64_t period = padded < NATIVE<T> ? NATIVE<T> : padded;
    cell.width = width, cell.padded = padded, cell.lanes = lanes;
    cell.rows = 8 * (1 + 2048 / (8 * padded));
    cell.room = Room<T>(G * width * padded + (G + 1) * period);
    cell.w = cell.room.all;
    arrange(cell.w, tensors + G, G, width, lanes, width, 1);
    T* after = cell.w + G * width * padded;
    cell.bias = after;
    if (C::BIASED) repeat(cell.bias, period, tensors[2 * G], 1, width, padded);
    for (int g = 0; g < G; g++) {
        cell.own[g] = after + (g + 1) * period;
        repeat(cell.own[g], period, tensors[G + g], width + 1, width, padded);
    }
    return cell;
}

// How many rows of sums of all gates the registers hold.
template <class C> constexpr int rows_at_once = (VECTOR_BYTES == 64 ? 24 : 12) / larger(C::GATES, 3);

// pre[g][row * padded + j] = sum_k W_g[j][k] h[row][k], R rows and W channels of all gates at a time.
template <class C, int W, int R, class T>
inline void tile(const Weights<C>& cell, const T* s, T* pre, int64_t plane, int64_t j) {
    constexpr int G = C::GATES, P = C::PARTS;
    using V = Vec<T, W>;
    V sum[G][R] = {};
    const T* w = cell.w + G * cell.width * j;
    for (int64_t k = 0; k < cell.width; k++, w += G * W) {
        V column[G];
        for (int g = 0; g < G; g++) column[g] = load<V>(w + g * W);
        for (int i = 0; i < R; i++) {
            const T x = s[(i * cell.width + k) * P];
            for (int g = 0; g < G; g++) sum[g][i] = fused<T, W>(column[g], x, sum[g][i]);
        }
    }
    for (int g = 0; g < G; g++)
        for (int i = 0; i < R; i++) store(pre + g * plane + i * cell.padded + j, sum[g][i]);
}

template <class C, class T> void products(const Weights<C>& cell, const T* s, int64_t rows, T* pre, int64_t plane) {
    by_lanes<T>(cell.lanes, [&](auto lanes) {
        constexpr int W = decltype(lanes)::value, R = rows_at_once<C>;
        const int64_t stride = cell.width * C::PARTS;
        for (int64_t j = 0; j < cell.padded; j += W) {
            int64_t i = 0;
            for (; i + R <= rows; i += R) tile<C, W, R>(cell, s + i * stride, pre + i * cell.padded, plane, j);
            for (; i < rows; i++) tile<C, W, 1>(cell, s + i * stride, pre + i * cell.padded, plane, j);
        }
    });
}

// Room for one block of rows in planes of `size` numbers, each with padded rows of channels. What has been read in the
// evaluation is used again: `state` and `u` are free after it.
template <class C> struct Block {
    using T = typename C::Number;
    static constexpr int P = C::PARTS, KEPT = larger(larger(C::OWN, P), C::GRADIENTS - C::GATES);
    Room<T> room;
    int64_t size;
    T *pre, *own, *value, *state, *u, *r, *d;
    explicit Block(const Weights<C>& cell) {
        size = (cell.rows * cell.padded + NATIVE<T> - 1) / NATIVE<T> * NATIVE<T>;
        room = Room<T>((C::GATES + KEPT + 2 * P + larger(C::GATES, 2 * P)) * size);
        pre = room.all, own = pre + C::GATES * size, value = own + KEPT * size, state = value + P * size;
        u = r = state + P * size, d = r + P * size;
    }
};

// Numbers that stand `all` together in rows of `width` channels, from and to planes of padded rows.
template <int all, class T>
inline void spread_rows(T* to, int64_t plane, const T* from, int64_t rows, int64_t width, int64_t padded,
                        int first = 0) {
    if (padded == width) width = padded = rows * width, rows = 1;
    for (int64_t i = 0; i < rows; i++)
        for (int p = first; p < all; p++) {
            T* one = to + p * plane + i * padded;
            const T* other = from + i * width * all + p;
            if (all == 1) std::memcpy(one, other, width * sizeof(T));
            else
                for (int64_t j = 0; j < width; j++) one[j] = other[j * all];
        }
}
template <int all, class T>
inline void gather_rows(T* to, const T* from, int64_t plane, int64_t rows, int64_t width, int64_t padded) {
    if (padded == width) width = padded = rows * width, rows = 1;
    for (int64_t i = 0; i < rows; i++) {
        const T* other = from + i * padded;
        T* one = to + i * width * all;
        if (all == 1) std::memcpy(one, other, width * sizeof(T));
        else
            for (int64_t j = 0; j < width; j++)
                for (int p = 0; p < all; p++) one[j * all + p] = other[p * plane + j];
    }
}

// One block of rows: each(i, p, step) for every vector of numbers, at i in the padded block, p among the channels.
template <class C, class T, class Each>
inline void evaluate(const Weights<C>& cell, Block<C>& block, int64_t rows, const T* s, const T* const* u, Each each) {
    constexpr int W = NATIVE<T>, G = C::GATES, P = C::PARTS;
    using V = Vec<T, W>;
    const int64_t width = cell.width, padded = cell.padded, used = (rows * padded + W - 1) / W * W;
    products(cell, s, rows, block.pre, block.size);
    const bool whole = padded == width && used == rows * width;
    const T *from[P], *inputs[G];
    for (int p = 0; p < P; p++) from[p] = whole && P == 1 ? s : block.state + p * block.size;
    if (!(whole && P == 1)) spread_rows<P>(block.state, block.size, s, rows, width, padded, C::FIRST);
    for (int g = 0; g < G; g++) {
        inputs[g] = whole ? u[g] : block.u + g * block.size;
        if (!whole) spread_rows<1>(block.u + g * block.size, 0, u[g], rows, width, padded);
    }
    const int64_t period = padded < W ? W : padded;
    for (int64_t first = 0; first < used; first += period)
        for (int64_t c = 0; c < period && first + c < used; c += W) {
            const int64_t i = first + c;
            V pre[G], state[P], x[G];
            for (int g = 0; g < G; g++) pre[g] = load<V>(block.pre + g * block.size + i), x[g] = load<V>(inputs[g] + i);
            for (int p = C::FIRST; p < P; p++) state[p] = load<V>(from[p] + i);
            each(i, c, C(pre, state, x, load<V>(cell.bias + c)));
        }
}

// Planes of a block from and to vectors.
template <int N, class V, class T> inline void load_all(V* to, const T* from, int64_t plane) {
    for (int k = 0; k < N; k++) to[k] = load<V>(from + k * plane);
}
template <int N, class V, class T> inline void store_all(T* to, int64_t plane, const V* from) {
    for (int k = 0; k < N; k++) store(to + k * plane, from[k]);
}

// The value of a step, and its Jacobian: slopes and own numbers, or what lies between the numbers of a channel.
template <class C, class T> inline void keep_value(Block<C>& block, int64_t i, const C& step) {
    Vec<T, NATIVE<T>> value[C::PARTS];
    step.value(value);
    store_all<C::PARTS>(block.value + i, block.size, value);
}
template <class C, class T> inline void keep_jacobian(Block<C>& block, int64_t i, const C& step) {
    Vec<T, NATIVE<T>> a[C::GATES], own[larger(C::OWN, 1)];
    step.jacobian(a, own);
    store_all<C::GATES>(block.pre + i, block.size, a);
    store_all<C::OWN>(block.own + i, block.size, own);
}
template <class C, class V> inline void local_of(const Weights<C>& cell, int64_t c, const C& step, V* out) {
    V a[C::GATES], own[larger(C::OWN, 1)], w[C::GATES];
    step.jacobian(a, own);
    for (int g = 0; g < C::GATES; g++) w[g] = load<V>(cell.own[g] + c);
    C::local(a, own, w, out);
}
