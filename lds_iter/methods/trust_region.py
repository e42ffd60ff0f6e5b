"""A trust region on the update: damping that tunes itself, for trained networks and the edge of stability.

A linearization means nothing beyond the region that the trajectory visits. So the size of a proposed update is measured
in units of the trajectory's own extent,

    m_t = |d_t| / extent        extent = the largest range of a coordinate of `f`'s values over the open rows

and three lengths decide. No row moves by more than `step` extents; what is longer is shortened, its direction kept. The
largest m over the rows decides about the damping `k` of the transitions `A_t = (1 - k) J_t`, and about the rows:

    m > reject    rows behind the first with m_t > relax take f's value, d_t = r_t; k stays
    m < relax     k <- k / 2, or k / 4 when m < relax / 4
    else          k stays

Why these lengths. A trajectory of extent 2 a turns within a radius of about a, and along a circle of that radius a
tangent is right to 5 % for a third of it: `step = 1/6`. A correction longer than the trajectory is wide (`relax = 1`)
says that more rows disagree with each other than a linear model can put right at once, so the memory of about 1 / k
steps, over which rows are made to agree, is long enough for now. One many times longer (`reject = 8`) comes from
products of Jacobians that have exploded, and not even its direction means anything. It did not explode everywhere:
updates run forward in time, so rows up to where one first grew longer than the trajectory is wide know nothing of what
comes behind, and go on. The rows behind have no model to go by but the recurrence itself, a Jacobi sweep. While
corrections are short, `k` is annealed to 0, and the tail is Newton's, quadratic.

Where the linear model is right as it is, none of that is needed. So before all else the update without any damping is
tried: `f` is evaluated along it, and where the largest residual falls to less than half, it is taken whole. And where
neither damping nor residual has changed for `PATIENCE` iterations, the rows up to the first whose residual would
not fall take it, for a row of an update knows nothing of what comes behind.
Without this, states that drift or hardly change from step to
step, whose extent along a constant guess is about nothing, would never be let go. It costs one evaluation of `f` and
one scan an iteration, and no derivatives.

Residuals are no guide to the damping itself: on a hard problem they must rise for a while, and a classical gain ratio
stalls. The amount
of damping is tuned by hand in "Towards scalable and stable parallelization of nonlinear RNNs" (Gonzalez, Warrington,
Smith, Linderman, NeurIPS 2024); trust regions: Conn, Gould, Toint, "Trust-region methods", 2000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.arguments import check_instance, check_number, fix
from lds_iter.methods.base import Dampable, LDSApproximation

STRONGEST = 0.95
"""The largest damping to begin with: a memory of about one step, a Jacobi iteration in all but name."""

ENOUGH = 0.5
"""The update without damping is taken where the largest residual falls to at most this part of itself."""

ENOUGH_OF_A_ROW = 0.1
"""The same for the rows of a sequence that stands still, of which the first ones take it."""

PATIENCE = 3
"""Iterations without a change of damping and residual until rows up to the first bad one take the undamped update."""

STILL = 0.9
"""A residual that changes by a smaller part than from 1 to this does not change."""


@dataclass(frozen=True)
class Trust:
    """What a `TrustRegion` remembers of each sequence; `Solution.carry` at the end.

    Attributes:
        k: the damping for the next iteration, `(*batch)`.
        rejected: iterations whose proposal was thrown away from some row on, int64, `(*batch)`.
        idle: iterations in a row in which neither the damping nor the residual changed, int64, `(*batch)`.
        residual: the largest residual of the last iterate, `(*batch)`.
        inner: what the damped method remembers.
    """

    k: Tensor
    rejected: Tensor
    idle: Tensor
    residual: Tensor
    inner: Any = None


@dataclass(frozen=True)
class TrustRegion(LDSApproximation):
    """Damp a method by as much as the size of its updates asks for, and bound its steps; each sequence for itself.

    Untuned, it solves from zeros what plain Newton needs hundreds of iterations for or fails on. Where Newton is at
    ease it takes about as many iterations. All lengths are in units of the extent of the trajectory, so nothing depends
    on the scale of the states. An iteration evaluates `f` twice.

    Attributes:
        method: whose update to damp, `Newton()` above all; a diagonal gains little, its error being the couplings
            that it drops. For a `LevenbergMarquardt` the damping is the precision `k / (1 - k)` of its observation, in
            place of its own `1 / sigma2`.
        k: the damping to begin with.
        step: no row moves by more.
        relax: while no row's update is longer, the damping falls.
        reject: when a row's update is longer, all rows behind the first whose update is longer than `relax` take the
            value of `f` in place of theirs.

    Raises:
        TypeError: when `method` has no damped updates.
        ValueError: for numbers that cannot work.
    """

    method: Dampable
    k: float = 0.25
    step: float = 1 / 6
    relax: float = 1.0
    reject: float = 8.0

    def __post_init__(self) -> None:
        check_instance("method", self.method, Dampable, "Newton() or LevenbergMarquardt(1.0)")
        try:
            k = check_number("k", self.k, 0, STRONGEST, open_low=True)
        except ValueError as error:
            raise ValueError(f"{error} It is where the damping begins.") from None
        relax, reject = (check_number(name, getattr(self, name), 0, math.inf) for name in ("relax", "reject"))
        if not 0 < relax <= reject < math.inf:
            raise ValueError(f"Lengths must be 0 < relax <= reject, got relax={self.relax}, reject={self.reject}.")
        try:
            step = check_number("step", self.step, 0, math.inf, open_low=True)
        except ValueError:
            raise ValueError(f"`step` must be above 0, got {self.step!r}. math.inf does not bound the steps.") from None
        fix(self, k=k, relax=relax, reject=reject, step=step)

    def for_adjoint(self) -> LDSApproximation:
        return self.method.for_adjoint()

    def init(self, guess: Tensor) -> Trust:
        k = guess.new_full(guess.shape[1:-1], self.k)
        none = torch.zeros_like(k, dtype=torch.int64)
        return Trust(k, none, none.clone(), torch.full_like(k, math.inf), self.method.init(guess))

    def update(self, lin: Linearization, carry: Trust) -> tuple[Tensor, Trust]:
        damped, inner = self.method.damped_updates(lin, carry.inner)
        whole = damped(torch.zeros_like(carry.k))
        good, trusted = _trial(lin, whole, carry.idle >= PATIENCE)
        d, k = damped(_per_row(carry.k, trusted & ~good)), carry.k
        size = _sizes(d, lin).masked_fill(trusted, 0)
        largest = size.amax(0)
        rejected = ~(largest <= self.reject) & lin.active & ~good
        far = ~(size <= self.relax)  # what is not finite too
        lost = rejected & ((far.cumsum(0) > far) | ~size.isfinite()) & ~trusted
        d = torch.where(lost.unsqueeze(-1), lin.residual, d)
        size = torch.where(lost, _sizes(lin.residual, lin), size)
        relaxed = ((largest < self.relax) | good) & lin.active
        k = torch.where(relaxed, torch.where((largest < self.relax / 4) | good, k / 4, k / 2), k)
        k = torch.where(k < self.method.negligible_damping(torch.finfo(k.dtype).eps), 0, k)
        d = torch.where(trusted.unsqueeze(-1), whole, d * _shortening(size, self.step).unsqueeze(-1))
        residual = lin.residual.abs().amax((0, -1))
        still = (residual > STILL * carry.residual) & (STILL * residual < carry.residual) & ~rejected
        idle = torch.where(~relaxed & (still | (carry.idle >= PATIENCE)), carry.idle + 1, 0)
        idle, residual = lin.keep((idle, residual), (carry.idle, carry.residual))
        return d, Trust(k, carry.rejected + rejected, idle, residual, inner)


def _per_row(k: Tensor, trusted: Tensor) -> Tensor:
    """The damping of each row, `(n, *batch)`, where some rows of a sequence are trusted, else as it is."""
    if _torch.on_host(trusted) and not bool(trusted.any()):
        return k
    return torch.where(trusted, 0, k)


def _trial(lin: Linearization, whole: Tensor, idle: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate `f` along the update without damping.

    Args:
        lin: `f` along the guess.
        whole: the update, `(n, *batch, D)`.
        idle: the sequences in which the rows up to the first bad one are trusted, bool, `(*batch)`.

    Returns:
        The sequences in which it is good as a whole, `(*batch)`, and the rows that take it, `(n, *batch)`.
    """
    with torch.no_grad():  # it only decides
        states = lin.states + whole
        after = (lin.at(torch.cat([lin.prev[:1], states[:-1]])).value - states).abs().amax(-1)
    now, closed = lin.residual.abs().amax((0, -1)), ~lin.open.squeeze(-1)
    good = ((after <= ENOUGH * now) | closed).all(0)
    fine = ((after <= ENOUGH_OF_A_ROW * now) | closed).to(torch.int64).cumprod(0).bool()
    return good, good | (fine & idle)


def _shortening(size: Tensor, step: float) -> Tensor:
    """What a row's update is multiplied by; 1 where it is 0, which a quotient by 0 would not differentiate."""
    return torch.where(size > step, step / torch.where(size > step, size, 1), 1)


def _sizes(d: Tensor, lin: Linearization) -> Tensor:
    """`m_t` of every row, `(n, *batch)`; 0 in the rows that may not move, for an update runs on into rows behind the
    window, and how many of them are at hand depends on the rest of the batch."""
    extent = _extent(lin)
    return (d.abs().amax(-1) / torch.where(extent > 0, extent, 1)).masked_fill(~lin.open.squeeze(-1), 0)


def _extent(lin: Linearization) -> Tensor:
    """The largest range of a coordinate over the open rows, or the largest residual if that is more, `(*batch)`."""
    value, inside = lin.value, lin.open & lin.value.isfinite()
    high = torch.where(inside, value, -torch.inf).amax(0)
    low = torch.where(inside, value, torch.inf).amin(0)
    return torch.maximum((high - low).amax(-1), lin.residual.nan_to_num(0, 0, 0).abs().amax((0, -1)))
