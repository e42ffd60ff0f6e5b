"""Levenberg-Marquardt: Newton's step, held back where it would be large, computed by Kalman's equations.

Newton's update solves `d_t = J_t d_{t-1} + r_t`. Where products of the Jacobians grow it is huge, and far outside the
region in which the linear model means anything. The Levenberg-Marquardt step minimises

    sum_t |d_t - J_t d_{t-1} - r_t|^2 + 1/sigma^2 sum_t |d_t|^2

instead. That is the most likely path of the linear model `d_t = J_t d_{t-1} + r_t + w_t` with process noise `w_t` of
variance 1 when `d_t = 0` is observed with noise of variance `sigma^2`: a Kalman smoother computes it, and a Kalman
filter, the smoother's forward half, is cheaper and on recurrences the better step (ELK: Gonzalez, Warrington, Smith,
Linderman, "Towards scalable and stable parallelization of nonlinear RNNs", NeurIPS 2024, whose theory is the smoother
and whose code is the filter; parallel in time by Sarkka and Garcia-Fernandez, IEEE TAC 2021).

With `q = 1 / sigma^2`, the gain `K_t` of `kalman`, and `G_t = I - K_t`:

    filter      d_t = G_t J_t d_{t-1} + G_t r_t          a scan forward
    smoother    w_t = J_t^T (d_t + G_t w_{t+1})          a scan backward (Bryson and Frazier 1963), then
                d_t <- d_t - K_t w_{t+1}

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
from lds_iter.linear.transitions import (
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    ScaledIdentity,
    Zero,
)
from lds_iter.methods.arguments import check_instance, check_number, check_transition_method, fix
from lds_iter.methods.base import Dampable, LDSApproximation, StatefulTransition, checked_choice
from lds_iter.methods.kalman import Gainable, kalman_gains
from lds_iter.methods.newton import Newton
from lds_iter.methods.spelling import Composable

LEAST_DAMPING = 1e-6
"""The damping of an undamped row in a sequence whose other rows are damped: 0 is not allowed there."""


class KalmanForm(Composable, ABC):
    """The estimate of Kalman's that serves as the update."""

    @abstractmethod
    def update(self, lin: Linearization, transition: Gainable, precision: Tensor) -> Tensor:
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

    def update(self, lin: Linearization, transition: Gainable, precision: Tensor) -> Tensor:
        done = None if lin.over_time.is_shared else compiled.filtered(transition, lin.residual, precision, lin._behind)
        return _by_scans(_filtered, lin, transition, precision) if done is None else done


@dataclass(frozen=True)
class Smoother(KalmanForm):
    """The estimate of `d_t` from all rows: the Levenberg-Marquardt step, which minimises the damped sum of squares."""

    def update(self, lin: Linearization, transition: Gainable, precision: Tensor) -> Tensor:
        done = None if lin.over_time.is_shared else compiled.smoothed(transition, lin.residual, precision, lin._behind)
        return _by_scans(_smoothed, lin, transition, precision) if done is None else done


@dataclass(frozen=True)
class LevenbergMarquardt(Dampable):
    """A damped Newton or quasi-Newton step by Kalman's equations, for dynamics at the edge of stability.

    Minimises `sum_t |d_t - J_t d_{t-1} - r_t|^2 + |d_t|^2 / sigma2`, exactly (`Smoother()`) or forward in time
    (`Filter()`). `sigma2` to infinity is the method of `approximation` itself, to zero the guess does not move. An
    iteration costs up to about twice what `approximation` costs from the same Jacobians where compiled code serves (on
    a CPU), with `Smoother()` three times, else several times more; sees all rows of the window at once.

    Attributes:
        sigma2: the variance of the observation `d_t = 0`, in units of that of the process noise: weaker damping for
            larger numbers. Useful ones lie between 1 and 1e8, and depend on problem and T.
        approximation: chooses the Jacobian or what stands for it: `Newton()`, `QuasiNewton()`, `BlockNewton(k)`,
            `Picard()`, or any method that chooses a transition. Gains of a structure other than `Dense`,
            `BlockDiagonal`, `Diagonal` and multiples of the identity are computed in full matrices, T D^2 numbers.
        form: `Filter()`, as released, or `Smoother()`, as in theory.

    Raises:
        TypeError: when `approximation` does not choose a transition, or `form` is no form.
        ValueError: when `sigma2` is no finite number above 0.
    """

    sigma2: float
    approximation: StatefulTransition = field(default_factory=Newton)
    form: KalmanForm = field(default_factory=Filter)

    def __post_init__(self) -> None:
        try:
            sigma2 = check_number("sigma2", self.sigma2, 0, math.inf, open_low=True)
        except ValueError:
            sigma2 = math.inf
        if sigma2 == math.inf or 1 / sigma2 > torch.finfo(torch.float32).max:
            raise ValueError(
                f"`sigma2` must be a finite number above 0, got {self.sigma2!r}. For no damping at all type the method "
                "itself, such as li.Newton()."
            )
        fix(self, sigma2=sigma2)
        check_transition_method("approximation", self.approximation)
        check_instance("form", self.form, KalmanForm, "Filter() or Smoother()")

    def for_adjoint(self) -> LDSApproximation:
        return self.approximation.for_adjoint()

    def init(self, guess: Tensor) -> Any:
        return self.approximation.init(guess)

    def update(self, lin: Linearization, carry: Any) -> tuple[Tensor, Any]:
        transition, carry = self._chosen(lin, carry)
        return self.form.update(lin, transition, lin.residual.new_full((), 1 / self.sigma2)), carry

    def damped_updates(self, lin: Linearization, carry: Any) -> tuple[Callable[[Tensor], Tensor], Any]:
        transition, carry = self._chosen(lin, carry)

        def damped(k: Tensor) -> Tensor:
            if k.ndim == lin.residual.ndim - 1:  # in a sequence no row may have a weight of 0, or all
                k = torch.where(lin.over_time.largest(k) > 0, k.clamp(min=LEAST_DAMPING), 0)
            return self.form.update(lin, transition, k / (1 - k))

        return damped, carry

    def negligible_damping(self, eps: float) -> float:
        return eps**2  # a precision bounds products of Jacobians by the root of its inverse; it is none at `1 / eps`

    def damped(self, lin: Linearization, precision: Tensor) -> Tensor:
        """The update with another damping, for methods that choose it as they go.

        Args:
            lin: `f` along the current guess.
            precision: `1 / sigma^2` in place of this object's, `(*batch)` or `()`; 0 does not damp at all. Or one per
                row, `(n, *batch)`, the weight of `|d_t|^2` in the sum; then 0 in all rows of a sequence or in none.

        Returns:
            `d`, of the shape of `lin.residual`.
        """
        return self.form.update(lin, self._chosen(lin, self.init(lin.states))[0], precision)

    def _chosen(self, lin: Linearization, carry: Any) -> tuple[Gainable, Any]:
        transition, carry = checked_choice(self.approximation, lin, carry)
        match transition:
            case Dense() | BlockDiagonal() | Diagonal():
                return transition, carry
            case ScaledIdentity() | Identity() | Zero():
                return Diagonal(transition.mv(torch.ones_like(lin.residual))), carry
            case _:
                return transition.dense(lin.residual), carry


def _by_scans(
    run: Callable[[Linearization, Gainable, Tensor], Tensor],
    lin: Linearization,
    transition: Gainable,
    precision: Tensor,
) -> Tensor:
    """An update where compiled code does not serve. Scans take the weight of the observation as their unit of d, which
    must be the same in all rows: so they find `sqrt(q_t) d_t`, whose Jacobians are `sqrt(q_t / q_{t-1}) J_t`."""
    if precision.ndim < lin.residual.ndim - 1:
        return run(lin, transition, precision)
    root = torch.where(precision > 0, precision, 1).sqrt().unsqueeze(-1)
    change = root / lin.over_time.previous(root, root[:1])
    return run(replace(lin, residual=root * lin.residual), transition.scaled(change), precision) / root


def _gains(lin: Linearization, transition: Gainable, precision: Tensor) -> tuple[Gainable, Gainable]:
    """`G_t` and `K_t`; I and 0 up to the frontier row, and in sequences without damping."""
    q = torch.where(lin._behind, precision.unsqueeze(-1), 0)
    return kalman_gains(transition, q, lin.over_time.from_earlier if lin.over_time.is_shared else None)


def _filtered(lin: Linearization, transition: Gainable, precision: Tensor) -> Tensor:
    keep, _ = _gains(lin, transition, precision)
    return lin.scan(keep.after(transition), keep.mv(lin.residual))


def _smoothed(lin: Linearization, transition: Gainable, precision: Tensor) -> Tensor:
    transition = transition.scaled(lin._behind.to(lin.residual.dtype))
    keep, gain = _gains(lin, transition, precision)
    filtered = lin.scan(keep.after(transition), keep.mv(lin.residual))
    back = transition.transpose()
    ahead = lin.over_time.following(lin.scan(back.after(keep), back.mv(filtered), reverse=True))
    return filtered - gain.mv(ahead)
