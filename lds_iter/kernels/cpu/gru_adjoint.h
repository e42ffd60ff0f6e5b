// The adjoint recurrence of a GRU, l_t = g_t + J_{t+1}^T l_{t+1}, with J = diag(z) + sum over gates of diag(a) W.
#pragma once
#include "gru_cell.h"

// y[i] += sum over gates and j of W_gate[j][i] p[gate][j]; six sums at once, for each waits for itself.
template <class T, int W> void pull(const T* w, const T* p, int64_t width, int64_t padded, T* y) {
    using V = Vec<T, W>;
    for (int64_t i = 0; i < padded; i += W) {
        V sum[3][2] = {};
        int64_t j = 0;
        for (; j + 2 <= width; j += 2, w += 6 * W)
            for (int g = 0; g < 3; g++)
                for (int e = 0; e < 2; e++) sum[g][e] = load<V>(w + (3 * e + g) * W) * p[g * padded + j + e] + sum[g][e];
        if (j < width) {
            for (int g = 0; g < 3; g++) sum[g][0] = load<V>(w + g * W) * p[g * padded + j] + sum[g][0];
            w += 3 * W;
        }
        store(y + i, load<V>(y + i) + ((sum[0][0] + sum[0][1]) + (sum[1][0] + sum[1][1]) + (sum[2][0] + sum[2][1])));
    }
}

// l_t = g_t + J_{t+1}^T l_{t+1} from the last row to the first; h holds the state before each row. The slopes of a block
// of rows are computed by any thread, the recurrence goes through the blocks in turn.
template <class T>
int64_t adjoint(const T* h, const T* const u[3], const T* const w[3], const T* bias, const T* g, T* l, int64_t n,
                int64_t batch, int64_t width, int64_t threads) {
    Cell<T> cell = pack(w[0], w[1], w[2], bias, width);
    const int64_t count = batch * width, padded = cell.padded, lanes = lanes_for<T>(width);
    const int64_t steps = cell.rows > batch ? cell.rows / batch : 1, blocks = (n + steps - 1) / steps;
    cell.rows = steps * batch;
    std::unique_ptr<T[]> turned(new T[3 * width * padded]), carry(new T[batch * padded]()), room(new T[4 * padded]());
    arrange(turned.get(), w, width, padded, lanes, 1, width);
    const auto prepare = [&](Block<T>& block, int64_t row, int64_t some) {
        const int64_t at = row * count;
        const T* here[3] = {u[0] + at, u[1] + at, u[2] + at};
        evaluate(cell, block, some * batch, h + at, here, [&](int64_t i, int64_t, const Gates<T>& gates) {
            const auto through = gates.through_n();
            store(block.pre + i, gates.slope_r() * through);
            store(block.pre + block.size + i, gates.slope_z());
            store(block.pre + 2 * block.size + i, gates.r * through);
            store(block.value + i, gates.z);
        });
    };
    // carry holds what arrives at a row from the one after it: l_t = g_t + carry, then carry = J_t^T l_t.
    const auto finish = [&](const Block<T>& block, int64_t row, int64_t some) {
        T *own = room.get(), *p = own + padded;
        for (int64_t i = some - 1; i >= 0; i--)
            for (int64_t b = 0; b < batch; b++) {
                const int64_t at = (row + i) * count + b * width, in = (i * batch + b) * padded;
                T* from = &carry[b * padded];
                for (int64_t j = 0; j < width; j++) own[j] = g[at + j] + from[j];
                std::memcpy(l + at, own, width * sizeof(T));
                for (int k = 0; k < 3; k++)
                    for (int64_t j = 0; j < padded; j++) p[k * padded + j] = block.pre[k * block.size + in + j] * own[j];
                for (int64_t j = 0; j < padded; j++) from[j] = block.value[in + j] * own[j];
                if (lanes == NATIVE<T>) pull<T, NATIVE<T>>(turned.get(), p, width, padded, from);
                else if (lanes == NATIVE<T> / 2) pull<T, NATIVE<T> / 2>(turned.get(), p, width, padded, from);
                else pull<T, 16 / (int)sizeof(T)>(turned.get(), p, width, padded, from);
            }
    };
    if (n * count < 8192) threads = 1;
    in_turn<Block<T>>(cell, blocks, threads, [&](Block<T>& block, int64_t i, auto turn) {
        const int64_t row = (blocks - 1 - i) * steps, some = n - row < steps ? n - row : steps;
        prepare(block, row, some);
        turn([&] { finish(block, row, some); });
    });
    return 0;
}
