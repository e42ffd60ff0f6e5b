// x_t = (diag(d_t) + U_t V_t^T) x_{t-1} + b_t, in place: x holds b on entry. One step after the other, so that no matrix
// is ever made: 3 r + 2 numbers are moved and 4 r operations done for each number of x.
// Every batch element is computed by the same instructions wherever it lies; see scan.cpp.
#include "lanes.h"

namespace {

template <class T> using V = Vec<T, NATIVE<T>>;

template <class T> INLINE V<T> times_plus(V<T> a, V<T> b, V<T> c) { return a * b + c; }

template <class T> INLINE T product(const T* a, const T* b, int64_t width) {
    constexpr int W = NATIVE<T>;
    const int64_t whole = width / W * W;
    V<T> sum = {};
    for (int64_t j = 0; j < whole; j += W) sum = times_plus<T>(load<V<T>>(a + j), load<V<T>>(b + j), sum);
    T lanes[W], total = 0;
    store(lanes, sum);
    for (int i = 0; i < W; i++) total += lanes[i];
    for (int64_t j = whole; j < width; j++) total = a[j] * b[j] + total;
    return total;
}

// One step of one batch element; u and v are r rows of `width` numbers. `along` has room for r numbers: all products
// with the old state come before the new one is written, which may lie in the same memory.
template <class T>
INLINE void step(const T* d, const T* u, const T* v, const T* __restrict before, T* __restrict x, int64_t width,
                 int64_t rank, T* along) {
    for (int64_t k = 0; k < rank; k++) along[k] = product(v + k * width, before, width);
    for (int64_t j = 0; j < width; j++) x[j] = d[j] * before[j] + x[j];
    for (int64_t k = 0; k < rank; k++) {
        const T* column = u + k * width;
        const T much = along[k];
        for (int64_t j = 0; j < width; j++) x[j] = column[j] * much + x[j];
    }
}

template <class T>
int64_t scan(const T* d, const T* u, const T* v, T* x, const T* initial, int64_t n, int64_t count, int64_t width,
             int64_t rank, int64_t x_row, int64_t threads) {
    if (n * count * width * (rank + 1) < 32768) threads = 1;
    const int64_t line = (64 + width * (int64_t)sizeof(T) - 1) / (width * (int64_t)sizeof(T));
    spread(count, line, threads, [&](int64_t begin, int64_t last) {
        std::vector<T> along(rank);
        for (int64_t t = 0; t < n; t++) {
            if (t == 0 && initial == nullptr) continue;
            const T* before = t == 0 ? initial : x + (t - 1) * x_row;
            for (int64_t m = begin; m < last; m++) {
                const int64_t at = t * count + m;
                step(d + at * width, u + at * width * rank, v + at * width * rank, before + m * width,
                     x + t * x_row + m * width, width, rank, along.data());
            }
        }
    });
    return 0;
}

}  // namespace

#define EXPORT(T, ending)                                                                                              \
    extern "C" int64_t low_rank_scan##ending(const T* d, const T* u, const T* v, T* x, const T* initial, int64_t n,    \
                                             int64_t count, int64_t width, int64_t rank, int64_t x_row,                \
                                             int64_t threads) {                                                        \
        return guarded([&] { return scan<T>(d, u, v, x, initial, n, count, width, rank, x_row, threads); });           \
    }
EXPORT(float, _f32)
EXPORT(double, _f64)
