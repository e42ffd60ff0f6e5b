// Errors as numbers: an exception may leave neither a C function nor a parallel region, or the process ends.
#pragma once
#include <atomic>
#include <cstdint>
#include <new>

constexpr int64_t OUT_OF_MEMORY = -1, FAILED = -2;  // what `build.py` turns into exceptions of Python

template <class Body> int64_t guarded(Body body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return OUT_OF_MEMORY;
    } catch (...) {
        return FAILED;
    }
}

// What threads do in a parallel region: run(body) in each, and afterwards, outside, settle().
class Guard {
    std::atomic<bool> failed{false};

  public:
    template <class Body> void run(Body body) noexcept {
        try {
            body();
        } catch (...) {  // there is no other than memory to run out of
            failed = true;
        }
    }
    void settle() const {
        if (failed) throw std::bad_alloc();
    }
};
