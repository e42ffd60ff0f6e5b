// Memory for a call, from the beginning of a cache line on; nothing is known about what it holds.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>
#ifdef __linux__
#include <sys/mman.h>
#endif

// Ask for large pages for memory that is about to be written for the first time, as far as whole ones lie within it.
inline void in_large_pages(void* first, int64_t bytes) {
#ifdef __linux__
    constexpr uintptr_t LARGE = 1 << 21;
    const uintptr_t begin = ((uintptr_t)first + LARGE - 1) / LARGE * LARGE;
    const uintptr_t end = ((uintptr_t)first + bytes) / LARGE * LARGE;
    if (first && end > begin) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

// Much of it in large pages, where the system has them: new memory costs a fault per page, and for pages of 4 KiB that is
// several times as long as writing them takes. It goes back to the system, for one of its own would be kept for good.
template <class T> class Memory {
    static constexpr size_t LARGE = 1 << 21, MUCH = 1 << 18;
    void* all = nullptr;
    size_t bytes;
    bool mapped = false;

  public:
    T* first;

    explicit Memory(int64_t numbers) : bytes((size_t)numbers * sizeof(T)) {
#ifdef __linux__
        if (bytes >= MUCH) {
            bytes = (bytes + 2 * LARGE - 1) / LARGE * LARGE;
            all = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (all == MAP_FAILED) throw std::bad_alloc();
            mapped = true;
            first = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(all) + LARGE - 1) / LARGE * LARGE);
            madvise(first, bytes - LARGE, MADV_HUGEPAGE);  // where there are none, small ones serve
            return;
        }
#endif
        all = std::malloc(bytes + 64);
        if (!all) throw std::bad_alloc();
        first = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(all) + 63) / 64 * 64);
    }
    Memory(const Memory&) = delete;
    ~Memory() {
#ifdef __linux__
        if (mapped) {
            munmap(all, bytes);
            return;
        }
#endif
        std::free(all);
    }
};
