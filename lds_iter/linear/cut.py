"""Scans that begin at the frontier: rows up to and including the frontier row have `A_t = 0`.

The frontier row takes the value of `f` as it is, and nothing before it moves. Each sequence of a batch has a frontier
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.registry import runs_once
from lds_iter.linear.transitions import AbstractTransition, take


@dataclass(frozen=True)
class Cut:
    """Where the rows at hand begin, and where the frontiers lie.

    Attributes:
        start: the time of the first row at hand.
        frontier: the first row of each sequence that is not accepted yet, as a time, int64, `(*batch)`.
        lowest, highest: its extremes over the batch, where the host knows them; else None.
    """

    start: int
    frontier: Tensor
    lowest: int | None
    highest: int | None

    @staticmethod
    def nowhere(start: int, like: Tensor) -> Cut:
        """All rows are free. `like`: states `(n, *batch, D)`."""
        return Cut(start, torch.full(like.shape[1:-1], start - 1, device=like.device), start - 1, start - 1)

    def behind(self, rows: slice) -> Tensor:
        """True in the rows that lie behind the frontier row, `(rows, *batch, 1)`."""
        times = torch.arange(self.start + rows.start, self.start + rows.stop, device=self.frontier.device)
        return (times.view(-1, *[1] * self.frontier.ndim) > self.frontier).unsqueeze(-1)


def cut_scan(transition: AbstractTransition, b: Tensor, before: Tensor, cut: Cut, out: Tensor | None = None) -> Tensor:
    """Solve `x_t = A_t x_{t-1} + b_t` with the transitions cut at the frontier.

    Args:
        transition: the matrices of the rows at hand.
        b: `(n, *batch, D)`; zero in the rows before the frontier.
        before: `x` before the first row at hand, `(*batch, D)`.
        cut: see `Cut`.
        out: where to put the result; may be `b`. Not with gradients.
    """
    n = b.shape[0]
    if cut.highest is not None and cut.highest < cut.start:
        return linear_scan(transition, b, before, out=out)
    if cut.lowest is not None and cut.highest is not None and runs_once(transition, b):
        return _from_frontier(transition, b, before, cut, torch.empty_like(b) if out is None else out)
    keep = cut.behind(slice(0, n)).to(b.dtype).expand(*b.shape[:-1], 1)
    return linear_scan(transition.scaled(keep), b, before, out=out)


def _from_frontier(transition: AbstractTransition, b: Tensor, before: Tensor, cut: Cut, out: Tensor) -> Tensor:
    """The same by a scan that runs through time once: accepted rows are skipped, few matrices are cut in a copy."""
    assert cut.lowest is not None
    assert cut.highest is not None
    n = b.shape[0]
    first, last = (min(max(0, time - cut.start), n) for time in (cut.lowest, cut.highest + 1))
    initial = None if first else before
    out[:first] = 0
    if first < last and cut.lowest < cut.highest:
        head = slice(first, last)
        keep = cut.behind(head).to(b.dtype).expand(last - first, *b.shape[1:-1], 1)
        linear_scan(take(transition, head).scaled(keep), b[head], initial, out=out[head])
        first, initial = last, out[last - 1]
    elif first < last:
        initial = None  # the frontier row itself is the first: no matrix is multiplied there
    if first < n:
        linear_scan(take(transition, slice(first, n)), b[first:], initial, out=out[first:])
    return out
