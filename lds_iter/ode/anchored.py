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

from lds_iter.derivatives.linearization import AbstractDerivatives, FunctionDerivatives
from lds_iter.errors import SolveError
from lds_iter.methods.base import LDSApproximation
from lds_iter.ode.field import Field
from lds_iter.ode.implicit import AbstractImplicit
from lds_iter.ode.stopping import AtRounding
from lds_iter.solution import Progress, Result, Solution
from lds_iter.solve import solve

MOST_ITERATIONS = 100
"""The limit when none is given; unlike `solve`, this iteration has no guarantee to end."""


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


@dataclass(frozen=True)
class ImplicitRules:
    """How to iterate: the tolerances on a step's correction, the limit, the steps solved together, who watches."""

    rtol: float
    atol: float
    max_iters: int
    window: int
    callback: Callable[[Progress], object] | None


def solve_implicit(
    method: AbstractImplicit,
    field: Field,
    s0: Tensor,
    steps: tuple[Tensor, Tensor],
    guess: Tensor,
    approximation: LDSApproximation,
    rules: ImplicitRules,
) -> Solution:
    """All states of an implicit method, without gradients; windows are solved one after the other.

    Raises:
        SolveError: never; see `Solution.result`.
    """
    found: list[Solution] = []
    for first in range(0, len(steps[0]), rules.window):
        rows = slice(first, first + rules.window)
        some = (steps[0][rows], steps[1][rows])
        found.append(_block(method, field, s0, some, guess[rows], approximation, rules))
        s0 = found[-1].states[-1]
    if len(found) == 1:
        return found[0]
    iterations = torch.stack([part.iterations for part in found]).sum(0)
    result = torch.stack([part.result for part in found]).amax(0)
    residual = torch.stack([part.residual for part in found]).amax(0)
    states = torch.cat([part.states for part in found])
    evaluations = torch.stack([part.evaluations for part in found]).sum(0)
    return replace(
        found[-1], states=states, iterations=iterations, result=result, residual=residual, evaluations=evaluations
    )


def _block(
    method: AbstractImplicit,
    field: Field,
    s0: Tensor,
    steps: tuple[Tensor, Tensor],
    guess: Tensor,
    approximation: LDSApproximation,
    rules: ImplicitRules,
) -> Solution:
    states, rounding = guess, AtRounding(guess.abs().amax((0, -1)).maximum(s0.abs().amax(-1)))
    iterations = torch.zeros_like(s0[..., 0], dtype=torch.int64)
    age = 0
    while True:
        before = torch.cat([s0.unsqueeze(0), states[:-1]])
        matrix, correction = method.linearized(field, *steps, before, states)
        result = _results(matrix, correction, states, rules, rounding)
        residual = correction.abs().amax((0, -1))
        if rules.callback is not None:
            rules.callback(Progress(age, iterations, torch.zeros_like(iterations), residual, result))
        moves = result == int(Result.RUNNING)
        more = age < rules.max_iters and bool(moves.any())
        frozen = ~moves & more | (result == int(Result.NONFINITE))
        matrix = torch.where(frozen[..., None, None], 0, matrix)
        value = torch.where(frozen[..., None], states, states + correction)
        limit = 1 if more else 0  # without an update, for the estimate of the error that comes with a solution
        step = solve(Anchored(), s0, (before, value, matrix), approximation, guess=states, rtol=0, atol=0,
                     max_iters=limit, throw=False)  # fmt: skip
        if not more:
            result = result.masked_fill(moves, int(Result.MAX_ITERS))
            return replace(step, iterations=iterations, result=result, residual=residual, evaluations=iterations + 1)
        states, iterations, age = step.states, iterations + moves, age + 1


def _results(
    matrix: Tensor, correction: Tensor, states: Tensor, rules: ImplicitRules, rounding: AtRounding
) -> Tensor:
    """What has become of every sequence, `(*batch)`: `RUNNING` for those that go on."""
    broken = ~(correction.isfinite().all(-1) & matrix.isfinite().all(-1).all(-1)).all(0)
    within = (correction.abs() <= rules.atol + rules.rtol * (states + correction).abs()).all(-1).all(0)
    done = within | rounding.ended(correction.abs().amax((0, -1)))
    result = torch.where(done, int(Result.SUCCESS), int(Result.RUNNING))
    return result.masked_fill(broken, int(Result.NONFINITE))


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


def attached(
    method: AbstractImplicit, field: Field, s0: Tensor, steps: tuple[Tensor, Tensor], states: Tensor
) -> tuple[Attached, tuple[Tensor, ...]]:
    """An implicit method around its solution as a recurrence, and its inputs."""
    with torch.no_grad():
        before = torch.cat([s0.unsqueeze(0), states[:-1]])
        left = FunctionDerivatives(lambda after, u: method.equation(field, *u, after), states, (*steps, before))
        return Attached(method, field), (*steps, states, torch.linalg.inv_ex(left.jacobian())[0])


def explain(solution: Solution, max_iters: int) -> SolveError:
    """The error of an implicit solve that did not converge."""
    results = {Result(int(code)).name for code in solution.result.unique()}
    return SolveError(
        f"The implicit steps were not solved in {max_iters} iterations ({'/'.join(sorted(results))}, residual "
        f"{float(solution.residual.max()):.3g}). In order of likelihood: the guess is too far away, type `window=64` "
        "to solve the steps in turns; the steps are too large, type options={'substeps': 10}; `func` is not finite on "
        "the way. `window=1` takes one step after the other.",
        solution,
    )
