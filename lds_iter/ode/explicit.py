"""Explicit Runge-Kutta steps: `y_1 = y_0 + h sum_i b_i k_i`, `k_i = func(t + c_i h, y_0 + h sum_j a_ij k_j)`.

Such a step is a recurrence as `solve` takes it: its inputs are the time and the size of every step. The tableaus are
those of torchdiffeq's methods of the same names; its `rk4` is Kutta's 3/8 rule (Hairer, Norsett, Wanner, "Solving
Ordinary Differential Equations I", 1993, table 1.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lds_iter.derivatives.refusals import Refusals
from lds_iter.ode.field import Field


@dataclass(frozen=True)
class ExplicitRungeKutta:
    """A tableau of Butcher's.

    Attributes:
        a: for each stage after the first, the weights of the slopes before it.
        b: the weights of all slopes in the step.
        c: the times of the stages after the first, in units of the step.
        order: of the global error in the step size.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    order: int

    def step(self, field: Field, t: Tensor, h: Tensor, s: Tensor) -> Tensor:
        """One step from every row: times `t` and sizes `h`, `(n)`, states `s`, `(n, *batch, D)`."""
        size = h.to(s.dtype).view(-1, *[1] * (s.ndim - 1))
        slopes = [field(t, s)]
        for weights, c in zip(self.a, self.c, strict=True):
            slopes.append(field(t + c * h, s + size * weighted(weights, slopes)))
        return s + size * weighted(self.b, slopes)


def weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape, each times its weight."""
    terms = [slope if weight == 1 else weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    return sum(terms[1:], terms[0])


@dataclass(frozen=True)
class ExplicitStep:
    """The recurrence `f(s, (t, h))` of an explicit method."""

    field: Field
    method: ExplicitRungeKutta

    def __call__(self, s: Tensor, times: tuple[Tensor, Tensor]) -> Tensor:
        return self.method.step(self.field, *times, s)

    @property
    def refusals(self) -> Refusals:
        """Those of the field, which all solves of these steps share."""
        return self.field.refusals


EULER = ExplicitRungeKutta((), (1.0,), (), 1)
MIDPOINT = ExplicitRungeKutta(((1 / 2,),), (0.0, 1.0), (1 / 2,), 2)
HEUN2 = ExplicitRungeKutta(((1.0,),), (1 / 2, 1 / 2), (1.0,), 2)
HEUN3 = ExplicitRungeKutta(((1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4), (1 / 3, 2 / 3), 3)
RK4 = ExplicitRungeKutta(
    ((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8), (1 / 3, 2 / 3, 1.0), 4
)
