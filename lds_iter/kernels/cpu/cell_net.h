// A cell with its weights as steps read them, and who does what where several threads take the same steps.
#pragma once
#include <vector>

#include "cell.h"
#include "memory.h"
#include "packed.h"

// tensors: the inputs, the matrices row by row, the bias of the last product where the cell has one, and the projection
// where the matrices multiply `projection h` instead of h; then they have `inner` columns, else `width`. Where `features`
// is not 0, what the inputs contribute is computed here, and after these come the inputs in rows of so many numbers, their
// matrices one below the other, and a bias for each gate or none.
template <class C> struct Net {
    using T = typename C::Number;
    static constexpr int G = C::GATES, P = C::PARTS;
    const T* const* tensors;
    int64_t batch, width, inner, features, lanes, padded;
    bool projected;
    Packed<T, G> gates, of_inputs;
    Packed<T, 1> projection;
    Room<T> bias, shift;
    const T* given = nullptr;

    Net(const T* const* tensors, int64_t batch, int64_t width, int64_t inner, int64_t features = 0)
        : tensors(tensors), batch(batch), width(width), inner(inner), features(features), lanes(lanes_for<T>(width)),
          padded((width + lanes - 1) / lanes * lanes), projected(tensors[2 * G + C::BIASED] != nullptr), bias(padded),
          shift(features ? G * padded : 0) {
        gates = Packed<T, G>(width, inner, lanes, inner, [&](int g, int64_t k) { return tensors[G + g] + k; });
        if (C::BIASED) std::memcpy(bias.all, tensors[2 * G], width * sizeof(T));
        const T* const* after = tensors + 2 * G + C::BIASED;
        if (projected) projection = Packed<T, 1>(inner, width, lanes, width, [&](int, int64_t k) { return after[0] + k; });
        if (!features) return;
        given = after[1];
        of_inputs = Packed<T, G>(width, features, lanes, features,
                                 [&](int g, int64_t k) { return after[2] + g * width * features + k; });
        for (int g = 0; g < G && after[3]; g++) std::memcpy(shift.all + g * padded, after[3] + g * width, width * sizeof(T));
    }
    // How many numbers a plane holds for one time step of so many batch elements.
    int64_t work() const { return batch * (G * width + (projected ? width : 0)) * inner; }
};

// The work of one thread: batch elements [first, first + mine), of which it does a part of the channels.
struct Share {
    int64_t first, mine, part, parts;
    bool leads() const { return part == 0; }
    int64_t begin(int64_t padded, int64_t lanes) const { return padded / lanes * part / parts * lanes; }
    int64_t end(int64_t padded, int64_t lanes) const { return padded / lanes * (part + 1) / parts * lanes; }
    void wait() const {
        if (parts == 1) return;
#pragma omp barrier
    }
};

// Multiplications in a step from which it pays that threads share its channels, and wait for each other after each; in
// all steps, from which a second thread pays.
constexpr int64_t SHARED_STEP = 400000, WORTH_A_THREAD = 400000;

// Run body(room, share): batch elements over the threads where there are enough, else channels where these are many.
// make(mine) makes a room for so many batch elements; all are made before threads start, where an exception may pass.
template <class Make, class Body>
void over_batch(int64_t batch, int64_t steps, int64_t work, int64_t threads, Make make, Body body) {
    if (threads > 1 && steps * work < WORTH_A_THREAD * threads) threads = 1;
    const bool channels = batch < threads && work >= SHARED_STEP;
    if (!channels && threads > batch) threads = batch;
    if (threads <= 1) {
        auto room = make(batch);
        return body(room, Share{0, batch, 0, 1});
    }
    std::vector<decltype(make(batch))> rooms;
    rooms.reserve(threads);
    const auto first = [&](int64_t i) { return batch * i / threads; };
    for (int64_t i = 0; i < (channels ? 1 : threads); i++)
        rooms.push_back(make(channels ? batch : first(i + 1) - first(i)));
#ifdef _OPENMP
    if (channels) {
#pragma omp parallel num_threads((int)threads)
        body(rooms[0], Share{0, batch, omp_get_thread_num(), omp_get_num_threads()});
        return;
    }
#endif
    if (channels) return body(rooms[0], Share{0, batch, 0, 1});
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
    for (int64_t i = 0; i < threads; i++) body(rooms[i], Share{first(i), first(i + 1) - first(i), 0, 1});
}

// Rows of time of some batch elements, to and from planes of padded rows.
template <int all, class T>
void take(T* planes, int64_t plane, const T* from, int64_t rows, const Share& share, int64_t batch, int64_t width,
          int64_t padded) {
    from += share.first * width * all;
    if (share.mine == batch) return spread_rows<all>(planes, plane, from, rows * batch, width, padded);
    for (int64_t t = 0; t < rows; t++)
        spread_rows<all>(planes + t * share.mine * padded, plane, from + t * batch * width * all, share.mine, width, padded);
}
template <int all, class T>
void give(T* to, const T* planes, int64_t plane, int64_t rows, const Share& share, int64_t batch, int64_t width,
          int64_t padded) {
    to += share.first * width * all;
    if (share.mine == batch) return gather_rows<all>(to, planes, plane, rows * batch, width, padded);
    for (int64_t t = 0; t < rows; t++)
        gather_rows<all>(to + t * batch * width * all, planes + t * share.mine * padded, plane, share.mine, width, padded);
}

// Where a thread finds what the inputs contribute to each gate: number j of batch element i at step t of a block is
// at[g][t * step + i * apart + j]. In place where rows are whole vectors, else copied into planes, or computed there.
template <class C> struct Inputs {
    using T = typename C::Number;
    const T* at[C::GATES];
    int64_t step, apart;

    static int64_t room(const Net<C>& net, int64_t row) {
        return net.padded == net.width && !net.features ? 0 : C::GATES * row;
    }

    Inputs(const Net<C>& net, const Share& share, T* planes, int64_t plane, int64_t time, int64_t rows) {
        if (net.features) {
            step = share.mine * net.padded, apart = net.padded;
            for (int g = 0; g < C::GATES; g++) at[g] = planes + g * plane;
            by_lanes<T>(net.lanes, [&](auto lanes) {
                constexpr int W = decltype(lanes)::value;
                const T* from = net.given + (time * net.batch + share.first) * net.features;
                if (share.mine == net.batch) return multiply<W>(net, share, from, rows * net.batch, planes, plane);
                for (int64_t t = 0; t < rows; t++)
                    multiply<W>(net, share, from + t * net.batch * net.features, share.mine, planes + t * step, plane);
            });
            return;
        }
        const bool whole = net.padded == net.width;
        step = whole ? net.batch * net.width : share.mine * net.padded, apart = net.padded;
        for (int g = 0; g < C::GATES; g++) {
            const T* given = net.tensors[g] + time * net.batch * net.width;
            at[g] = whole ? given + share.first * net.width : planes + g * plane;
            if (!whole && share.leads()) take<1>(planes + g * plane, 0, given, rows, share, net.batch, net.width, net.padded);
        }
    }

  private:
    // The products of `count` rows of inputs, each thread its part of the channels.
    template <int W>
    static void multiply(const Net<C>& net, const Share& share, const T* from, int64_t count, T* to, int64_t plane) {
        constexpr int G = C::GATES;
        for (int64_t j = share.begin(net.padded, W); j < share.end(net.padded, W); j += W)
            together<G>(count, [&](int64_t i, auto some) {
                constexpr int R = decltype(some)::value;
                Vec<T, W> sum[G][R];
                times<G, W, R>(net.of_inputs, j, from + i * net.features, net.features, sum);
                UNROLLED for (int g = 0; g < G; g++) {
                    const auto shift = load<Vec<T, W>>(net.shift.all + g * net.padded + j);
                    UNROLLED for (int r = 0; r < R; r++) store(to + g * plane + (i + r) * net.padded + j, sum[g][r] + shift);
                }
            });
    }
};
