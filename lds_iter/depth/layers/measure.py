"""What an iteration over depth does, iterate by iterate, and how much the stack contracts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.depth.layers.recurrence import DepthRecurrence
from lds_iter.derivatives.autodiff import FunctionDerivatives
from lds_iter.derivatives.linearization import Linearization
from lds_iter.derivatives.refusals import Refusals
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import spelled
from lds_iter.recurrence import take_rows


@dataclass(frozen=True)
class ErrorsKept(LDSApproximation):
    """A method, unchanged, with the relative error of every iterate at every depth.

    Attributes:
        method: what to watch.
        exact: the states to compare with, `(T, *batch, D)`.
        errors: a line `(T,)` per iterate, the guess first; filled while it runs.
    """

    method: LDSApproximation
    exact: Tensor
    errors: list[Tensor] = field(default_factory=list)

    def init(self, guess: Tensor) -> Any:
        return self.method.init(guess)

    def update(self, lin: Linearization, carry: Any) -> tuple[Tensor, Any]:
        self.errors.append(relative_error(lin.value - lin.residual, self.exact))
        return self.method.update(lin, carry)


def relative_error(states: Tensor, exact: Tensor) -> Tensor:
    """`|s_t - exact_t| / |exact_t|` at each depth, the largest of a batch, `(T,)`; norms over D.

    Args:
        states, exact: `(T, *batch, D)` each.
    """
    error = (states - exact).norm(dim=-1) / exact.norm(dim=-1)
    return error.view(len(error), -1).amax(1)


@dataclass(frozen=True)
class ErrorMap:
    """Error over iteration and depth.

    Attributes:
        errors: relative, `(iterates, T)`, the guess first.
        to_last: iterations until the last state's error, and that of all later iterates, is at most the tolerance;
            None where the iterates watched never get there.
    """

    errors: Tensor
    to_last: int | None


@spelled
def error_map(
    problem: DepthRecurrence, method: LDSApproximation, exact: Tensor, *, tolerance: float = 1e-3
) -> ErrorMap:
    """Solve to rounding and compare every iterate with the layer-by-layer states.

    Args:
        problem: the stack.
        method: how to solve.
        exact: `problem.sequential()`.
        tolerance: on the relative error of the last state, for `to_last`.
    """
    watched = ErrorsKept(method, exact)
    solution = problem.solve(watched, rtol=0, atol=1e-6 * float(exact.abs().max()), throw=False)
    errors = torch.stack([*watched.errors, relative_error(solution.states, exact)])
    wrong = (~(errors[:, -1] <= tolerance)).nonzero().flatten()
    first = 0 if not len(wrong) else int(wrong[-1]) + 1
    return ErrorMap(errors, first if first < len(errors) else None)


@spelled
def growth_per_layer(problem: DepthRecurrence, exact: Tensor, *, directions: int = 4, seed: int = 0) -> float:
    """How a small change of the state grows per layer, along the true states: the geometric mean over the depth.

    Random tangents are pushed through the layers' Jacobians (`exp` of the largest Lyapunov exponent, in the limit of
    depth). Below 1 the stack forgets, and parallel depth can pay. Over the first half tangents align with the slowest
    direction; the mean is over the rest.

    Args:
        problem: the stack.
        exact: its states, `(T, *batch, D)`.
        directions: how many tangents; the largest growth counts.
        seed: of the tangents.
    """
    prev = torch.cat([problem.s0.unsqueeze(0), exact[:-1]])
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(directions, *problem.s0.shape, generator=generator, device="cpu").to(problem.s0)
    growth, refusals = [], Refusals()
    for t in range(prev.shape[0]):
        inputs = take_rows(problem.inputs, t, t + 1)
        step = FunctionDerivatives(problem.f, prev[t : t + 1], inputs, refusals)
        pushed = torch.stack([step.jvp(direction.unsqueeze(0))[0] for direction in v])
        scale = pushed.flatten(1).norm(dim=1) / v.flatten(1).norm(dim=1)
        growth.append(scale.log())
        v = pushed / pushed.flatten(1).norm(dim=1).view(-1, *[1] * (pushed.ndim - 1))
    late = torch.stack(growth)[len(growth) // 2 :]
    return float(late.mean(0).max().exp())
