"""Scans that begin at the frontier: rows up to and including the frontier row have `A_t = 0`.

The frontier row takes the value of `f` as it is, and nothing before it moves. Each sequence of a batch has a frontier
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.linear.arguments import check_is_transition
from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.registry import StepwiseScan, kernel_of
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


def cut_scan(transition: AbstractTransition, b: Tensor, before: Tensor, cut: Cut) -> Tensor:
    """Solve `x_t = A_t x_{t-1} + b_t` with the transitions cut at the frontier.

    Args:
        transition: the matrices of the rows at hand.
        b: `(n, *batch, D)`; zero in the rows before the frontier.
        before: `x` before the first row at hand, `(*batch, D)`.
        cut: see `Cut`.
    """
    if not torch.compiler.is_compiling():
        check_is_transition(transition, b, "`transition` must be", "b")
    if cut.highest is not None and cut.highest < cut.start:
        return linear_scan(transition, b, before)
    scan = kernel_of(type(transition), b.device.type).stepwise
    if scan is not None and cut.lowest is not None and cut.highest is not None and not torch.is_grad_enabled():
        x = b.clone(memory_format=torch.contiguous_format)
        if _from_frontier(scan, transition, x, before, cut, cut.lowest, cut.highest):
            return x
    keep = cut.behind(slice(0, b.shape[0])).to(b.dtype).expand(*b.shape[:-1], 1)
    return linear_scan(transition.scaled(keep), b, before)


def _from_frontier(
    scan: StepwiseScan, transition: AbstractTransition, x: Tensor, before: Tensor, cut: Cut, lowest: int, highest: int
) -> bool:
    """The same in place: accepted rows are skipped, and few matrices are cut in a copy. False where `scan` declines."""
    n = x.shape[0]
    first, last = (min(max(0, time - cut.start), n) for time in (lowest, highest + 1))
    initial = None if first else before
    x[:first] = 0
    if first < last and lowest < highest:
        head = slice(first, last)
        keep = cut.behind(head).to(x.dtype).expand(last - first, *x.shape[1:-1], 1)
        if not scan(take(transition, head).scaled(keep), x[head], initial):
            return False
        first, initial = last, x[last - 1]
    elif first < last:
        initial = None  # the frontier row itself is the first: no matrix is multiplied there
    return first == n or scan(take(transition, slice(first, n)), x[first:], initial)
