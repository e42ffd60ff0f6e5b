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

Lengths mean nothing where the trajectory has no extent yet: states that drift, or hardly change from step to step, look
like a single point along a constant guess, and no update of theirs is short. So the update without any damping is tried
too, by an evaluation of `f` along it:

- At the first iteration. Where the largest residual falls to `NEARLY_LINEAR` of itself, the linear model is right, and
  the update is taken whole. So is every later one, as long as residuals fall to half.
- Where neither the damping nor the residual has changed for `PATIENCE` iterations, or for `PATIENCE_AT_A_POINT` while
  values differ by less than the residual. Updates run forward in time, so the rows before the first whose residual
  would not fall to a tenth take the whole update, and the others the damped one.

Tried at every iteration, it would be taken too early on hard problems: their residuals must rise for a while, and an
update that halves the residual leads to states from which the next fifty iterations do not get away.

For the same reason a classical gain ratio, which tunes the damping by residuals, stalls. The amount of damping is tuned
by hand in "Towards scalable and stable parallelization of nonlinear RNNs" (Gonzalez, Warrington, Smith, Linderman,
NeurIPS 2024); trust regions: Conn, Gould, Toint, "Trust-region methods", 2000.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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

NEARLY_LINEAR = 0.01
"""The first update is taken without damping where the largest residual falls to at most this part of itself."""

ENOUGH = 0.5
"""The same for a later one, after an update without damping was taken or where a sequence stands still."""

ENOUGH_OF_A_ROW = 0.1
"""The same for each of the rows of a sequence that stands still, of which the first ones take it."""

PATIENCE = 6
"""Iterations without a change of damping and residual until the update without damping is tried."""

PATIENCE_AT_A_POINT = 1
"""The same while the values of `f` differ by less than the residual."""

STILL = 0.9
"""A residual that changes by a smaller part than from 1 to this does not change."""


@dataclass(frozen=True)
class Trust:
    """What a `TrustRegion` remembers of each sequence; `Solution.carry` at the end.

    Attributes:
        k: the damping for the next iteration, `(*batch)`.
        rejected: iterations whose proposal was thrown away from some row on, int64, `(*batch)`.
        idle: iterations in a row in which neither the damping nor the residual changed, int64, `(*batch)`.
        residual: the largest residual of the last iterate, `(*batch)`; infinite before the first.
        trying: whether the next update is tried without damping, bool, `(*batch)`.
        inner: what the damped method remembers.
    """

    k: Tensor
    rejected: Tensor
    idle: Tensor
    residual: Tensor
    trying: Tensor
    inner: Any = None


@dataclass(frozen=True)
class TrustRegion(LDSApproximation):
    """Damp a method by as much as the size of its updates asks for, and bound its steps; each sequence for itself.

    Untuned, it solves from zeros what plain Newton needs hundreds of iterations for or fails on. Where Newton is at
    ease it takes about as many iterations. All lengths are in units of the extent of the trajectory, so nothing depends
    on the scale of the states. The first iteration evaluates `f` twice, and so do later ones while a sequence stands
    still or takes its updates whole.

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
        return Trust(k, none, none.clone(), torch.full_like(k, math.inf), none == 0, self.method.init(guess))

    def update(self, lin: Linearization, carry: Trust) -> tuple[Tensor, Trust]:
        damped, inner = self.method.damped_updates(lin, carry.inner)
        scale = _Scale.of(lin)
        idle = carry.idle >= torch.where(scale.range <= scale.residual, PATIENCE_AT_A_POINT, PATIENCE)
        good, trusted, whole = _trial(lin, damped, carry, idle, scale.residual)
        d, k = damped(_per_row(carry.k, trusted & ~good, lin)), carry.k
        size = scale.sizes(d, lin).masked_fill(trusted, 0)
        largest = lin.over_time.largest(size)
        rejected = ~(largest <= self.reject) & lin.active & ~good
        far = ~(size <= self.relax)  # what is not finite too
        lost = rejected & (lin.over_time.earlier(far) | ~size.isfinite()) & ~trusted
        d = torch.where(lost.unsqueeze(-1), lin.residual, d)
        size = torch.where(lost, scale.sizes(lin.residual, lin), size)
        relaxed = ((largest < self.relax) | good) & lin.active
        k = torch.where(relaxed, torch.where((largest < self.relax / 4) | good, k / 4, k / 2), k)
        k = torch.where(k < self.method.negligible_damping(torch.finfo(k.dtype).eps), 0, k)
        d = torch.where(trusted.unsqueeze(-1), whole, d * _shortening(size, self.step).unsqueeze(-1))
        residual = scale.residual
        still = (residual > STILL * carry.residual) & (STILL * residual < carry.residual) & ~rejected
        waited = torch.where(idle, PATIENCE, carry.idle + 1)
        found = torch.where(~relaxed & (still | idle), waited, 0), residual, good
        waited, residual, trying = lin.keep(found, (carry.idle, carry.residual, carry.trying))
        return d, Trust(k, carry.rejected + rejected, waited, residual, trying, inner)


def _per_row(k: Tensor, trusted: Tensor, lin: Linearization) -> Tensor:
    """The damping of each row, `(n, *batch)`, where some rows of a sequence are trusted, else as it is."""
    if _torch.on_host(trusted) and not bool(lin.over_time.some(trusted).any()):
        return k
    return torch.where(trusted, 0, k)


def _trial(
    lin: Linearization, damped: Callable[[Tensor], Tensor], carry: Trust, idle: Tensor, now: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate `f` along the update without damping, for the sequences that try it.

    Args:
        lin: `f` along the guess.
        damped: from a damping to the update.
        carry: what is known of the sequences.
        idle: the sequences that stand still, bool, `(*batch)`.
        now: the largest residual, `(*batch)`.

    Returns:
        The sequences in which it is good as a whole, `(*batch)`, the rows that take it, `(n, *batch)`, and the update.
    """
    wanted = (carry.trying | idle) & lin.active
    if _torch.on_host(wanted) and not bool(wanted.any()):
        return torch.zeros_like(wanted), torch.zeros_like(lin.open.squeeze(-1)), lin.residual
    whole = damped(torch.zeros_like(carry.k))
    with torch.no_grad():  # it only decides
        states = lin.states + whole
        after = (lin.at(lin.over_time.previous(states, lin.prev[:1])).value - states).abs().amax(-1)
    closed = ~lin.open.squeeze(-1)
    enough = torch.where(carry.residual.isinf(), NEARLY_LINEAR, ENOUGH)
    good = ~lin.over_time.some(~((after <= enough * now) | closed)) & wanted
    bad = ~((after <= ENOUGH_OF_A_ROW * now) | closed)
    return good, good | (~(bad | lin.over_time.earlier(bad)) & idle & wanted), whole


def _shortening(size: Tensor, step: float) -> Tensor:
    """What a row's update is multiplied by; 1 where it is 0, which a quotient by 0 would not differentiate."""
    return torch.where(size > step, step / torch.where(size > step, size, 1), 1)


@dataclass(frozen=True)
class _Scale:
    """The lengths by which updates are measured, over the open rows, `(*batch)`.

    Attributes:
        residual: the largest finite residual.
        range: the largest range of a coordinate of the finite values; -inf if there are none.
    """

    residual: Tensor
    range: Tensor

    @staticmethod
    def of(lin: Linearization) -> _Scale:
        value, inside = lin.value, lin.open & lin.value.isfinite()
        high = torch.where(inside, value, -torch.inf).amax(0)
        low = torch.where(inside, value, torch.inf).amin(0)
        residual = lin.residual.nan_to_num(0, 0, 0).abs().amax(-1, keepdim=True).masked_fill(~lin.open, 0).amax(0)
        width = high.shape[-1]
        parts = lin.over_time.largest(torch.cat([high, -low, residual], -1)[None])
        high, low, residual = parts.split([width, width, 1], -1)
        return _Scale(residual.squeeze(-1), (high + low).amax(-1))

    def sizes(self, d: Tensor, lin: Linearization) -> Tensor:
        """`m_t` of every row, `(n, *batch)`; 0 in the rows that may not move.

        An update runs on into rows behind the window, and the rest of the batch decides how many are at hand.
        """
        extent = torch.maximum(self.range, self.residual)
        return (d.abs().amax(-1) / torch.where(extent > 0, extent, 1)).masked_fill(~lin.open.squeeze(-1), 0)
