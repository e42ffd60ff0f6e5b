"""How the scans of a sweep are cut at the frontier and split over time."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.kernels.cpu.scans import in_steps
from lds_iter.scan.linear_scan import linear_scan
from lds_iter.scan.transitions import AbstractTransition, headless, map_leaves, scaled, take, zero_with_leaves


@dataclass(frozen=True)
class ScanPlan:
    """How the loop wants the rows at hand scanned: cut at the frontier, and split on a grid.

    The cut: rows up to and including the frontier get `A = 0`, `G = I` (see `loop`). The grid: a long scan is a
    sequence of scans of `grid` rows each, counted from time 0, one starting where the other ended. How a parallel scan
    associates decides how it rounds; on a grid that depends on neither the batch nor the rows at hand, a sequence
    rounds the same in any company.

    Attributes:
        start: the time of the first row at hand.
        grid: rows per scan.
        frontier: the first row of each sequence that is not accepted yet, as a time, `(*batch)`.
        lowest, highest: its extremes over the batch, where the host knows them, else None.
        end: the time after the last row of each sequence that may move, `(*batch)`; None for all rows at hand.
    """

    start: int
    grid: int
    frontier: Tensor
    lowest: int | None
    highest: int | None
    end: Tensor | None = None

    def open(self, rows: int) -> Tensor:
        """True in the rows that may move, `(rows, *batch, 1)`."""
        times = self._times(self.start, rows)
        return self._before_end(times, times >= self.frontier)

    def free(self, rows: int) -> Tensor:
        """True in the rows that lie behind the frontier row and may move, `(rows, *batch, 1)`."""
        times = self._times(self.start, rows)
        return self._before_end(times, times > self.frontier)

    def _times(self, first: int, rows: int) -> Tensor:
        """The times from `first` on, against which frontiers broadcast."""
        times = torch.arange(first, first + rows, device=self.frontier.device)
        return times.view(-1, *[1] * self.frontier.ndim)

    def _before_end(self, times: Tensor, rows: Tensor) -> Tensor:
        return (rows if self.end is None else rows & (times < self.end)).unsqueeze(-1)

    def cells(self, n: int) -> list[tuple[slice, int]]:
        """The rows at hand by grid cells, and how many rows of each cell are missing before them."""
        cells, first, missing = [], 0, self.start % self.grid
        while first < n:
            last = min(n, first + self.grid - missing)
            cells.append((slice(first, last), missing))
            first, missing = last, 0
        return cells

    def scan(self, transition: AbstractTransition, b: Tensor, initial: Tensor, out: Tensor) -> Tensor:
        """`linear_scan` of the cut transitions into `out`, which may be `b`.

        In the rows before the frontier `b` must be zero.
        """
        if torch.is_grad_enabled():  # an unrolled iteration: all rows at hand, nothing accepted
            return linear_scan(transition, b)
        cells = self.cells(b.shape[0])
        for rows, missing in cells:
            piece = transition if len(cells) == 1 else take(transition, rows)
            self._piece(piece, b[rows], initial, missing, rows.start, out[rows])
            initial = out[rows.stop - 1]
        return out

    def scan_back(self, transition: AbstractTransition, b: Tensor) -> Tensor:
        """Solve `x_t = A_t x_{t+1} + b_t` over the rows at hand, on the same grid, and without any cut."""
        if torch.is_grad_enabled():
            return linear_scan(transition, b, reverse=True)
        x, later = torch.empty_like(b, memory_format=torch.contiguous_format), None
        for rows, _ in reversed(self.cells(b.shape[0])):
            piece, part = take(transition, rows), b[rows]
            absent = -(self.start + rows.stop) % self.grid
            if absent:  # whole cells, for a reversed scan associates from their ends
                piece = map_leaves(functools.partial(_extended, rows=absent), piece)
                part = _extended(part, absent)
            x[rows] = linear_scan(piece, part, later, reverse=True)[: rows.stop - rows.start]
            later = x[rows.start]
        return x

    def _piece(
        self, transition: AbstractTransition, b: Tensor, initial: Tensor | None, missing: int, first: int, out: Tensor
    ) -> None:
        """Scan rows of one grid cell, of which the first `missing` are not at hand and stand in as zeros."""
        start, rows = self.start + first, b.shape[0]
        if self.highest is not None and self.highest < start and not missing:
            linear_scan(transition, b, initial, out=out)
            return
        if self.lowest is not None and in_steps(transition, b):
            self._in_steps(transition, b, initial, start, out)
            return
        if missing:
            transition = map_leaves(
                lambda leaf: torch.cat([leaf[:1].expand(missing, *leaf.shape[1:]), leaf]), transition
            )
            b = torch.cat([b.new_zeros(missing, *b.shape[1:]), b])
        common = self.lowest if self.lowest == self.highest else None  # a frontier that all sequences share
        if common == start and not missing and zero_with_leaves(transition):
            initial = None  # then nothing is multiplied by the first matrix: no need to zero it in a copy
        elif common is not None:
            transition = headless(transition, min(missing + common + 1 - start, b.shape[0]), b)
        else:
            times = self._times(start - missing, missing + rows)
            transition = scaled(transition, (times > self.frontier).to(b.dtype).unsqueeze(-1))
        if missing:
            out.copy_(linear_scan(transition, b)[missing:])
        else:
            linear_scan(transition, b, initial, out=out)

    def _in_steps(
        self, transition: AbstractTransition, b: Tensor, initial: Tensor | None, start: int, out: Tensor
    ) -> None:
        """The same by a scan that rounds the same wherever it begins: few matrices, or none, are cut in a copy."""
        assert self.lowest is not None
        assert self.highest is not None
        rows = b.shape[0]
        first, last = (min(max(0, time - start), rows) for time in (self.lowest, self.highest + 1))
        out[:first] = 0
        if first:
            initial = None
        if first < last and self.lowest < self.highest:
            head, times = slice(first, last), self._times(start + first, last - first)
            cut = scaled(take(transition, head), (times > self.frontier).to(b.dtype).unsqueeze(-1))
            linear_scan(cut, b[head], initial, out=out[head])
            first, initial = last, out[last - 1]
        elif first < last:
            initial = None  # nothing is multiplied by the first matrix, that of the frontier row
        if first < rows:
            linear_scan(take(transition, slice(first, rows)), b[first:], initial, out=out[first:])


def _extended(leaf: Tensor, rows: int) -> Tensor:
    """`leaf` with zeros in some more rows after its last."""
    return torch.cat([leaf, leaf.new_zeros(rows, *leaf.shape[1:])])
