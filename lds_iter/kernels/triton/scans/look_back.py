# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""Look-back: one launch scans chunks that depend on each other, with the same bits whatever the order of execution.

After Merrill and Garland, "Single-pass parallel prefix scan with decoupled look-back", 2016, with one difference. There
a chunk folds prefixes or aggregates, whichever its neighbours have published, so the rounding depends on timing. Here
it waits for aggregates, each of which is made in one way only, and folds them in one tree:

    level 0   the map of a chunk, P = A_last ... A_first and y = the chunk scanned from zero
    level l   the map of `GROUP` neighbours of level l - 1, published by the last chunk of them

A chunk whose number has the digits ... c_2 c_1 c_0 to the base `GROUP` is preceded by c_0 maps of level 0, c_1 of level
1, and so on; the highest of `LEVELS` has no limit. It folds those of each level, and applies the highest first. So what
a chunk starts from is a function of its number alone.

Nothing is published but self-contained words of 64 bits: a float32 in the lower half, a one above. They are written by
atomic exchanges and read by volatile loads, each of which the hardware does at once, so no order between two memory
operations is relied upon. A program's chunk is that of its ticket, from an atomic counter: all before it are held by
programs that already run and wait for earlier ones only, so waiting ends, in whatever order programs start. The caller
zeroes counter and words before the launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = 32
"""Maps that make one of the next level, and that a program reads at once."""

LEVELS = 3
"""With chunks of 512 rows the highest level has one map for half a million."""

COUNTER = 16
"""Words before the aggregates; the first counts tickets, the others keep the aggregates on lines of their own."""

PARTS = {1: 2, 2: 8}
"""Words of a map by the size K of a block: y in the first K, P in the last K K, in a power of 2."""


def words(chunks: int, columns: int, size: int, group: int, levels: int) -> int:
    """How many words a launch needs, zeroed."""
    return COUNTER + sum(chunks // group**level for level in range(levels)) * columns * PARTS[size]


@triton.jit
def unstacked(x, M: tl.constexpr, N: tl.constexpr, W: tl.constexpr):
    """`(M, N, W)`, W a power of 2, as a tuple of W tensors `(M, N)`."""
    if W == 1:
        return (tl.reshape(x, (M, N)),)
    else:  # noqa: RET505  (else Triton compiles it in any case)
        one, two = tl.split(tl.permute(tl.reshape(x, (M, N, 2, W // 2)), (0, 1, 3, 2)))
        return unstacked(one, M, N, W // 2) + unstacked(two, M, N, W // 2)


@triton.jit
def stacked(parts, FIRST: tl.constexpr, M: tl.constexpr, N: tl.constexpr, W: tl.constexpr):
    """`(M, N, W)` of `parts[FIRST]` and those that follow."""
    if W == 1:
        return tl.reshape(parts[FIRST], (M, N, 1))
    else:  # noqa: RET505
        both = tl.join(stacked(parts, FIRST, M, N, W // 2), stacked(parts, FIRST + W // 2, M, N, W // 2))
        return tl.reshape(tl.permute(both, (0, 1, 3, 2)), (M, N, W))


@triton.jit
def term(a, y, z):
    """`a y + z`, rounded once. `a` comes from a product that may have overflowed; an exact zero in `y` stays zero."""
    return tl.where(y == 0, z, tl.fma(a, y, z))


@triton.jit
def applied(p, y, z, K: tl.constexpr):
    """`P y + z`, as a tuple."""
    out = ()
    for r in tl.static_range(K):
        total = z[r]
        for k in tl.static_range(K):
            total = term(p[r * K + k], y[k], total)
        out = out + (total,)
    return out


@triton.jit
def map_product(later, earlier, AT: tl.constexpr, K: tl.constexpr):
    """`A P`, where A begins at `later[AT]`, as a tuple."""
    out = ()
    for r in tl.static_range(K):
        for k in tl.static_range(K):
            total = later[AT + r * K] * earlier[k]
            for m in tl.static_range(1, K):
                total = tl.fma(later[AT + r * K + m], earlier[m * K + k], total)
            out = out + (total,)
    return out


@triton.jit
def scanned(p, y, K: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """All prefixes of the maps along the first dimension of tensors `(M, N)`, in the steps of Hillis and Steele.

    What is added to what stands here, and not in the layout of the tensors, as for `tl.associative_scan`.
    """
    row = tl.arange(0, M)[:, None] + tl.zeros((1, N), tl.int32)
    step: tl.constexpr = 1
    return _scanned(p, y, row, step, K, M)


@triton.jit
def _scanned(p, y, row, STEP: tl.constexpr, K: tl.constexpr, M: tl.constexpr):
    if STEP >= M:
        return p, y
    else:  # noqa: RET505
        before = tl.maximum(row - STEP, 0)
        q = ()
        for k in tl.static_range(K * K):
            q = q + (tl.gather(p[k], before, 0),)
        z = ()
        for k in tl.static_range(K):
            z = z + (tl.gather(y[k], before, 0),)
        moved, both = applied(p, z, y, K), map_product(p, q, 0, K)
        new_p = ()
        for k in tl.static_range(K * K):
            new_p = new_p + (tl.where(row < STEP, p[k], both[k]),)
        new_y = ()
        for k in tl.static_range(K):
            new_y = new_y + (tl.where(row < STEP, y[k], moved[k]),)
        return _scanned(new_p, new_y, row, 2 * STEP, K, M)


@triton.jit
def last(tensors, COUNT: tl.constexpr, M: tl.constexpr):
    """The last rows, `(1, N)`, of a tuple of tensors `(M, N)`."""
    ends = (tl.arange(0, M) == M - 1)[:, None]
    out = ()
    for k in tl.static_range(COUNT):
        out = out + (tl.sum(tl.where(ends, tensors[k], 0.0), 0, keep_dims=True),)
    return out


@triton.jit
def before(p, y, K: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """Of prefixes along the first dimension of tensors `(M, N)` those that leave out the row itself."""
    row = tl.arange(0, M)[:, None] + tl.zeros((1, N), tl.int32)
    above = tl.maximum(row - 1, 0)
    q = ()
    for k in tl.static_range(K * K):
        q = q + (tl.where(row == 0, 1.0 if k % (K + 1) == 0 else 0.0, tl.gather(p[k], above, 0)),)
    z = ()
    for k in tl.static_range(K):
        z = z + (tl.where(row == 0, 0.0, tl.gather(y[k], above, 0)),)
    return q, z


@triton.jit
def ticket(counter):
    """The number of this program in the order in which programs ask."""
    return tl.atomic_add(counter, 1, sem="relaxed", scope="gpu")


@triton.jit
def publish(p, y, words, here, K: tl.constexpr, N: tl.constexpr, PARTS: tl.constexpr):
    """Write a map, of tensors `(1, N)`, to `words[column * PARTS + part]` where `here`, `(N)`."""
    parts = y
    for _ in tl.static_range(PARTS - K - K * K):
        parts = parts + (y[0],)
    parts = parts + p
    bits = stacked(parts, 0, 1, N, PARTS).to(tl.uint32, bitcast=True).to(tl.int64)
    part = tl.arange(0, PARTS)[None, None, :]
    at = tl.arange(0, N)[None, :, None] * PARTS + part
    used = here[None, :, None] & ((part < K) | (part >= PARTS - K * K))
    tl.atomic_xchg(words + at, bits + 4294967296, used, sem="relaxed", scope="gpu")


@triton.jit
def awaited(words, count, columns, here, K: tl.constexpr, N: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr):
    """The fold of the first `count` maps at `words`, each of `columns` times `PARTS` words, once all are there."""
    i, part = tl.arange(0, GROUP)[:, None, None].to(tl.int64), tl.arange(0, PARTS)[None, None, :]
    at = words + (i * columns + tl.arange(0, N)[None, :, None]) * PARTS + part
    used = here[None, :, None] & (i < count) & ((part < K) | (part >= PARTS - K * K))
    entry = part - (PARTS - K * K)
    one = (entry >= 0) & (entry % (K + 1) == 0)
    # What is not there is the identity, with its flag set.
    identity = tl.where(one & (i >= 0), 0x3F800000, 0).to(tl.int64) + 4294967296 + tl.zeros((1, N, 1), tl.int64)
    found = tl.load(at, used, other=identity, volatile=True)
    while tl.min(found >> 32) == 0:
        found = tl.load(at, used, other=identity, volatile=True)
    parts = unstacked(found.to(tl.uint32).to(tl.float32, bitcast=True), GROUP, N, PARTS)
    p, y = scanned(parts[PARTS - K * K :], parts[:K], K, GROUP, N)
    return last(p, K * K, GROUP), last(y, K, GROUP)


@triton.jit
def carried(
    start, p, y, words, chunk, chunks, columns, here,
    K: tl.constexpr, N: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """The value before this chunk: `start`, the value before the first one, mapped through all earlier chunks.

    Args:
        start: K tensors `(1, N)`.
        p, y: the map of this chunk, K K and K tensors `(1, N)`; published here.
        words: of this program's first column.
        chunk, chunks: its number, and how many there are.
        columns: of all programs; N of them are this one's.
        here: the columns that exist, `(N)`.
    """
    folds_p, folds_y = (), ()
    index, entries, complete = chunk, chunks, chunk + 1 < chunks
    for level in tl.static_range(LEVELS):
        if complete:
            publish(p, y, words + index * columns * PARTS, here, K, N, PARTS)
        if level < LEVELS - 1:
            digit = index % GROUP
            q, z = awaited(words + (index - digit) * columns * PARTS, digit, columns, here, K, N, PARTS, GROUP)
            folds_p, folds_y = q + folds_p, z + folds_y
            y = applied(p, z, y, K)
            p = map_product(p, q, 0, K)
            complete = complete & (digit == GROUP - 1)
            words += entries * columns * PARTS
            index, entries = index // GROUP, entries // GROUP
    first = 0 * index
    while first < index:
        count = tl.minimum(index - first, GROUP)
        q, z = awaited(words + first * columns * PARTS, count, columns, here, K, N, PARTS, GROUP)
        start = applied(q, start, z, K)
        first += GROUP
    for level in tl.static_range(LEVELS - 1):
        start = applied(folds_p[level * K * K : (level + 1) * K * K], start, folds_y[level * K : (level + 1) * K], K)
    return start
