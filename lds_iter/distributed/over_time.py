"""Measurements over time that see the rows of all processes that share a trajectory.

A method that reduces over time does it by these; `x.amax(0)` would see this process's rows alone. Where one process
holds all rows, they cost what the plain reduction costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.distributed.shards import TimeShards


@dataclass(frozen=True)
class OverTime:
    """How a method measures over time.

    Attributes:
        shards: who holds which rows; None where this process holds all.
        start: the time of the first row at hand.
        length: T.
        end: the time after the last row of each sequence that may move, `(*batch)`; None for T.
        active: the sequences that take part, bool, `(*batch)`.
    """

    shards: TimeShards | None
    start: int
    length: int
    end: Tensor | None
    active: Tensor

    def largest(self, x: Tensor) -> Tensor:
        """The largest of all rows, `(n, *batch, ...)` to `(*batch, ...)`, those that other processes hold included.

        A method measures over time by this function and the next three; `x.amax(0)` would see this process's rows.
        """
        here = x.amax(0)
        return here if self.shards is None else self.shards.largest(here)

    def some(self, rows: Tensor) -> Tensor:
        """Whether any row is true, bool, `(n, *batch)` to `(*batch)`."""
        return self.largest(rows.to(torch.uint8)) > 0

    def earlier(self, rows: Tensor) -> Tensor:
        """True in each row after the first true one, bool, `(n, *batch)`."""
        before = rows.cumsum(0) > rows
        if self.shards is None:
            return before
        seen = self.shards.in_order(self.shards.gather(rows.any(0))[0])
        return before | seen[: self.shards.place].any(0)

    def previous(self, x: Tensor, first: Tensor) -> Tensor:
        """Row t - 1 of `x`, `(n, *batch, ...)`, in place of row t; `first`, `(1, *batch, ...)`, in place of row 0."""
        if self.shards is None:
            return torch.cat([first, x[:-1]])
        before = self.shards.pass_on(x[-1:], first)
        within = self.start > self.shards.first  # a window may begin behind the first row held
        return torch.cat([first if within else before, x[:-1]])

    def following(self, x: Tensor) -> Tensor:
        """Row t + 1 of `x`, `(n, *batch, ...)`, in place of row t; zeros in place of the last row."""
        none = torch.zeros_like(x[:1])
        if self.shards is None:
            return torch.cat([x[1:], none])
        whole = torch.full((), self.length, device=x.device)
        end = whole if self.end is None else torch.where(self.active, self.end, 0).max()
        begins = torch.where(end > self.start, x[:1], none)  # a row behind the window is none
        return torch.cat([x[1:], self.shards.pass_on(begins, none, -1)])

    @property
    def is_shared(self) -> bool:
        """Whether other processes hold other rows of the same trajectory."""
        return self.shards is not None

    def from_earlier(self, *tensors: Tensor) -> list[Tensor]:
        """What each process that holds earlier rows gives for these tensors, `(k, *shape)`; k = 0 for the first."""
        if self.shards is None:
            return [tensor[None][:0] for tensor in tensors]
        gathered = self.shards.gather(*tensors)
        return [self.shards.in_order(one)[: self.shards.place] for one in gathered]

    def agreed(self, answer: Tensor) -> Tensor:
        """The first process's answer to a question by which all decide; `(*batch)`. A clock tells each another time."""
        return answer if self.shards is None else self.shards.of_first_rank(answer)
