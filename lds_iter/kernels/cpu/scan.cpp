// x_t = A_t x_{t-1} + b_t, in place: x holds b on entry. One step after the other, all channels of a step side by side:
// each number of A is read once and each of x read and written once, so the cost is that of moving them.
// Every channel (or matrix) is computed by the same instructions wherever it lies, so that a result does not depend on
// its neighbours, nor on where the time axis is cut, nor on the number of threads.
#include <cmath>

#include "lanes.h"

namespace {

constexpr int64_t TIME_BLOCK = 512;  // rows of a strip between two visits: neighbouring strips find theirs in the cache

template <class T, int W> struct Strip {  // W neighbouring channels
    static void run(const T* a, T* x, const T* before, int64_t rows, int64_t a_row, int64_t x_row) {
        using V = Vec<T, W>;
        V carry = load<V>(before);
        for (int64_t t = 0; t < rows; t++, a += a_row, x += x_row) {
            carry = load<V>(a) * carry + load<V>(x);
            store(x, carry);
        }
    }
};

template <class T, int W>
void strips(const T* a, T* x, const T* before, int64_t& at, int64_t last, int64_t rows, int64_t a_row, int64_t x_row) {
    for (; at + W <= last; at += W) Strip<T, W>::run(a + at, x + at, before + at, rows, a_row, x_row);
    if constexpr (W > 1) strips<T, W / 2>(a, x, before, at, last, rows, a_row, x_row);
}

// So many vectors of a width make a cache line: two threads must not write to the same one.
template <class T> int64_t apart(int64_t width) { return (64 + width * (int64_t)sizeof(T) - 1) / (width * (int64_t)sizeof(T)); }

// The first row: x += A * initial, or nothing without an initial value.
template <class T> void first_row(const T* a, T* x, const T* initial, int64_t width) {
    if (initial != nullptr)
        for (int64_t j = 0; j < width; j++) x[j] = a[j] * initial[j] + x[j];
}

template <class T>
int64_t diagonal(const T* a, T* x, const T* initial, int64_t n, int64_t width, int64_t a_row, int64_t x_row,
                 int64_t threads) {
    if (n * width < 16384) threads = 1;
    spread(width, 64 / (int64_t)sizeof(T), threads, [&](int64_t begin, int64_t last) {
        first_row(a + begin, x + begin, initial ? initial + begin : nullptr, last - begin);
        for (int64_t t = 1; t < n; t += TIME_BLOCK) {
            const int64_t rows = n - t < TIME_BLOCK ? n - t : TIME_BLOCK;
            int64_t at = begin;
            strips<T, NATIVE<T>>(a + t * a_row, x + t * x_row, x + (t - 1) * x_row, at, last, rows, a_row, x_row);
        }
    });
    return 0;
}

// One number for `width` neighbouring channels: a[t * a_row + g * a_group] for group g.
template <class T>
int64_t scaled(const T* a, T* x, const T* initial, int64_t n, int64_t groups, int64_t width, int64_t a_row,
               int64_t a_group, int64_t x_row, int64_t threads) {
    if (n * groups * width < 16384) threads = 1;
    spread(groups, apart<T>(width), threads, [&](int64_t begin, int64_t last) {
        for (int64_t t = 0; t < n; t++) {
            if (t == 0 && initial == nullptr) continue;
            const T* before = t == 0 ? initial : x + (t - 1) * x_row;
            for (int64_t g = begin; g < last; g++) {
                const T scale = a[t * a_row + g * a_group];
                T* __restrict here = x + t * x_row + g * width;
                const T* __restrict there = before + g * width;
                for (int64_t j = 0; j < width; j++) here[j] = scale * there[j] + here[j];
            }
        }
    });
    return 0;
}

template <class T, int W> static inline T total(Vec<T, W> v) {
    if constexpr (W == 1) {
        return v;
    } else {
        Vec<T, W / 2> low, high;
        std::memcpy(&low, &v, sizeof low);
        std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
        return total<T, W / 2>(low + high);
    }
}

// y += A x for a matrix whose rows are contiguous.
template <class T, int W>
static inline void by_rows(const T* a, int64_t row, int64_t width, const T* x, T* y) {
    using V = Vec<T, W>;
    const int64_t whole = width / W * W;
    for (int64_t i = 0; i < width; i++) {
        V sum = {};
        for (int64_t j = 0; j < whole; j += W) sum = load<V>(a + i * row + j) * load<V>(x + j) + sum;
        T rest = 0;
        for (int64_t j = whole; j < width; j++) rest = a[i * row + j] * x[j] + rest;
        y[i] += total<T, W>(sum) + rest;
    }
}

// One rounding where the processor has it, said outright: a compiler may fuse differently for different strides.
template <class T> static inline T fused(T a, T x, T sum) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return std::fma(a, x, sum);
#else
    return a * x + sum;
#endif
}

template <class T, int K>
static inline void small(const T* __restrict a, int64_t si, int64_t sj, const T* __restrict x, T* __restrict y) {
    T sum[K];
    for (int i = 0; i < K; i++) {
        sum[i] = y[i];
        for (int j = 0; j < K; j++) sum[i] = fused(a[i * si + j * sj], x[j], sum[i]);
    }
    for (int i = 0; i < K; i++) y[i] = sum[i];
}

// All matrices of one size K of a step, one after the other.
template <class T, int K>
void smalls(const T* a, int64_t a_matrix, int64_t si, int64_t sj, const T* before, T* x, int64_t begin, int64_t last) {
    if (si == K && sj == 1 && a_matrix == K * K)  // known strides: the compiler does several at once
        for (int64_t m = begin; m < last; m++) small<T, K>(a + m * K * K, K, 1, before + m * K, x + m * K);
    else
        for (int64_t m = begin; m < last; m++) small<T, K>(a + m * a_matrix, si, sj, before + m * K, x + m * K);
}

template <class T>
static inline void step(const T* a, int64_t si, int64_t width, const T* x, T* y) {
    if (width >= NATIVE<T>) return by_rows<T, NATIVE<T>>(a, si, width, x, y);
    if (width >= NATIVE<T> / 2) return by_rows<T, NATIVE<T> / 2>(a, si, width, x, y);
    return by_rows<T, 16 / (int)sizeof(T)>(a, si, width, x, y);
}

// `count` independent matrices a step, each width x width: batch mates, or the blocks of a block diagonal.
// Of more than 4 columns, the numbers of a row must lie side by side (sj = 1).
template <class T>
int64_t dense(const T* a, T* x, const T* initial, int64_t n, int64_t count, int64_t width, int64_t a_row,
              int64_t a_matrix, int64_t si, int64_t sj, int64_t x_row, int64_t threads) {
    if (n * count * width * width < 32768) threads = 1;
    spread(count, apart<T>(width), threads, [&](int64_t begin, int64_t last) {
        for (int64_t t = 0; t < n; t++) {
            if (t == 0 && initial == nullptr) continue;
            const T *before = t == 0 ? initial : x + (t - 1) * x_row, *here = a + t * a_row;
            T* now = x + t * x_row;
            switch (width) {
                case 1: smalls<T, 1>(here, a_matrix, si, sj, before, now, begin, last); break;
                case 2: smalls<T, 2>(here, a_matrix, si, sj, before, now, begin, last); break;
                case 3: smalls<T, 3>(here, a_matrix, si, sj, before, now, begin, last); break;
                case 4: smalls<T, 4>(here, a_matrix, si, sj, before, now, begin, last); break;
                default:
                    for (int64_t m = begin; m < last; m++)
                        step(here + m * a_matrix, si, width, before + m * width, now + m * width);
            }
        }
    });
    return 0;
}

}  // namespace

#define EXPORT(T, ending)                                                                                              \
    extern "C" int64_t diagonal_scan##ending(const T* a, T* x, const T* initial, int64_t n, int64_t width,             \
                                             int64_t a_row, int64_t x_row, int64_t threads) {                          \
        return guarded([&] { return diagonal<T>(a, x, initial, n, width, a_row, x_row, threads); });                   \
    }                                                                                                                  \
    extern "C" int64_t scaled_scan##ending(const T* a, T* x, const T* initial, int64_t n, int64_t groups,              \
                                           int64_t width, int64_t a_row, int64_t a_group, int64_t x_row,               \
                                           int64_t threads) {                                                          \
        return guarded([&] { return scaled<T>(a, x, initial, n, groups, width, a_row, a_group, x_row, threads); });    \
    }                                                                                                                  \
    extern "C" int64_t dense_scan##ending(const T* a, T* x, const T* initial, int64_t n, int64_t count, int64_t width, \
                                          int64_t a_row, int64_t a_matrix, int64_t si, int64_t sj, int64_t x_row,      \
                                          int64_t threads) {                                                           \
        return guarded([&] {                                                                                           \
            return dense<T>(a, x, initial, n, count, width, a_row, a_matrix, si, sj, x_row, threads);                  \
        });                                                                                                            \
    }
EXPORT(float, _f32)
EXPORT(double, _f64)
