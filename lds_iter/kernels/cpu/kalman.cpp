// Kalman's filter and smoother (see lds_iter/methods/levenberg_marquardt.py), one step after the other; mates and blocks
// are sequences of their own, and threads share them out. With q = 1 / sigma^2, G = I - K and d = 0, K = 0 before:
//     X_t = q I + J_t K_{t-1} J_t^T    K_t = X_t (I + X_t)^{-1}    d_t = G_t (J_t d_{t-1} + r_t)             the filter
//     g_t = J_{t+1}^T z_{t+1}          z_t = d_t + G_t g_t         d_t <- d_t - K_t g_t                      the smoother
// Rows that are not free have d_t = r_t and K_t = 0, and J_t counts as 0 on the way back; q = 0 is no damping: K = 0.
#include <memory>

#include "kalman_diagonal.h"
#include "kalman_kernel.h"

namespace {

template <class T> struct Problem {
    const T *j, *r, *q;           // (n, count, D, D) by its strides; (n, count, D); (mates)
    const unsigned char* free;    // (n, mates)
    T *d, *gains;                 // (n, count, D); of the smoother (n, count, D, row), else null
    int64_t n, count, blocks;     // count = mates * blocks
    int64_t over_t, over_m, over_i, over_j;
    bool moves(int64_t t, int64_t m) const { return free[t * (count / blocks) + m / blocks]; }
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

// Some sequences side by side, [first, last); rows of time are laid out a few at a time, ahead of the steps that read them.
template <class T> struct Group {
    const Problem<T>& p;
    const Kernel<T>& kernel;
    int64_t first, last, size, row, entry, times;
    Memory<T> memory;
    T *tile, *states, *room;

    static int64_t times_for(int64_t some, int64_t entry) {
        const int64_t fit = 16384 / ((int64_t)sizeof(T) * entry * some);
        return fit < 1 ? 1 : fit > 16 ? 16 : fit;
    }
    Group(const Problem<T>& p, const Kernel<T>& kernel, int64_t first, int64_t last)
        : p(p), kernel(kernel), first(first), last(last), size(kernel.size), row(kernel.row), entry((size + 1) * row),
          times(times_for(last - first, entry)), memory((times + 1) * (last - first) * entry + entry + 8 * row) {
        tile = memory.first, states = tile + times * (last - first) * entry, room = states + (last - first) * entry;
    }
    T* state(int64_t m) { return states + (m - first) * entry; }
    const T* jacobian(int64_t t, int64_t m) { return p.j + t * p.over_t + m * p.over_m; }
    T* gains(int64_t t, int64_t m) { return p.gains + (t * p.count + m) * size * row; }

    // Run prepare(t, m, entry) and act(t, m, entry) for all times, in this order or the other one; then the numbers of
    // the entry's last row are those of d.
    template <class Prepare, class Act> void sweep(bool backwards, Prepare prepare, Act act) {
        for (int64_t begin = 0; begin < p.n; begin += times) {
            const int64_t some = p.n - begin < times ? p.n - begin : times;
            const auto each = [&](auto body) {
                T* here = tile;
                for (int64_t e = 0; e < some; e++)
                    for (int64_t m = first; m < last; m++, here += entry)
                        body(backwards ? p.n - 1 - begin - e : begin + e, m, here);
            };
            each(prepare);
            each(act);
            each([&](int64_t t, int64_t m, T* here) {
                kernel.save(p.d + (t * p.count + m) * size, here + size * row, size);
            });
        }
    }

    void forward() {
        const auto prepare = [&](int64_t t, int64_t m, T* here) {
            const T *j = p.moves(t, m) ? jacobian(t, m) : nullptr, *r = p.r + (t * p.count + m) * size;
            kernel.load(kernel, here, j, p.over_i, p.over_j, r);
        };
        sweep(false, prepare, [&](int64_t t, int64_t m, T* here) {
            T *now = state(m), *d = here + size * row;
            const T q = p.precision(m);
            if (p.moves(t, m) && q != 0) {
                kernel.step(kernel, now, here, q, room);
                if (p.gains) std::memcpy(gains(t, m), now, size * row * sizeof(T));
                return;
            }
            if (p.moves(t, m)) kernel.add(kernel, d, now + size * row, here, 1);
            else std::memset(now, 0, size * row * sizeof(T));
            std::memcpy(now + size * row, d, row * sizeof(T));
        });
    }

    void backward() {
        const auto leads = [&](int64_t t, int64_t m) { return t + 1 < p.n && p.moves(t + 1, m); };
        const auto prepare = [&](int64_t t, int64_t m, T* here) {
            const T *j = leads(t, m) ? jacobian(t + 1, m) : nullptr, *d = p.d + (t * p.count + m) * size;
            kernel.load(kernel, here, j, p.over_j, p.over_i, d);
        };
        sweep(true, prepare, [&](int64_t t, int64_t m, T* here) {
            T *z = state(m), *g = z + row, *d = here + size * row;
            std::memset(g, 0, row * sizeof(T));
            if (leads(t, m)) kernel.add(kernel, g, z, here, 1);
            if (p.moves(t, m) && p.precision(m) != 0) kernel.add(kernel, d, g, gains(t, m), -1);
            for (int64_t k = 0; k < row; k++) z[k] = d[k] + g[k];
        });
    }
};

template <class T> int64_t matrices(const Problem<T>& p, int64_t width, int64_t threads) {
    const Kernel<T> kernel = kernel_for<T>(width);
    if (p.n * p.count * width * width * width < 65536) threads = 1;
    spread(p.count, 1, threads, [&](int64_t begin, int64_t last) {
        for (int64_t m = begin; m < last; m += GROUP) {
            Group<T> group(p, kernel, m, last - m < GROUP ? last : m + GROUP);
            group.forward();
            if (p.gains) group.backward();
        }
    });
    return 0;
}

}  // namespace

#define EXPORT(T, ending)                                                                                              \
    extern "C" int64_t row##ending(int64_t width) { return kernel_for<T>(width).row; }                                     \
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
