"""Newton's method for implicit steps on all steps at once: linearize along the guess, solve by one scan, repeat.

`solve` wants a recurrence with explicit values. An implicit step has none, but linearized along a guess of both its
ends it is one, `y_1 = value + A (y_0 - guess_0)`, linear and the same for all methods. So every iteration is a `solve`
of that recurrence with a single update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lds_iter.derivatives.autodiff import FunctionDerivatives
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.refusals import Refusals
from lds_iter.methods.base import LDSApproximation
from lds_iter.ode.field import Field
from lds_iter.ode.implicit import AbstractImplicit
from lds_iter.ode.stopping import AtRounding
from lds_iter.solution import Progress, Result, Solution
from lds_iter.solve import solve


@dataclass(frozen=True)
class AffineDerivatives(AbstractDerivatives):
    """Of `s -> value + A (s - before)`, at the rows at hand."""

    value: Tensor
    matrix: Tensor

    def jvp(self, v: Tensor) -> Tensor:
        return (self.matrix @ v.unsqueeze(-1)).squeeze(-1)

    def vjp(self, w: Tensor) -> Tensor:
        return (self.matrix.mT @ w.unsqueeze(-1)).squeeze(-1)

    def jacobian(self) -> Tensor:
        return self.matrix

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal(dim1=-2, dim2=-1)

    def block_diagonal(self, size: int) -> Tensor:
        count = self.matrix.shape[-1] // size
        blocks = self.matrix.unflatten(-2, (count, size)).unflatten(-1, (count, size))
        return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


class Anchored:
    """The recurrence `f(s, (guess_0, value, A)) = value + A (s - guess_0)`."""

    is_linear = True

    def __call__(self, s: Tensor, anchor: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return self.linearize(s, anchor).value

    def linearize(self, s: Tensor, anchor: tuple[Tensor, Tensor, Tensor]) -> AffineDerivatives:
        before, value, matrix = anchor
        return AffineDerivatives(value + (matrix @ (s - before).unsqueeze(-1)).squeeze(-1), matrix)


def solve_implicit(
    method: AbstractImplicit,
    field: Field,
    s0: Tensor,
    steps: tuple[Tensor, Tensor],
    guess: Tensor,
    approximation: LDSApproximation,
    rtol: float,
    atol: float,
    max_iters: int,
    callback: Callable[[Progress], object] | None,
) -> Solution:
    """All states of an implicit method, without gradients: corrections within `atol + rtol |y|`."""
    states, rounding, age = guess.contiguous(), AtRounding(), 0
    iterations = torch.zeros_like(s0[..., 0], dtype=torch.int64)
    while True:
        before = torch.cat([s0.unsqueeze(0), states[:-1]])
        matrix, correction = method.linearized(field, *steps, before, states)
        residual = correction.abs().amax((0, -1))
        within = (correction.abs() <= atol + rtol * (states + correction).abs()).all(-1).all(0)
        broken = ~(correction.isfinite().all(-1) & matrix.isfinite().all(-1).all(-1)).all(0)
        result = torch.where(within | rounding.ended(residual, states), int(Result.SUCCESS), int(Result.RUNNING))
        moves = (result == int(Result.RUNNING)) & ~broken
        if callback is not None:
            callback(_progress(age, iterations, residual, result, states, correction))
        more = age < max_iters and bool(moves.any())
        frozen = broken | (~moves if more else torch.zeros_like(broken))
        matrix = torch.where(frozen[..., None, None], 0, matrix)
        value = torch.where(frozen[..., None], states, states + correction)
        limit = 1 if more else 0  # without an update, for the estimate of the error that comes with a solution
        step = solve(Anchored(), s0, (before, value, matrix), approximation, guess=states, rtol=0, atol=0,
                     max_iters=limit, throw=False)  # fmt: skip
        if not more:
            result = result.masked_fill(result == int(Result.RUNNING), int(Result.MAX_ITERS))
            return replace(step, iterations=iterations, result=result, residual=residual, evaluations=iterations + 1)
        states, iterations, age = step.states, iterations + moves, age + 1


def _progress(
    age: int, iterations: Tensor, residual: Tensor, result: Tensor, states: Tensor, correction: Tensor
) -> Progress:
    nothing = torch.zeros_like(iterations)
    return Progress(age, iterations, nothing, residual, result, nothing, None, states.clone, correction.clone)


class Attached:
    """An implicit method around its solution, as a recurrence whose derivatives are those of the solution.

    `f(s, (t, h, solution, K^-1)) = solution - K^-1 G(s, solution)`: its value at the solution is the solution, and by
    the implicit function theorem its derivatives with respect to the state before, the parameters of the field and the
    times are those of the step, since what `K^-1` depends on is multiplied by `G = 0`.
    """

    def __init__(self, method: AbstractImplicit, field: Field) -> None:
        self.method, self.field = method, field

    def __call__(self, s: Tensor, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        t, h, after, inverse = inputs
        unmet = self.method.equation(self.field, t, h, s, after)
        return after - (inverse @ unmet.unsqueeze(-1)).squeeze(-1)

    @property
    def refusals(self) -> Refusals:
        """Those of the field."""
        return self.field.refusals


def attached(
    method: AbstractImplicit, field: Field, s0: Tensor, steps: tuple[Tensor, Tensor], states: Tensor
) -> tuple[Attached, tuple[Tensor, ...]]:
    """An implicit method around its solution as a recurrence, and its inputs."""
    with torch.no_grad():
        before = torch.cat([s0.unsqueeze(0), states[:-1]])
        left = FunctionDerivatives(
            lambda after, u: method.equation(field, *u, after),  # pyright: ignore[reportCallIssue]
            states, (*steps, before), field.refusals,
        )  # fmt: skip
        return Attached(method, field), (*steps, states, torch.linalg.inv_ex(left.jacobian())[0])
