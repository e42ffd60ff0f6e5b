// The step of a GRU for many rows at once, from the previous states and what the inputs contribute to the gates:
//     r = sigmoid(u_r + W_r h)   z = sigmoid(u_z + W_z h)   q = W_n h + b   n = tanh(u_n + r q)   value = n + z (h - n)
// with the diagonal of its Jacobian, the whole diagonal iteration, the adjoint recurrence, and the gradients.
// A block of rows goes through the products and the functions in the first-level cache. Every row is computed by the
// same instructions, padded to whole vectors, wherever it lies.
#include <cmath>
#include <limits>
#include <memory>

#include "functions.h"

namespace {

template <class T> struct Cell {  // weights transposed: w[gate][k][j], j padded to whole vectors
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
Cell<T> pack(const T* w_r, const T* w_z, const T* w_n, const T* bias, int64_t width) {
    Cell<T> cell;
    const int64_t lanes = lanes_for<T>(width), padded = (width + lanes - 1) / lanes * lanes;
    const int64_t period = padded < NATIVE<T> ? NATIVE<T> : padded;
    cell.width = width, cell.padded = padded;
    cell.rows = 8 * (1 + 2048 / (8 * padded));
    cell.store.reset(new T[3 * width * padded + 4 * period]);
    cell.w = cell.store.get();
    const T* all[3] = {w_r, w_z, w_n};
    for (int g = 0; g < 3; g++)
        for (int64_t k = 0; k < width; k++)
            for (int64_t j = 0; j < padded; j++)
                cell.w[(g * width + k) * padded + j] = j < width ? all[g][j * width + k] : 0;
    T* after = cell.w + 3 * width * padded;
    cell.bias = after, cell.w_r = after + period, cell.w_z = after + 2 * period, cell.w_n = after + 3 * period;
    repeat(cell.bias, period, bias, 1, width, padded);
    repeat(cell.w_r, period, w_r, width + 1, width, padded);
    repeat(cell.w_z, period, w_z, width + 1, width, padded);
    repeat(cell.w_n, period, w_n, width + 1, width, padded);
    return cell;
}

// pre[g][row * padded + j] = sum_k h[row][k] w[g][k][j], R rows and W channels of all gates at a time.
template <class T, int W, int R>
inline void tile(const Cell<T>& cell, const T* h, T* pre, int64_t gate, int64_t j) {
    using V = Vec<T, W>;
    V sum[3][R] = {};
    const T* w = cell.w + j;
    const int64_t next = cell.width * cell.padded;
    for (int64_t k = 0; k < cell.width; k++, w += cell.padded) {
        const V a = load<V>(w), b = load<V>(w + next), c = load<V>(w + 2 * next);
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
    V diagonal(V w_r, V w_z, V w_n) const {
        const V inner = q * ((1 - r) * r) * w_r + r * w_n;
        const V through = (1 - n * n) * inner;
        return gap * ((1 - z) * z) * w_z + (z * (1 - through) + through);
    }
};

// One block: value and diagonal (where wanted) into memory that is padded like the block.
template <class T>
void evaluate(const Cell<T>& cell, Block<T>& block, int64_t rows, const T* h, const T* const u[3], bool diagonal) {
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
            const Gates<T> gates(block.pre + i, block.size, hs + i, us[0] + i, us[1] + i, us[2] + i, cell.bias + p);
            store(block.value + i, gates.value());
            if (diagonal) {
                using V = Vec<T, W>;
                store(block.diagonal + i,
                      gates.diagonal(load<V>(cell.w_r + p), load<V>(cell.w_z + p), load<V>(cell.w_n + p)));
            }
        }
}

template <class T>
int64_t step(const T* h, const T* u_r, const T* u_z, const T* u_n, const T* w_r, const T* w_z, const T* w_n,
             const T* bias, T* value, T* diagonal, int64_t rows, int64_t width, int64_t threads) {
    const Cell<T> cell = pack(w_r, w_z, w_n, bias, width);
    if (rows * width < 8192) threads = 1;
    spread(rows, cell.rows, threads, [&](int64_t begin, int64_t last) {
        Block<T> block(cell);
        for (int64_t i = begin; i < last; i += cell.rows) {
            const int64_t some = last - i < cell.rows ? last - i : cell.rows, at = i * width;
            const T* u[3] = {u_r + at, u_z + at, u_n + at};
            evaluate(cell, block, some, h + at, u, diagonal != nullptr);
            gather_rows(value + at, block.value, some, cell);
            if (diagonal) gather_rows(diagonal + at, block.diagonal, some, cell);
        }
    });
    return 0;
}

// What one diagonal iteration knows of each channel or sequence while it goes through time.
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

// One row of one sequence at an edge of what may move: accepted, the frontier, or beyond the window.
template <class T>
void edge(Iteration<T>& it, const T* v, const T* a, int64_t row, int64_t time, int64_t mate, T* accepted) {
    const int64_t count = it.batch * it.width, at = mate * it.width;
    const T *s = it.states + (row + 1) * count + at, *prev = it.states + row * count + at;
    T* next = it.next + row * count + at;
    int64_t& lo = it.lo[mate];
    bool still = time < lo || time >= it.hi[mate];
    if (!still && time == lo) {
        if (at_rounding_level(v + at, s, prev, it.width, it.rtol, it.atol)) {
            for (int64_t j = 0; j < it.width; j++) {
                const T size = std::abs(v[at + j] - s[j]);
                if (size > accepted[mate]) accepted[mate] = size;
            }
            lo = time + 1, still = true;
        } else {  // the frontier row: A = 0, and the value as it is
            for (int64_t j = 0; j < it.width; j++) it.d[at + j] = 0;
            move<T, NATIVE<T>>(it, v, a, row, 1, at, at + it.width);
            for (int64_t j = 0; j < it.width; j++) {
                it.d[at + j] = v[at + j] - s[j];
                next[j] = v[at + j];
            }
            return;
        }
    }
    if (!still) return move<T, NATIVE<T>>(it, v, a, row, 1, at, at + it.width);
    for (int64_t j = 0; j < it.width; j++) it.d[at + j] = 0, next[j] = s[j];
}

template <class T>
int64_t sweep(const T* buffer, T* next, const T* const u[3], const T* const w[3], const T* bias, T* d, T* largest,
              T* excess, T* accepted, int64_t* lo, const int64_t* hi, int64_t start, int64_t n, int64_t batch,
              int64_t width, int64_t threads, T rtol, T atol) {
    Cell<T> cell = pack(w[0], w[1], w[2], bias, width);
    const int64_t count = batch * width, steps = cell.rows > batch ? cell.rows / batch : 1;
    cell.rows = steps * batch;
    int64_t lowest = lo[0], farthest = hi[0];
    for (int64_t b = 0; b < batch; b++) {
        if (lo[b] < lowest) lowest = lo[b];
        if (hi[b] > farthest) farthest = hi[b];
    }
    Iteration<T> it{batch, width, buffer, next, d, largest, excess, lo, hi, rtol, atol};
    const auto finish = [&](Block<T>& block, int64_t row, int64_t some) {
        const T *v = block.value, *a = block.diagonal;
        if (cell.padded != cell.width) {  // the room of what has been read
            gather_rows(block.h, v, some * batch, cell);
            gather_rows(block.u[0], a, some * batch, cell);
            v = block.h, a = block.u[0];
        }
        bool easy = true;
        for (int64_t b = 0; b < batch; b++) easy &= lo[b] < start + row && hi[b] >= start + row + some;
        if (easy) return move<T, NATIVE<T>>(it, v, a, row, some, 0, count);
        for (int64_t i = 0; i < some; i++)
            for (int64_t b = 0; b < batch; b++)
                edge(it, v + i * count, a + i * count, row + i, start + row + i, b, accepted);
    };
    const int64_t blocks = (n + steps - 1) / steps;
    const auto prepare = [&](Block<T>& block, int64_t row, int64_t some) {
        if (start + row + some <= lowest || start + row >= farthest) return false;
        const int64_t at = row * count;
        const T* here[3] = {u[0] + at, u[1] + at, u[2] + at};
        evaluate(cell, block, some * batch, buffer + at, here, true);
        return true;
    };
    const auto rest = [&](int64_t row, int64_t some) {
        std::memcpy(next + row * count, buffer + (row + 1) * count, some * count * sizeof(T));
        std::memset(d, 0, count * sizeof(T));
    };
    if (n * count < 8192) threads = 1;
    if (threads <= 1) {
        Block<T> block(cell);
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t row = i * steps, some = n - row < steps ? n - row : steps;
            if (prepare(block, row, some)) finish(block, row, some); else rest(row, some);
        }
    } else {
#pragma omp parallel num_threads((int)threads)
        {
            Block<T> block(cell);
#pragma omp for ordered schedule(static, 1)
            for (int64_t i = 0; i < blocks; i++) {
                const int64_t row = i * steps, some = n - row < steps ? n - row : steps;
                const bool moves = prepare(block, row, some);
#pragma omp ordered
                {
                    if (moves) finish(block, row, some); else rest(row, some);
                }
            }
        }
    }
    return it.unfinished == 0 ? 0 : 1;
}

}  // namespace

#define EXPORT(T, ending)                                                                                              \
    extern "C" int64_t step##ending(const T* h, const T* u_r, const T* u_z, const T* u_n, const T* w_r, const T* w_z,  \
                                    const T* w_n, const T* bias, T* value, T* diagonal, int64_t rows, int64_t width,   \
                                    int64_t threads) {                                                                 \
        return step<T>(h, u_r, u_z, u_n, w_r, w_z, w_n, bias, value, diagonal, rows, width, threads);                  \
    }                                                                                                                  \
    extern "C" int64_t sweep##ending(const T* u_r, const T* u_z, const T* u_n, const T* w_r, const T* w_z,             \
                                     const T* w_n, const T* bias, const T* buffer, T* next, T* d, T* largest,          \
                                     T* excess, T* accepted, int64_t* lo, const int64_t* hi, int64_t start, int64_t n, \
                                     int64_t batch, int64_t width, int64_t threads, double rtol, double atol) {        \
        const T *u[3] = {u_r, u_z, u_n}, *w[3] = {w_r, w_z, w_n};                                                      \
        return sweep<T>(buffer, next, u, w, bias, d, largest, excess, accepted, lo, hi, start, n, batch, width,        \
                        threads, (T)rtol, (T)atol);                                                                    \
    }
EXPORT(float, _f32)
EXPORT(double, _f64)
