"""The frontier of each sequence: which rows are accepted, which may move, and how proposals are repaired.

Rows before the frontier are accepted and never move again. A row is accepted when its residual is at rounding level (a
few units in the last place), or because it is the frontier row, whose value `f` computed from an accepted row: that is
the sequential step itself, so at least one row is accepted per iteration whatever the method proposes. Looser freezing
would be wrong: the error of a frozen row is amplified by everything after it, and no later iteration can repair it.

Every sequence of the batch has its own open rows `[lo, hi)`. Nothing here mixes sequences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter import _torch

ACCEPTED_ULPS = 4
"""A row is accepted at a residual of at most this many units in the last place of the row's largest number (in `f`'s
value or its argument), and never above the stopping tolerance. Per number would be too strict: next to a zero crossing
the rounding errors of `f` are those of its larger intermediate results."""

FIRST_SEARCH = 32
"""Rows that the first search for the new frontier looks at; each further search looks at twice as many."""


@dataclass(frozen=True)
class Held:
    """The repairs of some proposals, `(*batch)`: rows replaced, and whether the frontier row is not finite."""

    resets: Tensor
    broken: Tensor


@dataclass(frozen=True)
class OpenRows:
    """The rows `[lo, hi)` of each sequence that may move in this iteration; empty for a sequence that is idle.

    Attributes:
        lo, hi: absolute times, int64, `(*batch)`.
        extremes: (min lo, max lo, min hi, max hi) where the host reads them for free (on a CPU), else None.
    """

    lo: Tensor
    hi: Tensor
    extremes: tuple[int, int, int, int] | None

    @staticmethod
    def of(lo: Tensor, hi: Tensor) -> OpenRows:
        if not _torch.on_host(lo):
            return OpenRows(lo, hi, None)
        if lo.numel() == 1:
            return OpenRows(lo, hi, (int(lo), int(lo), int(hi), int(hi)))
        (lo_min, lo_max), (hi_min, hi_max) = torch.aminmax(lo), torch.aminmax(hi)
        return OpenRows(lo, hi, (int(lo_min), int(lo_max), int(hi_min), int(hi_max)))

    def touches(self, start: int, stop: int) -> bool:
        """Whether a frontier may lie in the rows `[start, stop)`."""
        return self.extremes is None or (self.extremes[1] >= start and self.extremes[0] < stop)

    def mask(self, start: int, rows: int) -> Tensor:
        """True where a row is open, `(rows, *batch, 1)`."""
        times = _times(start, rows, self.lo)
        return ((times >= self.lo) & (times < self.hi)).unsqueeze(-1)

    def accept(
        self, residual: Tensor, value: Tensor, prev: Tensor, start: int, rtol: float, atol: float
    ) -> tuple[OpenRows, Tensor, Tensor]:
        """Accept the rows at the frontier whose residual is at rounding level.

        Args:
            residual, value, prev: `(n, *batch, D)`; the first row is that of time `start`.

        Returns:
            The rows that are still open; the residual, zero in all others; and the largest residual among the rows
            accepted now, `(*batch)`.
        """
        rows, accepted = advanced(self, residual.detach(), value.detach(), prev.detach(), start, rtol, atol)
        return rows, rows.confine(residual, start), accepted

    def hold(
        self, d: Tensor, states: Tensor, value: Tensor, s0: Tensor, start: int, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Held]:
        """The states that an update leads to: closed rows stay, the frontier row takes `f`'s value, all are finite.

        Rows that are not finite take `f`'s value (a Jacobi step), or `s0` if that is not finite either. Without this,
        states so large that `f` overflows would stay until the frontier reaches them.

        Args:
            d, states, value: update, guess, and `f` along it, `(n, *batch, D)`; the first row is that of `start`.
            s0: `(*batch, D)`.
            out: takes the states; None where autograd records.

        Returns:
            The states, the update of the last row, `(*batch, D)`, and the repairs.
        """
        d = self.confine(d, start)
        new = torch.add(states, d) if out is None else torch.add(states, d, out=out)
        new, last, resets = self.repair(new, d, states, value, s0)
        new, broken = self.with_frontier(new, value, start)
        return new, last, Held(resets, broken)

    def repair(
        self, new: Tensor, d: Tensor, states: Tensor, value: Tensor, s0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`new` with rows that are not finite replaced; `d` of the last row; and how many were replaced, `(*batch)`."""
        if self.extremes is not None and math.isfinite(new.sum()):
            return new, d[-1], torch.zeros(new.shape[1:-1], dtype=torch.int64, device=new.device)
        bad = ~new.isfinite().all(-1, keepdim=True)
        instead = torch.where(value.isfinite().all(-1, keepdim=True), value, s0)
        last = torch.where(bad[-1], instead[-1] - states[-1], d[-1])
        repaired = torch.where(bad, instead, new)
        return repaired if torch.is_grad_enabled() else new.copy_(repaired), last, bad.squeeze(-1).sum(0)

    def confine(self, x: Tensor, start: int) -> Tensor:
        """`x` with zeros in the rows that may not move, in place without autograd; its first row is that of `start`."""
        if self.extremes is None:
            closed = ~self.mask(start, x.shape[0])
            return x.masked_fill(closed, 0) if torch.is_grad_enabled() else x.masked_fill_(closed, 0)
        stop = start + x.shape[0]
        lo_min, lo_max, hi_min, hi_max = self.extremes
        if lo_min > start:
            x[: lo_min - start] = 0
        if hi_max < stop:
            x[max(0, hi_max - start) :] = 0
        if lo_min != lo_max and lo_max > start:
            head = x[: lo_max - start]
            head.masked_fill_(~self.mask(start, head.shape[0]), 0)
        if hi_min != hi_max and hi_min < stop:
            first = max(hi_min, start)
            tail = x[first - start :]
            tail.masked_fill_(~self.mask(first, tail.shape[0]), 0)
        return x

    def with_frontier(self, new: Tensor, value: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """`new` with each frontier row set to `value`, in place without autograd; and where that is not finite.

        Args:
            new, value: `(n, *batch, D)`, the first row that of time `start`.
        """
        rows = new.shape[0]
        if not self.touches(start, start + rows):
            return new, torch.zeros_like(self.lo, dtype=torch.bool)
        if self.extremes is not None and self.extremes[0] == self.extremes[1] < self.extremes[2]:
            exact = value[self.extremes[0] - start]  # all sequences are at the same row
            new[self.extremes[0] - start] = exact
            return new, ~exact.isfinite().all(-1)
        inside = (self.lo >= start) & (self.lo < start + rows) & (self.lo < self.hi)
        index = (self.lo - start).clamp(0, rows - 1)[None, ..., None].expand(1, *new.shape[1:])
        exact = value.gather(0, index)
        taken = torch.where(inside.unsqueeze(-1), exact, new.gather(0, index))
        new = new.scatter(0, index, taken) if torch.is_grad_enabled() else new.scatter_(0, index, taken)
        return new, inside & ~exact[0].detach().isfinite().all(-1)


def advanced(
    rows: OpenRows, residual: Tensor, value: Tensor, prev: Tensor, start: int, rtol: float, atol: float
) -> tuple[OpenRows, Tensor]:
    """The rows that are still open after a search from the frontier on, and the largest residual accepted; see
    `OpenRows.accept`."""
    n = residual.shape[0]
    if not rows.touches(start, start + n):
        return rows, residual.new_zeros(rows.lo.shape)
    left = None
    first, size = (0, n) if rows.extremes is None else (max(0, rows.extremes[0] - start), FIRST_SEARCH)
    while first < n:
        stretch = slice(first, min(first + size, n))
        some = residual[stretch].abs()
        within = _at_rounding_level(some, value[stretch], prev[stretch], rtol, atol)
        rows, accepted = _accepted_run(rows, some, within, start + first)
        left = accepted if left is None else torch.maximum(left, accepted)
        first, size = stretch.stop, 4 * size
        if rows.extremes is not None and rows.extremes[1] < start + first:
            break
    return rows, residual.new_zeros(rows.lo.shape) if left is None else left


def _at_rounding_level(size: Tensor, value: Tensor, prev: Tensor, rtol: float, atol: float) -> Tensor:
    """Whether a row's absolute residual is rounding alone, and within the stopping tolerance, `(n, *batch)`."""
    magnitude = value.abs()
    largest = torch.maximum(magnitude, prev.abs()).amax(-1, keepdim=True)
    rounding = largest * (ACCEPTED_ULPS * torch.finfo(size.dtype).eps)
    bound = torch.minimum(rounding, magnitude * rtol + atol)
    return ((size <= bound) & (bound < torch.inf)).all(-1)  # false for NaN


def _accepted_run(rows: OpenRows, size: Tensor, within: Tensor, start: int) -> tuple[OpenRows, Tensor]:
    """The rows still open after a search in some rows, and the largest residual accepted there; `size`: |residual|."""
    if rows.extremes is not None and within.numel() == within.shape[0]:
        return _run_of_one(rows, size, within, start)
    lo, hi, times = rows.lo, rows.hi, _times(start, size.shape[0], rows.lo)
    passed = (((times < lo) | within) & (times < hi)).to(torch.int64).cumprod(0)
    reached = torch.where(lo >= start, torch.maximum(lo, torch.minimum(start + passed.sum(0), hi)), lo)
    newly = (times >= lo) & (times < reached)
    return OpenRows.of(reached, hi), size.amax(-1).masked_fill(~newly, 0).amax(0)


def _run_of_one(rows: OpenRows, size: Tensor, within: Tensor, start: int) -> tuple[OpenRows, Tensor]:
    """The same for a single sequence whose frontier is `start`, on a CPU: the host counts the accepted rows."""
    flags = within.flatten().tolist()[: int(rows.hi) - start]
    run = flags.index(False) if False in flags else len(flags)
    if not run:
        return rows, size.new_zeros(rows.lo.shape)
    return OpenRows.of(rows.lo + run, rows.hi), size[:run].amax((0, -1))


def _times(start: int, rows: int, like: Tensor) -> Tensor:
    return torch.arange(start, start + rows, device=like.device).view(-1, *[1] * like.ndim)
