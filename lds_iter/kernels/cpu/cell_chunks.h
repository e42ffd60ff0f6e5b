// All steps of a cell, on one thread, on several that share batch elements or channels, or in chunks of time.
//
// A cell that forgets reaches the same states, to the bit, from whatever state it began with some hundred steps earlier. So
// a thread may begin a chunk early, from zeros, and its states are the sequential ones if those at the beginning of the
// chunk equal the end of the chunk before. If they do not, the chunk is done again from that end until its states are
// what stands there already. So the answer is that of one thread for any cell; only the time depends on what it forgets.
#pragma once
#include "cell_steps.h"

// How many steps early a chunk begins, and the fewest steps of a chunk.
constexpr int64_t EARLY = 256, LEAST_CHUNK = 4096;

template <class C> struct Chunks {
    using T = typename C::Number;
    static constexpr int P = C::PARTS;
    const Net<C>& net;
    T* states;
    int64_t n, pieces, numbers;
    Share all;
    Room<T> began, before;
    std::vector<StepsRoom<C>> rooms;

    Chunks(const Net<C>& net, T* states, int64_t n, int64_t pieces)
        : net(net), states(states), n(n), pieces(pieces), numbers(net.batch * P * net.width), all{0, net.batch, 0, 1},
          began(pieces * numbers), before(numbers) {
        for (int64_t i = 0; i < pieces; i++) rooms.emplace_back(net, net.batch, n);
    }
    int64_t first(int64_t i) const { return n * i / pieces; }

    void start(StepsRoom<C>& at, const T* from) { take<P>(at.states, at.plane, from, 1, all, net.batch, net.width, net.padded); }
    void reached(const StepsRoom<C>& at, T* to) { give<P>(to, at.states, at.plane, 1, all, net.batch, net.width, net.padded); }
    bool same(const T* one, const T* other) const { return std::memcmp(one, other, numbers * sizeof(T)) == 0; }

    // The first EARLY steps, told to `states`; and whether half as many, from zeros, lead to the same state.
    bool forgets(const T* s0) {
        start(rooms[0], s0);
        run_steps(net, rooms[0], all, states, 0, EARLY);
        run_steps<C, T>(net, rooms[1], all, nullptr, EARLY / 2, EARLY);
        reached(rooms[1], before.all);
        return same(before.all, states + (EARLY - 1) * numbers);
    }

    void run(int64_t i) {
        StepsRoom<C>& at = rooms[i];
        if (i > 0) {
            std::memset(at.states, 0, P * at.plane * sizeof(T));
            run_steps<C, T>(net, at, all, nullptr, first(i) - EARLY, first(i));
            reached(at, began.all + i * numbers);
        }
        run_steps(net, at, all, states, i > 0 ? first(i) : EARLY, first(i + 1));
    }

    void again(int64_t i) {
        StepsRoom<C>& at = rooms[i];
        start(at, states + (first(i) - 1) * numbers);
        for (int64_t t = first(i), end = first(i + 1); t < end; t += at.rows) {
            const int64_t last = t + at.rows < end ? t + at.rows : end;
            T* reached = states + (last - 1) * numbers;
            std::memcpy(before.all, reached, numbers * sizeof(T));
            run_steps(net, at, all, states, t, last);
            if (same(before.all, reached)) return;
        }
    }
};

// False where chunks of time do not pay: nothing is promised of `states` then.
template <class C, class T>
bool in_chunks(const Net<C>& net, const T* s0, T* states, int64_t n, int64_t threads) {
    const int64_t pieces = threads < n / LEAST_CHUNK ? threads : n / LEAST_CHUNK;
    if (pieces <= net.batch || net.batch == 0 || net.work() >= SHARED_STEP || n * net.work() < WORTH_A_THREAD * pieces)
        return false;
    Chunks<C> chunks(net, states, n, pieces);
    if (!chunks.forgets(s0)) return false;
#pragma omp parallel for num_threads((int)pieces) schedule(static, 1)
    for (int64_t i = 0; i < pieces; i++) chunks.run(i);
    for (int64_t i = 1; i < pieces; i++)
        if (!chunks.same(chunks.began.all + i * chunks.numbers, states + (chunks.first(i) - 1) * chunks.numbers)) chunks.again(i);
    return true;
}

template <class C, class T>
int64_t steps(const T* const* tensors, const T* s0, T* states, int64_t n, int64_t batch, int64_t width, int64_t inner,
              int64_t features, int64_t threads) {
    constexpr int P = C::PARTS;
    const Net<C> net(tensors, batch, width, inner, features);
    in_large_pages(states, n * batch * P * width * sizeof(T));
    if (in_chunks(net, s0, states, n, threads)) return 0;
    const auto make = [&](int64_t mine) { return StepsRoom<C>(net, mine, n); };
    over_batch(batch, n, net.work(), threads, make, [&](StepsRoom<C>& at, const Share& share) {
        if (share.leads()) take<P>(at.states, at.plane, s0, 1, share, batch, width, net.padded);
        run_steps(net, at, share, states, 0, n);
    });
    return 0;
}
