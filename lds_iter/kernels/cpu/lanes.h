// Vectors of W numbers that compile to the processor's own (GCC's and Clang's vector extension).
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

#ifdef __FMA__
#include <immintrin.h>
#endif

#include "guard.h"

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#elif defined(__GNUC__)
#define UNROLLED _Pragma("GCC unroll 32")
#else
#define UNROLLED
#endif
#define INLINE inline __attribute__((always_inline))

template <class T, int W> struct Lanes { typedef T type __attribute__((vector_size(W * sizeof(T)))); };
template <class T> struct Lanes<T, 1> { typedef T type; };
template <class T, int W> using Vec = typename Lanes<T, W>::type;
template <class T> constexpr int NATIVE = VECTOR_BYTES / (int)sizeof(T);

template <class V, class T> static inline V load(const T* from) {
    V v;
    std::memcpy(&v, from, sizeof(V));
    return v;
}
template <class V, class T> static inline void store(T* to, V v) { std::memcpy(to, &v, sizeof(V)); }

// a x + c, rounded once. Left to itself a compiler contracts one loop and not the next, by the tuning for a processor,
// and a row would be rounded by its place in a block.
template <class T, int W> INLINE Vec<T, W> fused(Vec<T, W> a, T x, Vec<T, W> c) {
#ifdef __FMA__
    if constexpr (sizeof(Vec<T, W>) == 32) {
        if constexpr (sizeof(T) == 4) return (Vec<T, W>)_mm256_fmadd_ps((__m256)a, _mm256_set1_ps(x), (__m256)c);
        else return (Vec<T, W>)_mm256_fmadd_pd((__m256d)a, _mm256_set1_pd(x), (__m256d)c);
    } else if constexpr (sizeof(Vec<T, W>) == 16) {
        if constexpr (sizeof(T) == 4) return (Vec<T, W>)_mm_fmadd_ps((__m128)a, _mm_set1_ps(x), (__m128)c);
        else return (Vec<T, W>)_mm_fmadd_pd((__m128d)a, _mm_set1_pd(x), (__m128d)c);
    }
#endif
#ifdef __AVX512F__
    if constexpr (sizeof(Vec<T, W>) == 64) {
        if constexpr (sizeof(T) == 4) return (Vec<T, W>)_mm512_fmadd_ps((__m512)a, _mm512_set1_ps(x), (__m512)c);
        else return (Vec<T, W>)_mm512_fmadd_pd((__m512d)a, _mm512_set1_pd(x), (__m512d)c);
    }
#endif
    return a * x + c;
}

// Run body(first, last) on stretches of [0, n), one a thread, each a multiple of `step` but the last.
template <class Body> static inline void spread(int64_t n, int64_t step, int64_t threads, Body body) {
    const int64_t pieces = (n + step - 1) / step;
    if (threads > pieces) threads = pieces;
    if (threads <= 1) {
        if (n > 0) body((int64_t)0, n);
        return;
    }
    Guard guard;
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
    for (int64_t i = 0; i < threads; i++) {
        const int64_t first = pieces * i / threads * step, last = pieces * (i + 1) / threads * step;
        guard.run([&] { body(first, last < n ? last : n); });
    }
    guard.settle();
}

// Run body(room, i, turn) for i = 0 .. pieces - 1, each thread with a room of its own; what a body gives to turn(...) runs
// when all earlier pieces have had their turn. Rooms are made before threads start: none may miss its turn.
template <class Room, class Sizes, class Body>
static inline void in_turn(const Sizes& sizes, int64_t pieces, int64_t threads, Body body) {
    if (threads > pieces) threads = pieces;
    std::vector<std::unique_ptr<Room>> rooms;
    for (int64_t i = 0; i < (threads > 1 ? threads : 1); i++) rooms.push_back(std::make_unique<Room>(sizes));
    if (threads <= 1) {
        for (int64_t i = 0; i < pieces; i++) body(*rooms[0], i, [](auto act) { act(); });
        return;
    }
#ifdef _OPENMP
#pragma omp parallel num_threads((int)threads)
    {
        Room& room = *rooms[omp_get_thread_num()];
#pragma omp for ordered schedule(static, 1)
        for (int64_t i = 0; i < pieces; i++) {
            body(room, i, [](auto act) {
#pragma omp ordered
                { act(); }
            });
        }
    }
#else
    for (int64_t i = 0; i < pieces; i++) body(*rooms[0], i, [](auto act) { act(); });
#endif
}
