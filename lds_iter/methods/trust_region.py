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

Residuals are no guide here: on a hard problem they must rise for a while, and a classical gain ratio stalls. The amount
of damping is tuned by hand in "Towards scalable and stable parallelization of nonlinear RNNs" (Gonzalez, Warrington,
Smith, Linderman, NeurIPS 2024); trust regions: Conn, Gould, Toint, "Trust-region methods", 2000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.methods.arguments import check_transition_method
from lds_iter.methods.base import LDSApproximation, TransitionApproximation
from lds_iter.methods.levenberg_marquardt import LevenbergMarquardt
from lds_iter.scan.transitions import scaled

STRONGEST = 0.95
"""The largest damping to begin with: a memory of about one step, a Jacobi sweep in all but name."""


@dataclass(frozen=True)
class Trust:
    """What a `TrustRegion` remembers of each sequence; `Solution.carry` at the end.

    Attributes:
        k: the damping for the next iteration, `(*batch)`.
        rejected: iterations whose proposal was thrown away from some row on, int64, `(*batch)`.
    """

    k: Tensor
    rejected: Tensor


@dataclass(frozen=True)
class TrustRegion(LDSApproximation):
    """Damp a method by as much as the size of its updates asks for, and bound its steps; each sequence for itself.

    Untuned, it solves from zeros what plain Newton needs hundreds of iterations for or fails on. Where Newton is at
    ease it costs iterations: six at least from a guess that is an extent away. All lengths are in units of the extent
    of the trajectory, so nothing depends on the scale of the states.

    Attributes:
        method: whose transition to damp, `Newton()` above all; a diagonal gains little, its error being the couplings
            that it drops. For a `LevenbergMarquardt` the damping is the precision `k / (1 - k)` of its observation, in
            place of its own `1 / sigma2`.
        k: the damping to begin with.
        step: no row moves by more.
        relax: while no row's update is longer, the damping falls.
        reject: when a row's update is longer, all rows behind the first whose update is longer than `relax` take the
            value of `f` in place of theirs.
    """

    method: TransitionApproximation | LevenbergMarquardt
    k: float = 0.25
    step: float = 1 / 6
    relax: float = 1.0
    reject: float = 8.0

    def __post_init__(self) -> None:
        if not isinstance(self.method, LevenbergMarquardt):
            check_transition_method("method", self.method)
        if not 0 < self.k <= STRONGEST:
            raise ValueError(f"`k` must lie in (0, {STRONGEST}], got {self.k}. It is where the damping begins.")
        if not 0 < self.relax <= self.reject < math.inf:
            raise ValueError(f"Lengths must be 0 < relax <= reject, got relax={self.relax}, reject={self.reject}.")
        if not self.step > 0:
            raise ValueError(f"`step` must be above 0, got {self.step}. math.inf does not bound the steps.")

    def for_adjoint(self) -> LDSApproximation:
        return self.method.for_adjoint()

    def init(self, guess: Tensor) -> Trust:
        k = guess.new_full(guess.shape[1:-1], self.k)
        return Trust(k, torch.zeros_like(k, dtype=torch.int64))

    def update(self, lin: Linearization, carry: Trust) -> tuple[Tensor, Trust]:
        d, k, extent = self._damped(lin, carry.k), carry.k, _extent(lin)
        size = _sizes(d, extent, lin)
        largest = size.amax(0)
        rejected = ~(largest <= self.reject) & lin.active
        far = ~(size <= self.relax)  # what is not finite too
        lost = rejected & ((far.cumsum(0) > far) | ~size.isfinite())
        d = torch.where(lost.unsqueeze(-1), lin.residual, d)
        size = torch.where(lost, _sizes(lin.residual, extent, lin), size)
        relaxed = (largest < self.relax) & lin.active
        k = torch.where(relaxed, torch.where(largest < self.relax / 4, k / 4, k / 2), k)
        k = torch.where(k < self._negligible(torch.finfo(k.dtype).eps), 0, k)
        return d * (self.step / size).clamp(max=1).unsqueeze(-1), Trust(k, carry.rejected + rejected)

    def _negligible(self, eps: float) -> float:
        """Damping that is as good as none. `1 - k` is rounded to 1; a precision still bounds products of Jacobians
        by the root of its inverse, and is none only where these reach `1 / eps`."""
        return eps**2 if isinstance(self.method, LevenbergMarquardt) else eps

    def _damped(self, lin: Linearization, k: Tensor) -> Tensor:
        if isinstance(self.method, LevenbergMarquardt):
            return self.method.damped(lin, k / (1 - k))
        keep = (1 - k).unsqueeze(-1).expand(*lin.residual.shape[:-1], 1)
        return lin.scan(scaled(self.method.transition(lin), keep), lin.residual)


def _sizes(d: Tensor, extent: Tensor, lin: Linearization) -> Tensor:
    """`m_t` of every row, `(n, *batch)`; 0 in the rows that may not move, for an update runs on into rows behind the
    window, and how many of them are at hand is up to the batch mates."""
    return (d.abs().amax(-1) / extent).masked_fill_(~lin.open.squeeze(-1), 0)


def _extent(lin: Linearization) -> Tensor:
    """The largest range of a coordinate over the open rows, or the largest residual if that is more, `(*batch)`."""
    value, inside = lin.value, lin.open & lin.value.isfinite()
    high = torch.where(inside, value, -torch.inf).amax(0)
    low = torch.where(inside, value, torch.inf).amin(0)
    return torch.maximum((high - low).amax(-1), lin.residual.nan_to_num(0, 0, 0).abs().amax((0, -1)))
