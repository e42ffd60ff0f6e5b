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

template <class T>
int64_t step(const T* h, const T* const u[3], const T* const w[3], const T* bias, T* value, T* diagonal, int64_t rows,
             int64_t width, int64_t threads) {
    const Cell<T> cell = pack(w[0], w[1], w[2], bias, width);
    if (rows * width < 8192) threads = 1;
    spread(rows, cell.rows, threads, [&](int64_t begin, int64_t last) {
        Block<T> block(cell);
        for (int64_t i = begin; i < last; i += cell.rows) {
            const int64_t some = last - i < cell.rows ? last - i : cell.rows, at = i * width;
            const T* here[3] = {u[0] + at, u[1] + at, u[2] + at};
            if (diagonal) {
                evaluate_diagonal(cell, block, some, h + at, here);
                gather_rows(diagonal + at, block.diagonal, some, cell);
            } else {
                evaluate(cell, block, some, h + at, here,
                         [&](int64_t k, int64_t, const Gates<T>& gates) { store(block.value + k, gates.value()); });
            }
            gather_rows(value + at, block.value, some, cell);
        }
    });
    return 0;
}

// Gradients of the step for a gradient g of its value: of u_r, u_z, u_n, q, and z g, the direct part of that of h.
template <class T>
int64_t gradients(const T* h, const T* const u[3], const T* const w[3], const T* bias, const T* g, T* const out[5],
                  int64_t rows, int64_t width, int64_t threads) {
    using V = Vec<T, NATIVE<T>>;
    const Cell<T> cell = pack(w[0], w[1], w[2], bias, width);
    if (rows * width < 8192) threads = 1;
    spread(rows, cell.rows, threads, [&](int64_t begin, int64_t last) {
        Block<T> block(cell);
        for (int64_t i = begin; i < last; i += cell.rows) {
            const int64_t some = last - i < cell.rows ? last - i : cell.rows, at = i * width;
            const T* here[3] = {u[0] + at, u[1] + at, u[2] + at};
            T* made[5] = {block.pre, block.pre + block.size, block.pre + 2 * block.size, block.value, block.diagonal};
            spread_rows(block.diagonal, g + at, some, cell);
            evaluate(cell, block, some, h + at, here, [&](int64_t k, int64_t, const Gates<T>& gates) {
                const V incoming = load<V>(block.diagonal + k), through = gates.through_n() * incoming;
                store(made[0] + k, gates.slope_r() * through);
                store(made[1] + k, gates.slope_z() * incoming);
                store(made[2] + k, through);
                store(made[3] + k, gates.r * through);
                store(made[4] + k, gates.z * incoming);
            });
            for (int k = 0; k < 5; k++) gather_rows(out[k] + at, made[k], some, cell);
        }
    });
    return 0;
}

// y[i] += sum over gates and j of W_gate[j][i] p[gate][j]; six sums at once, for each waits for itself.
template <class T, int W> void pull(const T* w, const T* p, int64_t width, int64_t padded, T* y) {
    using V = Vec<T, W>;
    for (int64_t i = 0; i < padded; i += W) {
        V sum[3][2] = {};
        int64_t j = 0;
        for (; j + 2 <= width; j += 2, w += 6 * W)
            for (int g = 0; g < 3; g++)
                for (int e = 0; e < 2; e++) sum[g][e] = load<V>(w + (3 * e + g) * W) * p[g * padded + j + e] + sum[g][e];
        if (j < width) {
            for (int g = 0; g < 3; g++) sum[g][0] = load<V>(w + g * W) * p[g * padded + j] + sum[g][0];
            w += 3 * W;
        }
        store(y + i, load<V>(y + i) + ((sum[0][0] + sum[0][1]) + (sum[1][0] + sum[1][1]) + (sum[2][0] + sum[2][1])));
    }
}

// l_t = g_t + J_{t+1}^T l_{t+1} from the last row to the first; h holds the state before each row. The slopes of a block
// of rows are computed by any thread, the recurrence goes through the blocks in turn.
template <class T>
int64_t adjoint(const T* h, const T* const u[3], const T* const w[3], const T* bias, const T* g, T* l, int64_t n,
                int64_t batch, int64_t width, int64_t threads) {
    Cell<T> cell = pack(w[0], w[1], w[2], bias, width);
    const int64_t count = batch * width, padded = cell.padded, lanes = lanes_for<T>(width);
    const int64_t steps = cell.rows > batch ? cell.rows / batch : 1, blocks = (n + steps - 1) / steps;
    cell.rows = steps * batch;
    std::unique_ptr<T[]> turned(new T[3 * width * padded]), carry(new T[batch * padded]()), room(new T[4 * padded]());
    arrange(turned.get(), w, width, padded, lanes, 1, width);
    const auto prepare = [&](Block<T>& block, int64_t row, int64_t some) {
        const int64_t at = row * count;
        const T* here[3] = {u[0] + at, u[1] + at, u[2] + at};
        evaluate(cell, block, some * batch, h + at, here, [&](int64_t i, int64_t, const Gates<T>& gates) {
            const auto through = gates.through_n();
            store(block.pre + i, gates.slope_r() * through);
            store(block.pre + block.size + i, gates.slope_z());
            store(block.pre + 2 * block.size + i, gates.r * through);
            store(block.value + i, gates.z);
        });
    };
    // carry holds what arrives at a row from the one after it: l_t = g_t + carry, then carry = J_t^T l_t.
    const auto finish = [&](const Block<T>& block, int64_t row, int64_t some) {
        T *own = room.get(), *p = own + padded;
        for (int64_t i = some - 1; i >= 0; i--)
            for (int64_t b = 0; b < batch; b++) {
                const int64_t at = (row + i) * count + b * width, in = (i * batch + b) * padded;
                T* from = &carry[b * padded];
                for (int64_t j = 0; j < width; j++) own[j] = g[at + j] + from[j];
                std::memcpy(l + at, own, width * sizeof(T));
                for (int k = 0; k < 3; k++)
                    for (int64_t j = 0; j < padded; j++) p[k * padded + j] = block.pre[k * block.size + in + j] * own[j];
                for (int64_t j = 0; j < padded; j++) from[j] = block.value[in + j] * own[j];
                if (lanes == NATIVE<T>) pull<T, NATIVE<T>>(turned.get(), p, width, padded, from);
                else if (lanes == NATIVE<T> / 2) pull<T, NATIVE<T> / 2>(turned.get(), p, width, padded, from);
                else pull<T, 16 / (int)sizeof(T)>(turned.get(), p, width, padded, from);
            }
    };
    if (n * count < 8192) threads = 1;
    in_turn<Block<T>>(cell, blocks, threads, [&](Block<T>& block, int64_t i, auto turn) {
        const int64_t row = (blocks - 1 - i) * steps, some = n - row < steps ? n - row : steps;
        prepare(block, row, some);
        turn([&] { finish(block, row, some); });
    });
    return 0;
}

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

}  // namespace

#define EXPORT(T, ending)                                                                                              \
    extern "C" int64_t step##ending(const T* u_r, const T* u_z, const T* u_n, const T* w_r, const T* w_z,              \
                                    const T* w_n, const T* bias, const T* h, T* value, T* diagonal, int64_t rows,      \
                                    int64_t width, int64_t threads) {                                                  \
        const T *u[3] = {u_r, u_z, u_n}, *w[3] = {w_r, w_z, w_n};                                                      \
        return step<T>(h, u, w, bias, value, diagonal, rows, width, threads);                                          \
    }                                                                                                                  \
    extern "C" int64_t gradients##ending(const T* u_r, const T* u_z, const T* u_n, const T* w_r, const T* w_z,         \
                                         const T* w_n, const T* bias, const T* h, const T* g, T* du_r, T* du_z,        \
                                         T* du_n, T* dq, T* dh, int64_t rows, int64_t width, int64_t threads) {        \
        const T *u[3] = {u_r, u_z, u_n}, *w[3] = {w_r, w_z, w_n};                                                      \
        T* out[5] = {du_r, du_z, du_n, dq, dh};                                                                        \
        return gradients<T>(h, u, w, bias, g, out, rows, width, threads);                                              \
    }                                                                                                                  \
    extern "C" int64_t adjoint##ending(const T* u_r, const T* u_z, const T* u_n, const T* w_r, const T* w_z,           \
                                       const T* w_n, const T* bias, const T* h, const T* g, T* l, int64_t n,           \
                                       int64_t batch, int64_t width, int64_t threads) {                                \
        const T *u[3] = {u_r, u_z, u_n}, *w[3] = {w_r, w_z, w_n};                                                      \
        return adjoint<T>(h, u, w, bias, g, l, n, batch, width, threads);                                              \
    }                                                                                                                  \
    extern "C" int64_t sweep##ending(const T* u_r, const T* u_z, const T* u_n, const T* w_r, const T* w_z,             \
                                     const T* w_n, const T* bias, const T* buffer, T* next, T* d, T* largest,          \
                                     T* excess, T* accepted, int64_t* lo, const int64_t* hi, int64_t start, int64_t n, \
                                     int64_t batch, int64_t width, int64_t full, int64_t threads, double rtol,         \
                                     double atol) {                                                                    \
        const T *u[3] = {u_r, u_z, u_n}, *w[3] = {w_r, w_z, w_n};                                                      \
        return sweep<T>(buffer, next, u, w, bias, d, largest, excess, accepted, lo, hi, start, n, batch, width, full,  \
                        threads, (T)rtol, (T)atol);                                                                    \
    }
EXPORT(float, _f32)
EXPORT(double, _f64)
