// Kalman's filter and smoother (see lds_iter/methods/levenberg_marquardt.py), one step after the other; mates and blocks
// are sequences of their own, and threads share them out. With q = 1 / sigma^2, G = I - K and d = 0, K = 0 before:
//     X_t = q I + J_t K_{t-1} J_t^T    K_t = X_t (I + X_t)^{-1}    d_t = G_t (J_t d_{t-1} + r_t)             the filter
//     g_t = J_{t+1}^T z_{t+1}          z_t = d_t + G_t g_t         d_t <- d_t - K_t g_t                      the smoother
// Rows that are not free have d_t = r_t and K_t = 0, and J_t counts as 0 on the way back; q = 0 is no damping: K = 0.
#include <memory>

#include "kalman_diagonal.h"
#include "kalman_step.h"

namespace {

template <class T> struct Problem {
    const T *j, *r, *q;           // (n, count, D, D) by its strides; (n, count, D); (mates)
    const unsigned char* free;    // (n, mates)
    T *d, *gains;                 // (n, count, D); of the smoother (n, count, D, row), else null
    int64_t n, count, blocks;     // count = mates * blocks
    int64_t over_t, over_m, over_i, over_j;
    bool may_move(int64_t t, int64_t m) const { return free[t * (count / blocks) + m / blocks]; }
    T precision(int64_t m) const { return q[m / blocks]; }
};

constexpr int64_t GROUP = 8;  // sequences that take turns: while one waits for a result, the processor does the next

template <class T> struct Memory {  // zeros, from the beginning of a cache line on
    std::unique_ptr<T[]> all;
    T* first;
    explicit Memory(int64_t numbers) : all(new T[numbers + 64 / sizeof(T)]()) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(all.get());
        first = reinterpret_cast<T*>((at + 63) / 64 * 64);
    }
};

#ifdef __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES
#endif
#endif

// Four rows of four numbers.
template <class T> static inline void transpose(T* to, int64_t to_row, const T* from, int64_t from_row) {
#ifdef SHUFFLES
    using V = Vec<T, 4>;
    const V a = load<V>(from), b = load<V>(from + from_row);
    const V c = load<V>(from + 2 * from_row), d = load<V>(from + 3 * from_row);
    const V ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    store(to, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
    store(to + to_row, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
    const V ba = __builtin_shufflevector(a, b, 2, 6, 3, 7), dc = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    store(to + 2 * to_row, __builtin_shufflevector(ba, dc, 0, 1, 4, 5));
    store(to + 3 * to_row, __builtin_shufflevector(ba, dc, 2, 3, 6, 7));
#else
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 4; i++) to[k * to_row + i] = from[i * from_row + k];
#endif
}

// to[k * row + i] = from[i * over_i + k * over_k]
template <class T>
static inline void lay_out(T* to, const T* from, int64_t over_i, int64_t over_k, int64_t size, int64_t row) {
    if (over_i == 1) {
        for (int64_t k = 0; k < size; k++) std::memcpy(to + k * row, from + k * over_k, size * sizeof(T));
        return;
    }
    const int64_t whole = over_k == 1 ? size / 4 * 4 : 0;
    for (int64_t i = 0; i < whole; i += 4)
        for (int64_t k = 0; k < whole; k += 4) transpose(to + k * row + i, row, from + i * over_i + k, over_i);
    for (int64_t k = 0; k < size; k++)
        for (int64_t i = k < whole ? whole : 0; i < size; i++) to[k * row + i] = from[i * over_i + k * over_k];
}

// Some sequences side by side, [first, last); rows of time are laid out a few at a time, ahead of the steps that read them.
template <class T, class Step> struct Group {
    const Problem<T>& p;
    const Step& step;
    int64_t first, last, size, row, entry, times;
    Memory<T> memory;
    T *tile, *states, *room;

    static int64_t times_for(int64_t some, int64_t entry) {
        const int64_t fit = 16384 / ((int64_t)sizeof(T) * entry * some);
        return fit < 1 ? 1 : fit > 16 ? 16 : fit;
    }
    Group(const Problem<T>& p, const Step& step, int64_t first, int64_t last)
        : p(p), step(step), first(first), last(last), size(step.size()), row(step.row()), entry((size + 1) * row),
          times(times_for(last - first, entry)), memory((times + 1) * (last - first) * entry + entry + 8 * row) {
        tile = memory.first, states = tile + times * (last - first) * entry, room = states + (last - first) * entry;
    }
    T* at(int64_t t, int64_t m) { return tile + (t * (last - first) + m - first) * entry; }
    T* state(int64_t m) { return states + (m - first) * entry; }
    const T* jacobian(int64_t t, int64_t m) { return p.j + t * p.over_t + m * p.over_m; }

    // Run prepare(t, m, entry), act(t, m, entry), finish(t, m, entry) for all times, in this order or the other one.
    template <class Prepare, class Act, class Finish>
    void sweep(bool backwards, Prepare prepare, Act act, Finish finish) {
        for (int64_t begin = 0; begin < p.n; begin += times) {
            const int64_t some = p.n - begin < times ? p.n - begin : times;
            const auto each = [&](auto body) {
                for (int64_t e = 0; e < some; e++)
                    for (int64_t m = first; m < last; m++)
                        body(backwards ? p.n - 1 - begin - e : begin + e, m, at(e, m));
            };
            each(prepare);
            each(act);
            each(finish);
        }
    }

    void forward() {
        sweep(
            false,
            [&](int64_t t, int64_t m, T* here) {
                if (p.may_move(t, m)) lay_out(here, jacobian(t, m), p.over_i, p.over_j, size, row);
                std::memcpy(here + size * row, p.r + (t * p.count + m) * size, size * sizeof(T));
            },
            [&](int64_t t, int64_t m, T* here) {
                T* now = state(m);
                T* d = here + size * row;
                if (!p.may_move(t, m)) {
                    std::memset(now, 0, size * row * sizeof(T));
                    std::memcpy(now + size * row, d, row * sizeof(T));
                    return;
                }
                if (p.precision(m) == 0) {
                    add_product<T, Step::LANES>(d, now + size * row, here, size, row, 1);
                    std::memcpy(now + size * row, d, row * sizeof(T));
                    return;
                }
                step.step(now, here, p.precision(m), room);
                if (p.gains) std::memcpy(p.gains + (t * p.count + m) * size * row, now, size * row * sizeof(T));
            },
            [&](int64_t t, int64_t m, T* here) {
                std::memcpy(p.d + (t * p.count + m) * size, here + size * row, size * sizeof(T));
            });
    }

    void backward() {
        sweep(
            true,
            [&](int64_t t, int64_t m, T* here) {
                if (t + 1 < p.n && p.may_move(t + 1, m)) lay_out(here, jacobian(t + 1, m), p.over_j, p.over_i, size, row);
                std::memcpy(here + size * row, p.d + (t * p.count + m) * size, size * sizeof(T));
            },
            [&](int64_t t, int64_t m, T* here) {
                constexpr int W = Step::LANES;
                T *z = state(m), *g = z + row, *d = here + size * row;
                std::memset(g, 0, row * sizeof(T));
                if (t + 1 < p.n && p.may_move(t + 1, m)) add_product<T, W>(g, z, here, size, row, 1);
                if (p.may_move(t, m) && p.precision(m) != 0)
                    add_product<T, W>(d, g, p.gains + (t * p.count + m) * size * row, size, row, -1);
                for (int64_t k = 0; k < row; k += W) store(z + k, load<Vec<T, W>>(d + k) + load<Vec<T, W>>(g + k));
            },
            [&](int64_t t, int64_t m, T* here) {
                std::memcpy(p.d + (t * p.count + m) * size, here + size * row, size * sizeof(T));
            });
    }
};

template <class T, class Step> int64_t run(const Problem<T>& p, int64_t width, int64_t threads) {
    const Step step(width);
    if (p.n * p.count * width * width * width < 65536) threads = 1;
    spread(p.count, 1, threads, [&](int64_t begin, int64_t last) {
        for (int64_t m = begin; m < last; m += GROUP) {
            Group<T, Step> group(p, step, m, last - m < GROUP ? last : m + GROUP);
            group.forward();
            if (p.gains) group.backward();
        }
    });
    return 0;
}

template <class T, int D> constexpr int lanes_for() {
    int lanes = NATIVE<T>;
    while (lanes > 16 / (int)sizeof(T) && lanes / 2 >= D) lanes /= 2;
    return lanes;
}
template <class T, int D> int64_t small(const Problem<T>& p, int64_t width, int64_t threads) {
    return run<T, Small<T, lanes_for<T, D>(), D>>(p, width, threads);
}

// Rows of the gains that the smoother keeps are of `row_length(width)` numbers.
template <class T> int64_t row_length(int64_t width) {
    constexpr int64_t N = NATIVE<T>, LEAST = 16 / (int64_t)sizeof(T);
    int64_t lanes = N;
    if (width <= 8)
        while (lanes > LEAST && lanes / 2 >= width) lanes /= 2;
    return (width + lanes - 1) / lanes * lanes;
}

template <class T> int64_t matrices(const Problem<T>& p, int64_t width, int64_t threads) {
    switch (width) {
        case 1: return small<T, 1>(p, width, threads);
        case 2: return small<T, 2>(p, width, threads);
        case 3: return small<T, 3>(p, width, threads);
        case 4: return small<T, 4>(p, width, threads);
        case 5: return small<T, 5>(p, width, threads);
        case 6: return small<T, 6>(p, width, threads);
        case 7: return small<T, 7>(p, width, threads);
        case 8: return small<T, 8>(p, width, threads);
        default: return run<T, Wide<T, NATIVE<T>>>(p, width, threads);
    }
}

}  // namespace

#define EXPORT(T, ending)                                                                                              \
    extern "C" int64_t row##ending(int64_t width) { return row_length<T>(width); }                                     \
    extern "C" int64_t matrices##ending(const T* j, const T* r, const T* q, const unsigned char* free, T* d, T* gains, \
                                        int64_t n, int64_t count, int64_t blocks, int64_t width, int64_t over_t,       \
                                        int64_t over_m, int64_t over_i, int64_t over_j, int64_t threads) {             \
        return matrices<T>({j, r, q, free, d, gains, n, count, blocks, over_t, over_m, over_i, over_j}, width,         \
                           threads);                                                                                   \
    }                                                                                                                  \
    extern "C" int64_t diagonal##ending(const T* j, const T* r, const T* q, const unsigned char* free, T* d,           \
                                        T* predicted, int64_t n, int64_t mates, int64_t width, int64_t j_row,          \
                                        int64_t threads) {                                                             \
        return diagonal<T>({j, r, q, free, d, predicted, n, mates, width, j_row}, threads);                            \
    }
EXPORT(float, _f32)
EXPORT(double, _f64)
