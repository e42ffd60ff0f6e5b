// The compiled GRU: its step with the diagonal of the Jacobian, the Jacobian and the gradients of a step, a whole
// iteration, the adjoint.
// u: what the inputs contribute to the gates; w: W_r, W_z, W_n, row by row; bias: that of q.
#include "gru_adjoint.h"
#include "gru_cell.h"
#include "gru_sweep.h"

namespace {

// Run body(block, some, at, here) on blocks of `some` rows, whose numbers begin at `at` and in u at `here`.
template <class T, class Body>
void by_blocks(const Cell<T>& cell, const T* const u[3], int64_t rows, int64_t width, int64_t threads, Body body) {
    if (rows * width < 8192) threads = 1;
    spread(rows, cell.rows, threads, [&](int64_t begin, int64_t last) {
        Block<T> block(cell);
        for (int64_t i = begin; i < last; i += cell.rows) {
            const int64_t some = last - i < cell.rows ? last - i : cell.rows, at = i * width;
            const T* here[3] = {u[0] + at, u[1] + at, u[2] + at};
            body(block, some, at, here);
        }
    });
}

template <class T>
int64_t step(const T* h, const T* const u[3], const T* const w[3], const T* bias, T* value, T* diagonal, int64_t rows,
             int64_t width, int64_t threads) {
    const Cell<T> cell = pack(w[0], w[1], w[2], bias, width);
    by_blocks(cell, u, rows, width, threads, [&](Block<T>& block, int64_t some, int64_t at, const T* const here[3]) {
        if (diagonal) {
            evaluate_diagonal(cell, block, some, h + at, here);
            gather_rows(diagonal + at, block.diagonal, some, cell);
        } else {
            evaluate(cell, block, some, h + at, here,
                     [&](int64_t k, int64_t, const Gates<T>& gates) { store(block.value + k, gates.value()); });
        }
        gather_rows(value + at, block.value, some, cell);
    });
    return 0;
}

// to[j] = slopes[0] w_0[j] + slopes[1] w_1[j] + slopes[2] w_2[j]
template <class T, int W>
inline void combine(T* to, const T slopes[3], const T* const w[3], int64_t at, int64_t j, int64_t width) {
    using V = Vec<T, W>;
    for (; j + W <= width; j += W)
        store(to + j, slopes[0] * load<V>(w[0] + at + j) +
                          (slopes[1] * load<V>(w[1] + at + j) + slopes[2] * load<V>(w[2] + at + j)));
    if constexpr (W > 1) combine<T, W / 2>(to, slopes, w, at, j, width);
}

// All D x D Jacobians of the step: diag(z) + diag(a_r) W_r + diag(a_z) W_z + diag(a_n) W_n.
template <class T>
int64_t jacobian(const T* h, const T* const u[3], const T* const w[3], const T* bias, T* out, int64_t rows,
                 int64_t width, int64_t threads) {
    const Cell<T> cell = pack(w[0], w[1], w[2], bias, width);
    by_blocks(cell, u, rows, width, threads, [&](Block<T>& block, int64_t some, int64_t at, const T* const here[3]) {
        evaluate(cell, block, some, h + at, here, [&](int64_t k, int64_t, const Gates<T>& gates) {
            const auto through = gates.through_n();
            store(block.pre + k, gates.slope_r() * through);
            store(block.pre + block.size + k, gates.slope_z());
            store(block.pre + 2 * block.size + k, gates.r * through);
            store(block.diagonal + k, gates.z);
        });
        T* to = out + at * width;
        for (int64_t row = 0; row < some; row++)
            for (int64_t i = 0; i < width; i++, to += width) {
                const int64_t k = row * cell.padded + i;
                const T slopes[3] = {block.pre[k], block.pre[block.size + k], block.pre[2 * block.size + k]};
                combine<T, NATIVE<T>>(to, slopes, w, i * width, 0, width);
                to[i] += block.diagonal[k];
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
    by_blocks(cell, u, rows, width, threads, [&](Block<T>& block, int64_t some, int64_t at, const T* const here[3]) {
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
    });
    return 0;
}

}  // namespace

#define EXPORT(T, ending)                                                                                              \
    extern "C" int64_t step##ending(const T* u_r, const T* u_z, const T* u_n, const T* w_r, const T* w_z,              \
                                    const T* w_n, const T* bias, const T* h, T* value, T* diagonal, int64_t rows,      \
                                    int64_t width, int64_t threads) {                                                  \
        const T *u[3] = {u_r, u_z, u_n}, *w[3] = {w_r, w_z, w_n};                                                      \
        return step<T>(h, u, w, bias, value, diagonal, rows, width, threads);                                          \
    }                                                                                                                  \
    extern "C" int64_t jacobian##ending(const T* u_r, const T* u_z, const T* u_n, const T* w_r, const T* w_z,          \
                                        const T* w_n, const T* bias, const T* h, T* out, int64_t rows, int64_t width,  \
                                        int64_t threads) {                                                             \
        const T *u[3] = {u_r, u_z, u_n}, *w[3] = {w_r, w_z, w_n};                                                      \
        return jacobian<T>(h, u, w, bias, out, rows, width, threads);                                                  \
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
