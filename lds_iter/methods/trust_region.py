"""A trust region on the update: damping that tunes itself, for trained networks and the edge of stability.

A linearization means nothing beyond the region that the trajectory visits. So the size of a proposed update is measured
in units of the trajectory's own extent,

    m = max_t |d_t| / extent          extent = largest range of a coordinate of `f`'s values over the open rows

and decides about the damping `k` of the transitions `A_t = (1 - k) J_t`, and about the iterate:

    m > reject    the iterate stays where it is, and k <- min(4 k, 0.95)
    m < shrink    the update is taken, and k <- k / 2
    else          the update is taken

`shrink` is 1: a correction longer than the whole trajectory is wide is not yet one to build on. While corrections are
shorter than that, `k` is annealed to 0 and the tail is Newton's, quadratic; when the memory that Newton assumes makes
them explode, it is cut (`(1 - k)^j` after `j` steps) until they do not. Merit functions are no guide here: on a hard
problem the residual must rise for a while, and a classical gain ratio stalls.

The rule is an addition to the damping of "Parallelizing Markov chains ..." and "Towards scalable and stable
parallelization of nonlinear RNNs" (Gonzalez et al., NeurIPS 2024), where a fixed amount is tuned by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.linearization import Linearization
from lds_iter.methods.base import LDSApproximation, TransitionApproximation
from lds_iter.methods.compose import check_transition_method
from lds_iter.transitions import scaled

STRONGEST = 0.95
"""The largest damping: a memory of about one step, a Jacobi sweep in all but name, is always taken."""


@dataclass(frozen=True)
class Trust:
    """What a `TrustRegion` remembers of each sequence; `Solution.carry` at the end.

    Attributes:
        k: the damping for the next iteration, `(*batch)`.
        rejected: iterations whose proposal was thrown away, int64, `(*batch)`; they count as iterations.
    """

    k: Tensor
    rejected: Tensor


@dataclass(frozen=True)
class TrustRegion(LDSApproximation):
    """Damp the transitions of a method by as much as the size of its updates asks for, each sequence for itself.

    Untuned, it solves from zeros what plain Newton needs thousands of iterations for or fails on. Where Newton is at
    ease it costs the iterations in which `k` falls from its start to nothing: two or three.

    Attributes:
        method: whose transition to damp, `Newton()` above all; a diagonal gains little, its error being the couplings
            that it drops.
        k: the damping to begin with.
        shrink: updates shorter than this many extents of the trajectory relax the damping.
        reject: longer ones than this many are thrown away and tried again with more of it.
    """

    method: TransitionApproximation
    k: float = 0.5
    shrink: float = 1.0
    reject: float = 3.5

    def __post_init__(self) -> None:
        check_transition_method("method", self.method)
        if not 0 < self.k <= STRONGEST:
            raise ValueError(f"`k` must lie in (0, {STRONGEST}], got {self.k}. It is where the damping begins.")
        if not 0 < self.shrink <= self.reject < float("inf"):
            raise ValueError(f"`shrink` and `reject` must be 0 < shrink <= reject, got {self.shrink}, {self.reject}.")

    def init(self, guess: Tensor) -> Trust:
        k = guess.new_full(guess.shape[1:-1], self.k)
        return Trust(k, torch.zeros_like(k, dtype=torch.int64))

    def update(self, lin: Linearization, carry: Trust) -> tuple[Tensor, Trust]:
        keep = (1 - carry.k).unsqueeze(-1).expand(*lin.residual.shape[:-1], 1)
        d = lin.scan(scaled(self.method.transition(lin), keep), lin.residual)
        size = _largest(d) / _extent(lin)
        rejected = ~(size <= self.reject) & (carry.k < STRONGEST) & lin.active
        relaxed = (size < self.shrink) & ~rejected & lin.active
        k = torch.where(rejected, (4 * carry.k).clamp(max=STRONGEST), torch.where(relaxed, carry.k / 2, carry.k))
        k = torch.where(k < torch.finfo(k.dtype).eps, 0, k)
        stays = rejected[..., None] & lin.value.isfinite().all(-1, keepdim=True)  # what is not finite the loop resets
        return d.masked_fill_(stays, 0), Trust(k, carry.rejected + rejected)


def _extent(lin: Linearization) -> Tensor:
    """The largest range of a coordinate over the open rows, or the largest residual if that is more, `(*batch)`."""
    value, inside = lin.value, lin.open & lin.value.isfinite()
    high = torch.where(inside, value, -torch.inf).amax(0)
    low = torch.where(inside, value, torch.inf).amin(0)
    return torch.maximum((high - low).amax(-1), _largest(lin.residual.nan_to_num(0, 0, 0)))


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax((0, -1))
