"""The rows of one iteration, a tile at a time: evaluate `f`, accept rows, measure residuals, and propose states.

On a CPU the rows of a method without a carry are evaluated in tiles that fit the cache. The last `d` of one tile starts
the scan of the next, so it is the same iteration in less memory. Everything else is one tile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.cut import Cut
from lds_iter.loop.contract import linearized, proposed
from lds_iter.loop.frontier import OpenRows
from lds_iter.loop.sharing import accept_together
from lds_iter.loop.state import LoopOptions, LoopState, Problem
from lds_iter.methods.base import LDSApproximation

TILE_ELEMENTS = 1 << 18
"""Numbers of one sequence's tile per thread on a CPU (1 MiB in float32). Smaller ones fit a second-level cache better,
but the cost of dispatching operations outweighs that. The batch does not enter: where a scan is split decides how it
rounds, and the elements of a batch must not influence each other even there."""


@dataclass(frozen=True)
class Extent:
    """The extent of one iteration: the rows `[start, stop)`, the sequences that take part, and their open rows."""

    start: int
    stop: int
    active: Tensor
    rows: OpenRows


@dataclass(frozen=True)
class Measured:
    """Measurements over the rows evaluated so far, `(*batch)`.

    Attributes:
        rows: those still open.
        excess: by how much a residual exceeds the relative tolerance at most.
        residual: the largest one.
        accepted: the largest one among the rows accepted now.
        broken: whether `f` of the frontier row is not finite.
        resets: proposed rows that were replaced.
    """

    rows: OpenRows
    excess: Tensor
    residual: Tensor
    accepted: Tensor
    broken: Tensor
    resets: Tensor


def by_tiles(
    problem: Problem, method: LDSApproximation, state: LoopState, options: LoopOptions, extent: Extent, room: Tensor
) -> tuple[Measured, int, Tensor, Any]:
    """The iteration tile by tile: measurements, first proposed row, proposed states, and the method's carry."""
    zero = torch.zeros_like(state.residual)
    measured = Measured(extent.rows, zero, zero, zero, zero > 0, torch.zeros_like(state.resets))
    start, d, carry, parts = extent.start, torch.zeros_like(problem.s0), state.carry, []
    shared = problem.shards is not None
    tiles = [(extent.start, extent.stop)] if shared else _tiles(method, state, extent, options.window >= problem.length)
    for first, last in tiles:
        if not shared and measured.rows.extremes is not None and measured.rows.extremes[0] >= last:
            start = last  # all rows of this tile are accepted
            continue
        tile = Extent(first, last, extent.active, measured.rows)
        lin, measured = _look(problem, state, options, tile, measured, d)
        if (
            extent.rows.extremes is not None
            and last == extent.stop
            and _all_solved(measured, extent, options, problem.length)
        ):
            break  # the iteration that finds everything solved needs no proposal
        out = None if torch.is_grad_enabled() else room[first - state.first + 1 : last - state.first + 1]
        new, measured, d, carry = _propose(problem, method, state, lin, measured, carry, out)
        parts.append(new)
    if torch.is_grad_enabled() and parts:
        room = torch.cat([state.states[: start + 1], *parts, state.states[extent.stop + 1 :]])
    return measured, start, room, carry


def _tiles(method: LDSApproximation, state: LoopState, extent: Extent, whole: bool) -> Iterator[tuple[int, int]]:
    """The bounds of the tiles. At full window they lie on a grid that begins at time 0."""
    start, stop = extent.start, extent.stop
    if state.carry is not None or extent.rows.extremes is None:
        return iter([(start, stop)])  # asked first: a compiler cannot trace the number of threads
    size = max(1, TILE_ELEMENTS * torch.get_num_threads() // state.states.shape[-1])
    first = start + size - start % size if whole else start + size
    if first >= stop or not method.runs_forward:
        return iter([(start, stop)])
    return itertools.pairwise([start, *range(first, stop, size), stop])


def _look(
    problem: Problem, state: LoopState, options: LoopOptions, tile: Extent, measured: Measured, d: Tensor
) -> tuple[Linearization, Measured]:
    """Evaluate `f` along the guess in one tile, accept rows, and measure the residual."""
    first, last = tile.start, tile.stop
    held = slice(first - state.first, last - state.first)
    prev, states = state.states[held], state.states[held.start + 1 : held.stop + 1]
    inputs = problem.inputs_at(first, last)
    derivatives = linearized(problem.f, prev, inputs, state.states, (first, last, state.count))
    value = derivatives.value
    if problem.shards is None:
        residual, measured = _accepted(value - states, value, prev, first, options, measured)
    else:
        found = accept_together(problem.shards, measured.rows, value - states, value, prev, first, options)
        residual, measured = found.residual, replace(measured, **found.measured)
    rows = measured.rows
    iteration = state.count if state.age is None else state.age[held].unsqueeze(-1)
    lowest, highest = (None, None) if rows.extremes is None else rows.extremes[:2]
    return (
        Linearization(
            prev, states, residual, derivatives, inputs, slice(first, last), problem.length, iteration, tile.active,
            _f=problem.f, _cut=Cut(first, rows.lo, lowest, highest), _end=rows.hi, _before=d, _shards=problem.shards,
        ),
        measured,
    )  # fmt: skip


def _accepted(
    residual: Tensor, value: Tensor, prev: Tensor, first: int, options: LoopOptions, measured: Measured
) -> tuple[Tensor, Measured]:
    """Accept rows of one tile. The residual, zero in the rows that are accepted, and all measurements so far."""
    rows, residual, accepted = measured.rows.accept(residual, value, prev, first, options.rtol, options.atol)
    largest, excess = _sizes(residual.detach(), value.detach(), options, measured)
    return residual, replace(
        measured,
        rows=rows,
        accepted=torch.maximum(measured.accepted, accepted),
        residual=torch.maximum(measured.residual, largest),
        excess=excess,
    )


def _propose(
    problem: Problem, method: LDSApproximation, state: LoopState, lin: Linearization, measured: Measured, carry: Any,
    out: Tensor | None,
) -> tuple[Tensor, Measured, Tensor, Any]:  # fmt: skip
    """The proposed states of one tile, what they add to the measurements, `d` of the last row, and the carry.

    `out` takes the states; None where autograd records.
    """
    first, last, value = lin.rows.start, lin.rows.stop, lin.derivatives.value
    d, carry = proposed(method, lin, carry, state.states, (first, last, state.count))
    new, d, held = measured.rows.hold(d, lin.states, value, problem.s0, first, out)
    broken, resets = measured.broken | held.broken, measured.resets + held.resets
    return new, replace(measured, broken=broken, resets=resets), d, carry


def _sizes(residual: Tensor, value: Tensor, options: LoopOptions, measured: Measured) -> tuple[Tensor, Tensor]:
    """The largest residual of this tile, and the largest excess over the relative tolerance so far, `(*batch)`."""
    largest = _largest(residual)
    if options.rtol == 0:
        return largest, torch.maximum(measured.residual, largest)
    if measured.rows.extremes is not None and bool((measured.excess > options.atol).all()):
        return largest, measured.excess  # no sequence can converge in this iteration any more
    excess = residual.abs().sub_(value.abs(), alpha=options.rtol).amax((0, -1))
    return largest, torch.maximum(measured.excess, excess)


def _largest(residual: Tensor) -> Tensor:
    """The largest absolute value of each sequence, `(*batch)`; NaN where there is one."""
    if residual[0, ..., 0].numel() > 1:
        return residual.abs().amax((0, -1))
    low, high = torch.aminmax(residual)  # one pass, and nothing allocated
    return torch.maximum(-low, high).view(residual.shape[1:-1])


def within_tolerance(measured: Measured, extent: Extent, options: LoopOptions, length: int) -> Tensor:
    """The sequences whose residual is within tolerance in all rows to the end, `(*batch)`."""
    within = extent.active & (measured.excess <= options.atol)
    return within if options.window >= length else within & (measured.rows.hi == length)


def _all_solved(measured: Measured, extent: Extent, options: LoopOptions, length: int) -> bool:
    return torch.equal(within_tolerance(measured, extent, options, length), extent.active)
