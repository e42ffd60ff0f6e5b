// Memory for a call, and vectors by the width of what they hold.
#pragma once
#include <memory>
#include <type_traits>

#include "functions.h"

// Zeros from the beginning of a cache line, so that no vector lies across two.
template <class T> struct Room {
    std::unique_ptr<T[]> store;
    T* all = nullptr;
    Room() = default;
    explicit Room(int64_t numbers) : store(new T[numbers + LINE]()) {
        all = store.get() + (LINE - (uintptr_t)store.get() / sizeof(T) % LINE) % LINE;
    }
    static constexpr int64_t LINE = 64 / sizeof(T);
};

constexpr int larger(int a, int b) { return a > b ? a : b; }

template <class T> int lanes_for(int64_t width) {
    int lanes = NATIVE<T>;
    while (lanes > 16 / (int)sizeof(T) && lanes / 2 >= width) lanes /= 2;
    return lanes;
}

// Run body(std::integral_constant<int, lanes>).
template <class T, class Body> inline void by_lanes(int64_t lanes, Body body) {
    constexpr int N = NATIVE<T>;
    if constexpr (N * sizeof(T) > 32)
        if (lanes == N / 4) return body(std::integral_constant<int, N / 4>());
    if constexpr (N * sizeof(T) > 16)
        if (lanes == N / 2) return body(std::integral_constant<int, N / 2>());
    body(std::integral_constant<int, N>());
}
