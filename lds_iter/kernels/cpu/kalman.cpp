// Kalman's filter and smoother (see lds_iter/methods/levenberg_marquardt.py), one step after the other; mates and blocks
// are sequences of their own, and threads share them out. With q = 1 / sigma^2, G = I - K and d = 0, K = 0 before:
//     X_t = q I + J_t K_{t-1} J_t^T    K_t = X_t (I + X_t)^{-1}    d_t = G_t (J_t d_{t-1} + r_t)             the filter
//     g_t = J_{t+1}^T z_{t+1}          z_t = d_t + G_t g_t         d_t <- d_t - K_t g_t                      the smoother
// K counts in units of 1 / q. Where q is not that of the row before, the unit changes: K_{t-1} and g_{t-1} are taken
// q_t / q_{t-1} times.
// Rows that are not free have d_t = r_t and K_t = 0, and J_t counts as 0 on the way back; q = 0 is no damping: K = 0.
#include "kalman_diagonal.h"
#include "kalman_kernel.h"
#include "memory.h"

namespace {

constexpr int64_t AHEAD = 2;  // rows that the way back asks memory for before it is there

template <class T> struct Problem {
    const T *j, *r, *q;         // (n, count, D, D) by its strides; (n, count, D); (n, mates), rows being q_row apart
    const unsigned char* free;  // (n, mates)
    T* d;                       // (n, count, D)
    int64_t n, count, blocks;   // count = mates * blocks
    int64_t over_t, over_m, over_i, over_j, q_row;
    int64_t smooth, kept;       // bytes of gains that a thread may keep for the smoother's way back
    bool moves(int64_t t, int64_t m) const { return free[t * (count / blocks) + m / blocks]; }
    T precision(int64_t t, int64_t m) const { return q[t * q_row + m / blocks]; }
    T to_unit_of(int64_t t, int64_t m) const {
        const T now = precision(t, m), before = t && q_row ? precision(t - 1, m) : now;
        return now == before || before == 0 ? 1 : now / before;
    }
    const T* jacobian(int64_t t, int64_t m) const { return j + t * over_t + m * over_m; }
    template <class V> V* at(V* x, int64_t t, int64_t m, int64_t size) const { return x + (t * count + m) * size; }
    void fetch(int64_t t, int64_t m, int64_t size) const {
        if (over_i == size || over_j == size) fetch_numbers(jacobian(t, m), size * size);  // one stretch of memory
    }
    static void fetch_numbers(const T* from, int64_t count) {
        for (int64_t k = 0; k < count; k += 64 / sizeof(T)) __builtin_prefetch(from + k);
    }
};

// How many rows of so many numbers each fit into so many bytes; one at least.
template <class T> int64_t fitting(int64_t bytes, int64_t numbers, int64_t most) {
    const int64_t fit = bytes / ((int64_t)sizeof(T) * numbers);
    return fit < 1 ? 1 : fit > most ? most : fit;
}

// Some sequences side by side, [first, last); rows of time are laid out a few at a time, ahead of the steps that read them.
// The smoother keeps the gains of the last `rows` rows for its way back; over those before them the filter passes twice.
template <class T> struct Group {
    const Problem<T>& p;
    const Kernel<T>& kernel;
    int64_t first, mates, size, matrix, row, entry;
    int64_t times, rows;  // that are laid out, and whose gains are kept
    Memory<T> memory;
    T *tile, *states, *costates, *room, *kept;

    Group(const Problem<T>& p, const Kernel<T>& kernel, int64_t first, int64_t last, int64_t rows, T* kept)
        : p(p), kernel(kernel), first(first), mates(last - first), size(kernel.size),
          matrix(kernel.tall * kernel.row), row(kernel.row), entry(matrix + row),
          times(fitting<T>(1 << 14, entry * mates, 16)), rows(rows), memory(numbers()), kept(kept) {
        std::memset(memory.first, 0, numbers() * sizeof(T));
        tile = memory.first, states = tile + times * mates * entry, costates = states + mates * entry;
        room = costates + 2 * mates * row;
    }
    int64_t numbers() const { return (times + 1) * mates * entry + 2 * mates * row + matrix + ROOM * row; }
    T* gain(int64_t t, int64_t m) { return kept + (t % rows * mates + m - first) * kernel.kept; }

    // Run prepare(t, m, entry) and act(t, m, entry) for the times [from, to), in this order or the other one; then the
    // numbers of the entry's last row are those of d.
    template <class Prepare, class Act> void sweep(int64_t from, int64_t to, bool back, Prepare prepare, Act act) {
        for (int64_t begin = from; begin < to; begin += times) {
            const int64_t some = to - begin < times ? to - begin : times;
            const auto each = [&](auto body) {
                T* here = tile;
                for (int64_t e = 0; e < some; e++)
                    for (int64_t m = first; m < first + mates; m++, here += entry)
                        body(back ? to - 1 - (begin - from) - e : begin + e, m, here);
            };
            each(prepare);
            each(act);
            each([&](int64_t t, int64_t m, T* here) { kernel.save(p.at(p.d, t, m, size), here + matrix, size); });
        }
    }

    void forward(int64_t from, int64_t to, bool keep) {
        const auto prepare = [&](int64_t t, int64_t m, T* here) {
            kernel.load(kernel, here, p.moves(t, m) ? p.jacobian(t, m) : nullptr, p.over_i, p.over_j, p.at(p.r, t, m, size));
        };
        sweep(from, to, false, prepare, [&](int64_t t, int64_t m, T* here) {
            T *now = states + (m - first) * entry, *d = here + matrix;
            if (t + times < to) p.fetch(t + times, m, size);
            const T q = p.precision(t, m), unit = p.to_unit_of(t, m);
            if (p.moves(t, m) && q != 0) {
                if (unit != 1)
                    for (int64_t k = 0; k < matrix; k++) now[k] *= unit;
                kernel.step(kernel, now, here, q, room);
                if (keep) kernel.keep(kernel, gain(t, m), now);
                return;
            }
            if (p.moves(t, m)) kernel.add(kernel, d, now + matrix, here, 1);
            else std::memset(now, 0, matrix * sizeof(T));
            std::memcpy(now + matrix, d, row * sizeof(T));
        });
    }

    void backward(int64_t from, int64_t to) {
        const auto leads = [&](int64_t t, int64_t m) { return t + 1 < p.n && p.moves(t + 1, m); };
        const bool ready = p.over_j == 1 && p.over_i == row && size == row;  // J lies in memory as it would be laid out
        const auto prepare = [&](int64_t t, int64_t m, T* here) {
            const T* j = leads(t, m) && !ready ? p.jacobian(t + 1, m) : nullptr;
            kernel.load(kernel, here, j, p.over_j, p.over_i, p.at(p.d, t, m, size));
        };
        sweep(from, to, true, prepare, [&](int64_t t, int64_t m, T* here) {
            T *z = costates + (m - first) * 2 * row, *g = z + row, *d = here + matrix;
            std::memset(g, 0, row * sizeof(T));
            if (t >= from + AHEAD) p.fetch(t - AHEAD, m, size), p.fetch_numbers(gain(t - AHEAD, m), kernel.kept);
            if (leads(t, m)) kernel.add(kernel, g, z, ready ? p.jacobian(t + 1, m) : here, p.to_unit_of(t + 1, m));
            if (p.moves(t, m) && p.precision(t, m) != 0)
                kernel.add(kernel, d, g, kernel.whole(kernel, room, gain(t, m)), -1);
            for (int64_t k = 0; k < row; k++) z[k] = d[k] + g[k];
        });
    }

    void smooth() {
        const int64_t state = mates * entry, last = (p.n - 1) / rows, head = p.n - last * rows;
        const auto begin = [&](int64_t i) { return i ? head + (i - 1) * rows : 0; };  // of stretches of `rows` to the end
        Memory<T> before(last * state);  // the states before each of them
        for (int64_t i = 0; i < last; i++) {
            std::memcpy(before.first + i * state, states, state * sizeof(T));
            forward(begin(i), begin(i + 1), false);
        }
        for (int64_t i = last; i >= 0; i--) {
            if (i < last) std::memcpy(states, before.first + i * state, state * sizeof(T));
            forward(begin(i), begin(i + 1), true);
            backward(begin(i), begin(i + 1));
        }
    }
};

template <class T> int64_t matrices(const Problem<T>& p, int64_t width, int64_t threads) {
    const Kernel<T> kernel = kernel_for<T>(width);
    if (p.n * p.count * width * width * width < 65536) threads = 1;
    spread(p.count, 1, threads, [&](int64_t begin, int64_t last) {
        const int64_t most = last - begin < kernel.together ? last - begin : kernel.together;
        const int64_t gains = most * kernel.kept;
        const int64_t rows = p.smooth ? fitting<T>(p.kept, gains, p.n) : 0;
        Memory<T> kept(rows * gains);
        for (int64_t m = begin; m < last; m += most) {
            Group<T> group(p, kernel, m, last - m < most ? last : m + most, rows, kept.first);
            if (p.smooth) group.smooth();
            else group.forward(0, p.n, false);
        }
    });
    return 0;
}

}  // namespace

#define EXPORT(T, ending)                                                                                              \
    extern "C" int64_t matrices##ending(const T* j, const T* r, const T* q, const unsigned char* free, T* d,           \
                                        int64_t n, int64_t count, int64_t blocks, int64_t width, int64_t over_t,       \
                                        int64_t over_m, int64_t over_i, int64_t over_j, int64_t q_row,                 \
                                        int64_t smooth, int64_t kept, int64_t threads) {                               \
        return guarded([&] {                                                                                           \
            return matrices<T>({j, r, q, free, d, n, count, blocks, over_t, over_m, over_i, over_j, q_row, smooth,     \
                                kept},                                                                                 \
                               width, threads);                                                                        \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" int64_t diagonal##ending(const T* j, const T* r, const T* q, const unsigned char* free, T* d,           \
                                        T* predicted, int64_t n, int64_t mates, int64_t width, int64_t j_row,          \
                                        int64_t threads) {                                                             \
        return guarded([&] { return diagonal<T>({j, r, q, free, d, predicted, n, mates, width, j_row}, threads); });   \
    }
EXPORT(float, _f32)
EXPORT(double, _f64)
