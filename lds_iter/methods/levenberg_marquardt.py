"""Levenberg-Marquardt: Newton's step, held back where it would be large, computed by Kalman's equations.

Newton's update solves `d_t = J_t d_{t-1} + r_t`. Where products of the Jacobians grow it is huge, and far outside the
region in which the linear model means anything. The Levenberg-Marquardt step minimises

    sum_t |d_t - J_t d_{t-1} - r_t|^2 + 1/sigma^2 sum_t |d_t|^2

instead. That is the most likely path of the linear model `d_t = J_t d_{t-1} + r_t + w_t` with process noise `w_t` of
variance 1 when `d_t = 0` is observed with noise of variance `sigma^2`: a Kalman smoother computes it, and a Kalman
filter, the smoother's forward half, is cheaper and on recurrences the better step (ELK: Gonzalez, Warrington, Smith,
Linderman, "Towards scalable and stable parallelization of nonlinear RNNs", NeurIPS 2024, whose theory is the smoother
and whose code is the filter; parallel in time by Sarkka and Garcia-Fernandez, IEEE TAC 2021).

With `q = 1 / sigma^2`, the gain `K_t` of `kalman_scan`, and `G_t = I - K_t`:

    filter      d_t = G_t J_t d_{t-1} + G_t r_t          a scan forward
    smoother    z_t = d_t + G_t J_{t+1}^T z_{t+1}        a scan backward (Bryson and Frazier 1963), then
                d_t <- d_t - K_t J_{t+1}^T z_{t+1}

In matrices, `L = I - shift(J)`: the smoother's step is `(L^T L + q I)^{-1} L^T r = L^T (L L^T + q I)^{-1} r`, and the
filter is the forward half of eliminating the block tridiagonal `L L^T + q I`, whose pivots are `G_t^{-1}`. The gains
depend on the Jacobians alone. Diagonal and block diagonal Jacobians have gains of the same structure.

The papers' prior knows only the state before the first row. Here it knows the frontier row p, whose value is exact:
`d` is 0 before it, `d_p = r_p`, and the covariance there is 0. In the papers an accepted prefix is pulled at by every
later row, and the first error shrinks by `1 / (1 + sigma^2)` an iteration at best; here T iterations suffice.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.kernels.cpu import kalman as compiled
from lds_iter.methods.arguments import check_instance, check_transition_method
from lds_iter.methods.base import LDSApproximation, TransitionApproximation
from lds_iter.methods.kalman_filter import filtered
from lds_iter.methods.kalman_scan import Gains, headed, kalman_gains
from lds_iter.methods.newton import Newton
from lds_iter.scan.transitions import (
    AbstractTransition,
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    ScaledIdentity,
    Zero,
    leaves,
    map_leaves,
    scaled,
)


class KalmanForm(ABC):
    """Which of Kalman's estimates is the update."""

    @abstractmethod
    def update(self, lin: Linearization, transition: Dense | BlockDiagonal | Diagonal, precision: Tensor) -> Tensor:
        """The damped update of the rows at hand.

        Args:
            lin: `f` along the current guess.
            transition: `J_t` or what stands for it, as `Dense`, `BlockDiagonal` or `Diagonal`.
            precision: `1 / sigma^2` per sequence, `(*batch)` or `()`, or per row, `(n, *batch)`; 0 does not damp.

        Returns:
            `d`, of the shape of `lin.residual`.
        """


@dataclass(frozen=True)
class Filter(KalmanForm):
    """The estimate of `d_t` from the rows up to t: what ELK's released code and published figures are."""

    def update(self, lin: Linearization, transition: Dense | BlockDiagonal | Diagonal, precision: Tensor) -> Tensor:
        done = compiled.filtered(transition, lin.residual, precision, lin._behind)
        return _by_scans(self._in_parallel, lin, transition, precision) if done is None else done

    @staticmethod
    def _in_parallel(lin: Linearization, transition: AbstractTransition, precision: Tensor) -> Tensor:
        if torch.is_grad_enabled() or isinstance(transition, Diagonal):
            keep = _gains(lin, transition, precision).keep
            return lin.scan(keep.after(transition), keep.mv(lin.residual))
        return _filtered(lin, transition, precision)


@dataclass(frozen=True)
class Smoother(KalmanForm):
    """The estimate of `d_t` from all rows: the Levenberg-Marquardt step, which minimises the damped sum of squares."""

    def update(self, lin: Linearization, transition: Dense | BlockDiagonal | Diagonal, precision: Tensor) -> Tensor:
        done = compiled.smoothed(transition, lin.residual, precision, lin._behind)
        return _by_scans(self._in_parallel, lin, transition, precision) if done is None else done

    @staticmethod
    def _in_parallel(lin: Linearization, transition: AbstractTransition, precision: Tensor) -> Tensor:
        transition = scaled(transition, lin._behind.to(lin.residual.dtype))
        gains = _gains(lin, transition, precision)
        keep, gain = gains.keep, gains.gain
        filtered = lin.scan(keep.after(transition), keep.mv(lin.residual))
        ahead = map_leaves(lambda leaf: torch.cat([leaf[1:], torch.zeros_like(leaf[:1])]), transition.transpose())
        z = lin.scan(keep.after(ahead), filtered, reverse=True)
        return filtered - gain.mv(ahead.mv(torch.cat([z[1:], torch.zeros_like(z[:1])])))


@dataclass(frozen=True)
class LevenbergMarquardt(LDSApproximation):
    """A damped Newton or quasi-Newton step by Kalman's equations, for dynamics at the edge of stability.

    Minimises `sum_t |d_t - J_t d_{t-1} - r_t|^2 + |d_t|^2 / sigma2`, exactly (`Smoother()`) or forward in time
    (`Filter()`). `sigma2` to infinity is the method of `approximation` itself, to zero the guess does not move. An
    iteration costs up to about twice what `approximation` costs from the same Jacobians where compiled code serves (on
    a CPU), with `Smoother()` three times, else up to four and ten times; sees all rows of the window at once.

    Attributes:
        sigma2: the variance of the observation `d_t = 0`, in units of that of the process noise: weaker damping for
            larger numbers. Useful ones lie between 1 and 1e8, and depend on problem and T.
        approximation: chooses the Jacobian or what stands for it: `Newton()`, `QuasiNewton()`, `BlockNewton(k)`,
            `Picard()`, or any method whose transition is `Dense`, `BlockDiagonal`, `Diagonal`, `ScaledIdentity`,
            `Identity` or `Zero`.
        form: `Filter()`, as released, or `Smoother()`, as in theory.
    """

    sigma2: float
    approximation: TransitionApproximation = field(default_factory=Newton)
    form: KalmanForm = field(default_factory=Filter)

    def __post_init__(self) -> None:
        number = isinstance(self.sigma2, int | float) and not isinstance(self.sigma2, bool)
        if not number or not 0 < self.sigma2 < math.inf:
            raise ValueError(
                f"`sigma2` must be a finite number above 0, got {self.sigma2!r}. For no damping at all type the method "
                "itself, such as li.Newton()."
            )
        check_transition_method("approximation", self.approximation)
        check_instance("form", self.form, KalmanForm, "Filter() or Smoother()")

    def for_adjoint(self) -> LDSApproximation:
        return self.approximation.for_adjoint()

    def init(self, guess: Tensor) -> None:
        return None

    def update(self, lin: Linearization, carry: Any) -> tuple[Tensor, Any]:
        return self.damped(lin, lin.residual.new_full((), 1 / self.sigma2)), carry

    def damped(self, lin: Linearization, precision: Tensor) -> Tensor:
        """The update with another damping, for methods that choose it as they go.

        Args:
            lin: `f` along the current guess.
            precision: `1 / sigma^2` in place of this object's, `(*batch)` or `()`; 0 does not damp at all. Or one per
                row, `(n, *batch)`, the weight of `|d_t|^2` in the sum; then 0 in all rows of a sequence or in none.

        Returns:
            `d`, of the shape of `lin.residual`.
        """
        transition = _with_known_structure(self.approximation, lin)
        return self.form.update(lin, transition, precision)


def _by_scans(
    run: Callable[[Linearization, AbstractTransition, Tensor], Tensor],
    lin: Linearization,
    transition: AbstractTransition,
    precision: Tensor,
) -> Tensor:
    """An update where compiled code does not serve. Scans take the weight of the observation as their unit of d, which
    must be the same in all rows: so they find `sqrt(q_t) d_t`, whose Jacobians are `sqrt(q_t / q_{t-1}) J_t`."""
    if precision.ndim < lin.residual.ndim - 1:
        return run(lin, transition, precision)
    root = torch.where(precision > 0, precision, 1).sqrt().unsqueeze(-1)
    change = root / torch.cat([root[:1], root[:-1]])
    return run(replace(lin, residual=root * lin.residual), scaled(transition, change), precision) / root


def _gains(lin: Linearization, transition: AbstractTransition, precision: Tensor) -> Gains:
    """`G_t` and `K_t`; I and 0 up to the frontier row, and in sequences without damping."""
    return kalman_gains(
        transition, torch.where(lin._behind, precision.unsqueeze(-1), 0), [(slice(0, lin.residual.shape[0]), 0)]
    )


def _filtered(lin: Linearization, transition: AbstractTransition, precision: Tensor) -> Tensor:
    """The filter's estimates for full matrices, or for blocks as if each were a sequence of its own."""
    (j,), free = leaves(transition), lin._behind
    q = torch.where(free, precision.unsqueeze(-1), 0)
    if isinstance(transition, BlockDiagonal):
        free, q = (x.expand(j.shape[:-2]) for x in (free, q))
    n, size = j.shape[0], j.shape[-1]
    parts = j.reshape(n, -1, size, size), lin.residual.reshape(n, -1, size), q.reshape(n, -1, 1), free.reshape(n, -1, 1)
    found, gain, before = [], torch.zeros_like(parts[0][0]), torch.zeros_like(parts[1][0])
    for rows, missing in [(slice(0, lin.residual.shape[0]), 0)]:
        part_j, r, part_q, part_free = (headed(x[rows], missing) for x in parts)
        d, gain = filtered(part_j, r, part_q, ~part_free, gain, before)
        before = d[-1]
        found.append(d[missing:])
    return torch.cat(found).view_as(lin.residual)


def _with_known_structure(method: TransitionApproximation, lin: Linearization) -> Dense | BlockDiagonal | Diagonal:
    transition = method.transition(lin)
    match transition:
        case Dense() | BlockDiagonal() | Diagonal():
            return transition
        case ScaledIdentity() | Identity() | Zero():
            return Diagonal(transition.mv(torch.ones_like(lin.residual)))
        case _:
            raise TypeError(
                "LevenbergMarquardt knows the gains of the structures Dense, BlockDiagonal, Diagonal, ScaledIdentity, "
                f"Identity and Zero, but {method!r} chose {type(transition).__name__}. Return one of these, such as "
                "li.Dense(matrices), or use the method without LevenbergMarquardt."
            )
