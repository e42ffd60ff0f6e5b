# The bodies of kernels are Triton's language, not Python.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
"""The rest of an iteration, from the values and Jacobians of a cell on, in the launch that computes them.

Reference: `lds_iter.loop`, on the device:

    r_t = f(s_{t-1}) - s_t               the residual; 0 for rows that are not open
    d_t = A_t d_{t-1} + r_t              by `look_back`, a chunk being the rows of a program
    s_t + d_t                            but f's value, or s0, for rows where that is not finite

Rows are accepted from the frontier on while their residual is at rounding level, as in `lds_iter.loop`. The first row
that is not accepted is known only after all programs have finished. Each program therefore treats every row of its own
chunk at rounding level as accepted: a residual of a few units in the last place moves nothing. So d = 0 on the accepted
rows, and later rows that were left alone are corrected in a later iteration, once they exceed rounding level. The notes
of all programs go to `_finish`, one small launch, which puts f's value into the frontier row.

States are K numbers for each channel, side by side: K = 2 for an LSTM, else 1. All tensors are contiguous.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lds_iter.kernels.triton.scans import look_back
from lds_iter.kernels.triton.scans.look_back import applied, carried, last, term

ULPS_ACCEPTED = 4
"""The rounding at which a row is accepted, in units in the last place: the `ACCEPTED_ULPS` of `lds_iter.loop`."""

GROUP, LEVELS = 8, 5
"""Of `look_back`: fewer maps to a group than there, since a program reads them for all channels at once, and more
levels, since chunks are shorter."""

WARPS = {1: {16: 4, 32: 8, 64: 8}, 2: {16: 4, 32: 4, 64: 8}}
"""Warps of a program, by K and the padded width."""

NOTES = 4
"""Numbers that a program leaves: the largest residual of the accepted rows that it begins with, and of the rest, and by
how much both exceed the relative tolerance."""

SETTLING_TILE = 1024
"""Programs whose notes `finish` reads at once."""


@triton.jit
def _compose_1(p, y, p_later, y_later):
    return p_later * p, term(p_later, y, y_later)


@triton.jit
def _compose_2(p0, p1, p2, p3, y0, y1, q0, q1, q2, q3, z0, z1):
    top, bottom = term(q1, y1, term(q0, y0, z0)), term(q3, y1, term(q2, y0, z1))
    return q0 * p0 + q1 * p2, q0 * p1 + q1 * p3, q2 * p0 + q3 * p2, q2 * p1 + q3 * p3, top, bottom


@triton.jit
def _highest(x):
    """The largest number of a tile, `(1,)`; NaN if there is one, which a plain maximum would lose."""
    bad = tl.max(tl.max((x != x).to(tl.int32), 1), 0, keep_dims=True)
    return tl.where(bad > 0, float("nan"), tl.max(tl.max(tl.where(x == x, x, 0.0), 1), 0, keep_dims=True))


@triton.jit
def settle(
    value, slopes, prev, states, s0, new, exact, notes, first_left, resets, scratch, lo, hi,
    chunk, chunks, sequence, n, batch, width, start, rtol, atol,
    ROWS: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, ULPS: tl.constexpr, PARTS: tl.constexpr,
    GROUP: tl.constexpr, LEVELS: tl.constexpr, COUNTER: tl.constexpr,
):  # fmt: skip
    """From a program's tiles to its rows of the next iterate, and its notes.

    Args:
        value, prev, states: K tiles `(ROWS, WIDE)`: f's values, and the guess before and after the step.
        slopes: K K tiles, the blocks of the Jacobians.
        s0, new, exact, notes, first_left, resets: see `launch`.
    """
    row, i = chunk * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    t, channels = row + start, i < width
    begin, end = tl.load(lo + sequence), tl.load(hi + sequence)
    inside = (row < n)[:, None] & channels[None, :]
    opened = (t >= begin) & (t < end)

    largest = tl.zeros((ROWS, WIDE), value[0].dtype)
    for k in tl.static_range(K):
        for part in tl.static_range(2):
            x = tl.abs(prev[k] if part else value[k])
            largest = tl.maximum(largest, tl.where(inside & (x == x), x, 0.0))
    rounding = (tl.max(largest, 1) * ULPS)[:, None]
    loose, unknown = tl.zeros((ROWS, WIDE), tl.int32), tl.zeros((ROWS, WIDE), tl.int32)
    size, excess = tl.zeros((ROWS, WIDE), value[0].dtype), tl.zeros((ROWS, WIDE), value[0].dtype)
    r = ()
    for k in tl.static_range(K):
        difference = tl.where(inside & opened[:, None], value[k] - states[k], 0.0)
        bound = tl.minimum(rounding, tl.abs(value[k]) * rtol + atol)
        within = (tl.abs(difference) <= bound) & (bound < float("inf"))
        loose = tl.where(inside & ~within, 1, loose)
        unknown = tl.where(inside & ~(tl.abs(value[k]) < float("inf")), 1, unknown)
        over = tl.where(inside & opened[:, None], tl.abs(difference) - rtol * tl.abs(value[k]), 0.0)
        size = tl.where((size >= tl.abs(difference)) | (size != size), size, tl.abs(difference))
        excess = tl.where((excess >= over) | (excess != excess), excess, over)
        r = r + (difference,)
    loose = (tl.max(loose, 1) > 0) & opened
    left = tl.min(tl.where(loose, t, end), 0)
    leads = (t < left)[:, None]

    a, y = (), ()
    for k in tl.static_range(K * K):
        a = a + (tl.where(opened[:, None] & inside, slopes[k], 0.0),)
    for k in tl.static_range(K):
        y = y + (tl.where(loose[:, None], r[k], 0.0),)
    if K == 1:
        p, y = tl.associative_scan(a + y, 0, _compose_1)
        p, y = (p,), (y,)
    else:
        p0, p1, p2, p3, y0, y1 = tl.associative_scan(a + y, 0, _compose_2)
        p, y = (p0, p1, p2, p3), (y0, y1)
    d = ()
    for _ in tl.static_range(K):
        d = d + (tl.zeros((1, WIDE), value[0].dtype),)
    words = scratch + COUNTER + sequence * width * PARTS
    d = carried(d, last(p, K * K, ROWS), last(y, K, ROWS), words, chunk, chunks, batch * width, channels, K, WIDE,
                PARTS, GROUP, LEVELS)  # fmt: skip
    d = applied(p, d, y, K)

    at = (row[:, None] * batch + sequence) * width + i[None, :]
    moved, broken = (), tl.zeros((ROWS, WIDE), tl.int32)
    for k in tl.static_range(K):
        proposal = states[k] + tl.where(opened[:, None], d[k], 0.0)
        broken = tl.where(inside & ~(tl.abs(proposal) < float("inf")), 1, broken)
        moved = moved + (proposal,)
    broken = tl.max(broken, 1) > 0
    known = (tl.max(unknown, 1) == 0)[:, None]
    mine = (chunk * batch + sequence) * width + i[None, :] + tl.zeros((ROWS, 1), tl.int64)
    for k in tl.static_range(K):
        fallback = tl.load(s0 + (sequence * width + i) * K + k, channels, other=0.0)[None, :]
        tl.store(new + at * K + k, tl.where(broken[:, None], tl.where(known, value[k], fallback), moved[k]), inside)
        tl.store(exact + mine * K + k, value[k], inside & (t == left)[:, None])
    place, one = chunk * batch + sequence, tl.arange(0, 1)
    tl.store(first_left + place + one, left + 0 * one)
    tl.store(resets + place + one, tl.sum(broken.to(tl.int32), 0) + 0 * one)
    tl.store(notes + place * 4 + one, _highest(tl.where(leads, size, 0.0)))
    tl.store(notes + place * 4 + 1 + one, _highest(tl.where(leads, 0.0, size)))
    tl.store(notes + place * 4 + 2 + one, _highest(tl.where(leads, excess, 0.0)))
    tl.store(notes + place * 4 + 3 + one, _highest(tl.where(leads, 0.0, excess)))


@triton.jit
def _most(so_far, more):
    """The larger of two numbers; NaN if one of them is NaN."""
    return tl.where((so_far >= more) | (so_far != so_far), so_far, more)


@triton.jit(do_not_specialize=["chunks", "batch", "start"])
def _finish(
    new, exact, notes, first_left, resets, hi, front, measured, count, broken, chunks, batch, numbers, start,
    ROWS: tl.constexpr, WIDE: tl.constexpr, SETTLING_TILE: tl.constexpr,
):  # fmt: skip
    """Finish one sequence: combine the notes of its programs, find the new frontier, and put f's value there."""
    sequence, tile = tl.program_id(0).to(tl.int64), tl.arange(0, SETTLING_TILE).to(tl.int64)
    one = tl.arange(0, 1)
    end = tl.load(hi + sequence)
    left, bad, first = end, tl.zeros((1,), tl.int64), 0
    while first < chunks:
        at = (first + tile) * batch + sequence
        left = tl.minimum(left, tl.min(tl.load(first_left + at, first + tile < chunks, other=0x7FFFFFFFFFFFFFFF), 0))
        bad += tl.sum(tl.load(resets + at, first + tile < chunks, other=0).to(tl.int64), 0, keep_dims=True)
        first += SETTLING_TILE
    # The program that has the frontier row; all before it accepted whatever they saw.
    own = tl.where(left < end, (left - start) // ROWS, chunks)
    accepted, residual, excess = tl.zeros((1,), tl.float32), tl.zeros((1,), tl.float32), tl.zeros((1,), tl.float32)
    first = 0
    while first < chunks:
        here, at = first + tile < chunks, ((first + tile) * batch + sequence) * 4
        early = first + tile <= own
        lead, rest = tl.load(notes + at, here, other=0.0), tl.load(notes + at + 1, here, other=0.0)
        lead_over, over = tl.load(notes + at + 2, here, other=0.0), tl.load(notes + at + 3, here, other=0.0)
        accepted = _most(accepted, _highest(tl.where(early, lead, 0.0)[:, None]))
        residual = _most(residual, _highest(tl.where(early, rest, _most(rest, lead))[:, None]))
        excess = _most(excess, _highest(tl.where(early, over, _most(over, lead_over))[:, None]))
        first += SETTLING_TILE
    i = tl.arange(0, WIDE)
    moves = (i < numbers) & (left + 0 * i < end)
    value = tl.load(exact + (own * batch + sequence) * numbers + i, moves, other=0.0)
    tl.store(new + ((left - start) * batch + sequence) * numbers + i, value, moves)
    tl.store(front + sequence + one, left + 0 * one)
    tl.store(measured + sequence * 3 + one, residual)
    tl.store(measured + sequence * 3 + 1 + one, excess)
    tl.store(measured + sequence * 3 + 2 + one, accepted)
    tl.store(count + sequence + one, bad)
    odd = tl.max(tl.where(moves & ~(tl.abs(value) < float("inf")), 1, 0), 0)
    tl.store(broken + sequence + one, (odd + 0 * one) > 0)


class Outcome(NamedTuple):
    """The measurements of an iteration, for each sequence.

    Attributes:
        lo: the first row that is not accepted yet, int64, `(B)`.
        measured: the largest residual of the open rows, by how much one exceeds the relative tolerance at most, and the
            largest residual of the rows accepted now, `(B, 3)`.
        resets: rows whose proposal was not finite, int64, `(B)`.
        broken: whether f's value of the frontier row is not finite, `(B)`.
    """

    lo: Tensor
    measured: Tensor
    resets: Tensor
    broken: Tensor


def launch(
    kernel: Any, given: tuple[Any, ...], states: Tensor, new: Tensor, s0: Tensor, *, start: int, lo: Tensor, hi: Tensor,
    rtol: float, atol: float, size: int, rows: int, **which: Any,
) -> Outcome:  # fmt: skip
    """An iteration by a kernel that ends with `settle`, and `finish`.

    Args:
        kernel: takes `given`, what `settle` takes from `prev` on, and its constants.
        given: of the cell.
        states: the state before each row and, last, the one after them, `(n + 1, B, K D)`.
        new: takes the next iterate of the rows, `(n, B, K D)`.
        s0: what rows fall back to where nothing is finite, `(B, K D)`.
        start: the time of the first row.
        lo, hi: the open rows of each sequence, int64, `(B)`.
        size: K.
        rows: of a program.
    """
    n, batch, numbers = new.shape
    chunks, wide = triton.cdiv(n, rows), max(16, triton.next_power_of_2(numbers // size))
    words = look_back.words(chunks, batch * numbers // size, size, GROUP, LEVELS)
    scratch = torch.zeros(words, dtype=torch.int64, device=new.device)
    exact, notes = new.new_empty(chunks, batch, numbers), new.new_empty(chunks, batch, NOTES)
    left, resets = lo.new_empty(chunks, batch), lo.new_empty(chunks, batch, dtype=torch.int32)
    kernel[(chunks * batch,)](
        *given, states, s0, new, exact, notes, left, resets, scratch, lo, hi, n, chunks, batch, numbers // size, start,
        rtol, atol, ROWS=rows, WIDE=wide, ULPS=ULPS_ACCEPTED * torch.finfo(new.dtype).eps, PARTS=look_back.PARTS[size],
        GROUP=GROUP, LEVELS=LEVELS, COUNTER=look_back.COUNTER, num_warps=WARPS[size][wide], **which,
    )  # fmt: skip
    found = Outcome(torch.empty_like(lo), new.new_empty(batch, 3), torch.empty_like(lo),
                    lo.new_empty(batch, dtype=torch.uint8))  # fmt: skip
    _finish[(batch,)](
        new, exact, notes, left, resets, hi, *found, chunks, batch, numbers, start,
        ROWS=rows, WIDE=triton.next_power_of_2(numbers), SETTLING_TILE=SETTLING_TILE,
    )  # fmt: skip
    return found._replace(broken=found.broken.view(torch.bool))
