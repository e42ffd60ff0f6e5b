"""Implicit one-step methods, as equations `G(y_0, y_1) = 0` between the two ends of every step.

Newton's method on all steps at once needs no iteration within a step: along a guess of the whole trajectory, with
`K = dG/dy_1` and `R = -dG/dy_0`,

    y_1 = guess_1 - K^-1 G + A (y_0 - guess_0)          A = K^-1 R

is a linear recurrence, and one scan solves it (Iacob, Razavi, Sarkka: "A parallel-in-time Newton's method for
nonlinear ODEs", arXiv 2511.01465). What changes from method to method is G, and where the Jacobians `J` of the field
are taken. The exponential method is the continuous form of DEER (Lim, Zhu, Selfridge, Kasim, ICLR 2024, section 3.3):
the field is linear around the midpoint of the step, `v = func(t_m, y_m) + J_m (y_0 - y_m)`, and that equation is
solved exactly,

    G = y_1 - y_0 - h phi(h J_m) v          phi(z) = (e^z - 1) / z          A = e^(h J_m), K = I

with the field's Jacobian held fixed, as in the paper, so that no second derivative is needed while iterating.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.ode.field import Field


class AbstractImplicit(ABC):
    """An equation between the ends of a step. Times `t` and sizes `h`: `(n)`; states: `(n, *batch, D)`.

    Attributes:
        order: of the global error in the step size.
    """

    order: int

    @abstractmethod
    def equation(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """`G`, `(n, *batch, D)`; differentiable in all that it is made of."""

    @abstractmethod
    def linearized(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Along a guess: the matrices `A`, `(n, *batch, D, D)`, and the corrections `-K^-1 G`, `(n, *batch, D)`."""


@dataclass(frozen=True)
class ImplicitEuler(AbstractImplicit):
    """`y_1 = y_0 + h func(t_1, y_1)`: order 1, for stiff equations."""

    order = 1

    def equation(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return after - before - rowwise(h, after) * field(t + h, after)

    def linearized(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        slope, jacobian = field.linearize(t + h, after)
        identity = torch.eye(after.shape[-1], dtype=after.dtype, device=after.device)
        left = identity - rowwise(h, jacobian) * jacobian
        return _eliminated(left, identity.expand_as(left), after - before - rowwise(h, after) * slope)


@dataclass(frozen=True)
class ImplicitMidpoint(AbstractImplicit):
    """`y_1 = y_0 + h func(t_m, (y_0 + y_1) / 2)`: order 2, symplectic."""

    order = 2

    def equation(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return after - before - rowwise(h, after) * field(t + h / 2, (before + after) / 2)

    def linearized(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        slope, jacobian = field.linearize(t + h / 2, (before + after) / 2)
        identity = torch.eye(after.shape[-1], dtype=after.dtype, device=after.device)
        half = rowwise(h / 2, jacobian) * jacobian
        return _eliminated(identity - half, identity + half, after - before - rowwise(h, after) * slope)


@dataclass(frozen=True)
class Trapezoid(AbstractImplicit):
    """`y_1 = y_0 + h (func(t_0, y_0) + func(t_1, y_1)) / 2`: order 2, A-stable."""

    order = 2

    def equation(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return after - before - rowwise(h / 2, after) * (field(t, before) + field(t + h, after))

    def linearized(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        early, early_jacobian = field.linearize(t, before)
        late, late_jacobian = field.linearize(t + h, after)
        identity = torch.eye(after.shape[-1], dtype=after.dtype, device=after.device)
        half = rowwise(h / 2, late_jacobian)
        unmet = after - before - rowwise(h / 2, after) * (early + late)
        return _eliminated(identity - half * late_jacobian, identity + half * early_jacobian, unmet)


@dataclass(frozen=True)
class ExponentialMidpoint(AbstractImplicit):
    """DEER's continuous form: the field linearized at the midpoint of the step, solved by a matrix exponential."""

    order = 2

    def equation(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return after - before - self._increment(field, t, h, before, after)[1]

    def linearized(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        exponential, increment = self._increment(field, t, h, before, after)
        return exponential, before + increment - after

    def _increment(self, field: Field, t: Tensor, h: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """`e^(hJ)` and `h phi(hJ) v`, both from the exponential of `[[hJ, hv], [0, 0]]`, which needs no inverse."""
        middle = (before + after) / 2
        slope, jacobian = field.linearize(t + h / 2, middle)
        v = slope + (jacobian @ (before - middle).unsqueeze(-1)).squeeze(-1)
        block = torch.cat([jacobian, v.unsqueeze(-1)], -1) * rowwise(h, jacobian)
        exponential = torch.linalg.matrix_exp(torch.nn.functional.pad(block, (0, 0, 0, 1)))
        return exponential[..., :-1, :-1], exponential[..., :-1, -1]


def rowwise(h: Tensor, like: Tensor) -> Tensor:
    """One number per row, in the type of `like` and with as many dimensions."""
    return h.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def _eliminated(left: Tensor, right: Tensor, unmet: Tensor) -> tuple[Tensor, Tensor]:
    """`K^-1 R` and `-K^-1 G`, by one factorization; NaN where K is singular, as sequences must not feel each other."""
    found, _ = torch.linalg.solve_ex(left, torch.cat([right, -unmet.unsqueeze(-1)], -1))
    return found[..., :-1], found[..., -1]
