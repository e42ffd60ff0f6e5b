"""The frontier of a trajectory that several processes share: which rows are accepted, and how large residuals are.

Whether a row is accepted depends on all rows before it, some of which another process holds. So each process finds two
answers: one for the case that all rows before its own are accepted, one for the case that they are not. One all-gather
brings both answers of all processes to each, and each finds the same frontier: acceptance goes on to the next process
as long as a process accepts all of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.distributed.shards import TimeShards
from lds_iter.loop.frontier import OpenRows, advanced
from lds_iter.loop.state import LoopOptions


@dataclass(frozen=True)
class AcceptedTogether:
    """What the processes have found together.

    Attributes:
        residual: of this process's rows, zero in those that may not move, `(n, *batch, D)`.
        measured: over all rows, by the names of the fields of `Measured`.
    """

    residual: Tensor
    measured: dict[str, Any]


def own_share(shards: TimeShards | None, start: int, stop: int, rows: OpenRows) -> tuple[int, int]:
    """The rows that this process evaluates of `[start, stop)`: its own, or where none of them is open, one of them.

    A process without open rows computes along with one row that is closed, for all take part in every message.

    Args:
        shards: who holds which time steps; None where this process holds all.
        start, stop: the rows to evaluate in all.
        rows: those that are open.
    """
    if shards is None:
        return start, stop
    held = shards.held
    first, last = max(start, held.start), min(stop, held.stop)
    accepted = rows.extremes is not None and rows.extremes[0] >= held.stop
    if shards.is_empty or stop <= held.start:
        return held.start, held.start + 1
    if accepted or start >= held.stop:
        return held.stop - 1, held.stop
    return first, last


def accept_together(
    shards: TimeShards, rows: OpenRows, residual: Tensor, value: Tensor, prev: Tensor, first: int, options: LoopOptions
) -> AcceptedTogether:
    """Accept rows, as `OpenRows.accept` does where one process holds all of them.

    Args:
        shards: who holds the other rows.
        rows: those that are open so far.
        residual, value, prev: `(n, *batch, D)`, of the rows that this process evaluates.
        first: the time of the first one.
        options: with the tolerances.
    """
    arriving = OpenRows.of(rows.lo.clamp(min=first), rows.hi)
    then, accepted = advanced(arriving, residual, value, prev, first, options.rtol, options.atol)
    sizes = torch.stack([residual.abs().amax(-1), (residual.abs() - options.rtol * value.abs()).amax(-1)], 1)
    otherwise, there = (_largest(sizes, given.mask(first, len(sizes))) for given in (rows, then))
    numbers = [then.lo, then.lo >= shards.held.stop, _is_broken(then, value, first), accepted, *otherwise, *there]
    (gathered,) = shards.gather(torch.stack([number.double() for number in numbers]))
    reached, full, broken, accepted, *sizes = shards.in_order(gathered).unbind(1)
    arrived = torch.cat([torch.ones_like(full[:1]), full[:-1].cumprod(0)]) > 0
    largest, excess = (
        torch.where(arrived, after, before).amax(0).to(residual)
        for before, after in zip(sizes[:2], sizes[2:], strict=True)
    )
    rows = OpenRows.of(torch.where(arrived, reached, 0).amax(0).to(rows.lo), rows.hi)
    return AcceptedTogether(
        rows.confine(residual, first),
        {
            "rows": rows,
            "accepted": torch.where(arrived, accepted, 0).amax(0).to(residual),
            "residual": largest,
            "excess": excess,
            "broken": ((broken > 0) & arrived).any(0),
        },
    )


def _largest(sizes: Tensor, open_rows: Tensor) -> Tensor:
    """The largest of each of some numbers per row, `(n, k, *batch)`, over the open rows, `(k, *batch)`; at least 0."""
    return sizes.masked_fill(~open_rows.squeeze(-1).unsqueeze(1), 0).amax(0).clamp(min=0)


def _is_broken(rows: OpenRows, value: Tensor, first: int) -> Tensor:
    """Whether the frontier row is among these and its value is not finite, bool, `(*batch)`."""
    inside = (rows.lo >= first) & (rows.lo < first + len(value)) & (rows.lo < rows.hi)
    index = (rows.lo - first).clamp(0, len(value) - 1)[None, ..., None].expand(1, *value.shape[1:])
    return inside & ~value.gather(0, index)[0].isfinite().all(-1)
