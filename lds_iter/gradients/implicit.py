"""Gradients of a solved trajectory.

The trajectory satisfies `s_t = f(s_{t-1}, u_t)`. For a loss with gradients `g_t = dL/ds_t` the adjoint

    l_t = J_{t+1}^T l_{t+1} + g_t             J_t = df/ds at (s_{t-1}, u_t);   l_T = g_T

is again a recurrence, linear and reversed in time, so the loop that solved the trajectory solves it too: Newton's
method in one iteration, a diagonal one in a handful, in O(T D) memory; a recurrence may also solve it directly, as
those of GRU, LSTM and RNN do in compiled code on a CPU. Then one batched vector-Jacobian product of `f`
with `l` gives every other gradient, dL/dtheta = sum_t (df/dtheta)^T l_t. The Jacobians are those at the states
returned, and the gradient is exact at convergence whatever method found the states. (The diagonal alone as adjoint,
which released quasi-DEER code uses, is 19 to 59 % off.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter.compile.compiled import Compiled
from lds_iter.derivatives.linearization import linearize_along
from lds_iter.gradients.adjoint_recurrence import (
    Transposed,
    backwards,
    by_stretch,
    normalized,
    unwound,
    without_nonfinite,
)
from lds_iter.loop.run import run
from lds_iter.loop.state import AbstractStrategy, Problem, Rules
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.chord import Chord
from lds_iter.methods.compose import Damped, Then
from lds_iter.methods.levenberg_marquardt import LevenbergMarquardt
from lds_iter.methods.switch import Switch
from lds_iter.methods.trust_region import TrustRegion
from lds_iter.recurrence import detached


@dataclass(frozen=True)
class Solved:
    """A solved trajectory, as an adjoint gets it: `problem` still attached to autograd, `states` not."""

    problem: Problem
    method: LDSApproximation | AbstractStrategy
    rules: Rules
    guess: Tensor
    states: Tensor
    iterations: int


class AbstractAdjoint(ABC):
    """How gradients reach the parameters of `f`, `s0` and `inputs` from the states of a solution."""

    @abstractmethod
    def attach(self, solved: Solved) -> Tensor:
        """The states, `(T, *batch, D)`, with a gradient."""


@dataclass(frozen=True)
class Implicit(AbstractAdjoint):
    """The exact gradient at the trajectory, by solving the adjoint recurrence with the same loop. The default.

    Memory: what autograd keeps of one evaluation of `f` over all time steps. Tolerances are relative to the largest
    incoming gradient of each sequence, so that the scale of a loss does not matter.

    Attributes:
        method: for the adjoint; when None a direct solve where the recurrence has one, else that of the solve, without
            warm-up and damping (`Then`, `Switch`, `Damped`, `TrustRegion`, `LevenbergMarquardt`, `Chord`), which a
            linear recurrence does not need.
        rtol: on the residual of the adjoint; that of the solve when None.
        atol: likewise, in units of the largest incoming gradient.
        window: rows beyond the frontier; that of the solve when None.
    """

    method: LDSApproximation | AbstractStrategy | None = None
    rtol: float | None = None
    atol: float | None = None
    window: int | None = None

    def attach(self, solved: Solved) -> Tensor:
        problem, states = solved.problem, solved.states
        prev = torch.cat([problem.s0.unsqueeze(0), states[:-1]])
        value = problem.f(prev, problem.inputs)
        if not value.requires_grad:
            return states
        method = _without_warm_up(solved.method) if self.method is None else self.method
        given = {name: getattr(self, name) for name in ("rtol", "atol", "window") if getattr(self, name) is not None}
        rules = replace(solved.rules, max_iters=problem.length, record=False, observers=(), stop=None, **given)
        fixed = Problem(problem.f, problem.s0.detach(), detached(problem.inputs), problem.length)
        # kept only for those that solve their adjoint directly, which keep it for their gradients anyway
        before = prev.detach() if self.method is None and _own(problem) is not None else None

        def adjoint(g: Tensor) -> Tensor:
            direct = None if before is None else _direct(fixed, before, g)
            return solve_adjoint(fixed, states, g, method, rules) if direct is None else direct

        try:
            return _Attached.apply(value, states, adjoint)
        except RuntimeError as error:
            if "functorch" not in str(error):
                raise
            raise RuntimeError(
                "`solve` under torch.func.grad (vjp, jacrev ...) cannot attach its gradient. Use torch.autograd.grad "
                "or `.backward()` on the states; what works under every transform is li.sequential(f, s0, inputs)."
            ) from error


@dataclass(frozen=True)
class Unroll(AbstractAdjoint):
    """Ordinary backpropagation through the iterations of the solve, from its guess.

    As exact as the iterations carry information: in `k` Jacobi sweeps a gradient reaches back `k` steps. Memory and
    time grow with the iterations; differentiable twice. A check on `Implicit`, and for studying the iteration itself.
    """

    def attach(self, solved: Solved) -> Tensor:
        problem, states = solved.problem, solved.guess
        assert isinstance(solved.method, LDSApproximation)  # `solve` has refused a strategy
        carry = solved.method.init(states)
        for age in range(max(1, solved.iterations)):
            prev = torch.cat([problem.s0.unsqueeze(0), states[:-1]])
            lin = next(linearize_along(problem.f, prev, states, problem.inputs, rows=problem.length, age=age))
            d, carry = solved.method.update(lin, carry)
            states = states + d
        return states


class _Attached(torch.autograd.Function):
    """Forward: the states, as they are. Backward: the gradients of `f`'s values, which are the adjoints."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, states: Tensor, adjoint: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: ARG004
        ctx.adjoint = adjoint
        return states.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The implicit gradient of `solve` cannot be differentiated again (`create_graph=True`). For second "
                "derivatives type `adjoint=li.Unroll()`, or use li.sequential(f, s0, inputs)."
            )
        return ctx.adjoint(g), None, None


def _direct(problem: Problem, prev: Tensor, g: Tensor) -> Tensor | None:
    """The adjoint where `f` has a method `adjoint(prev, inputs, g)` that solves it as it is; None where it cannot.

    That is Newton's one iteration, with a scan that knows how `f` makes its Jacobians
    (see `lds_iter.kernels.cpu.cells`).
    """
    own = _own(problem)
    if own is None or not _torch.on_host(g) or not _finite(g):
        return None
    found = own(prev, problem.inputs, g)
    if found is None or _finite(found):
        return found
    return found.masked_fill(~found.isfinite().all(-1).all(0)[..., None], torch.nan)


def _own(problem: Problem) -> Callable[[Tensor, Any, Tensor], Tensor | None] | None:
    """The method `adjoint` of the recurrence, compiled or not, where it has one."""
    f = problem.f.f if isinstance(problem.f, Compiled) else problem.f
    return getattr(f, "adjoint", None)


def _finite(x: Tensor) -> bool:
    """Whether all numbers are; the sum, one pass and nothing allocated, mostly answers."""
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def solve_adjoint(
    problem: Problem, states: Tensor, g: Tensor, method: LDSApproximation | AbstractStrategy, rules: Rules
) -> Tensor:
    """All `l_t` of a detached problem; NaN where no finite adjoint exists, as autograd would have it."""
    if problem.length == 1:
        return g
    rows = problem.length - 1
    rules = replace(rules, max_iters=rows, window=min(rules.window, rows))
    f = problem.f
    if isinstance(f, Compiled) and isinstance(method, LDSApproximation) and not rules.watched(rows):
        return f.solve_adjoint(states, problem.inputs, g, method, rules)
    known, g = without_nonfinite(g)
    g, scale = normalized(g)
    inputs = backwards(states, problem.inputs, g)
    transposed = Transposed(by_stretch(f, keep=rules.window == rows))
    return unwound(run(Problem(transposed, g[-1], inputs, rows), method, inputs[2], rules), scale, known)


def _without_warm_up(method: LDSApproximation | AbstractStrategy) -> LDSApproximation | AbstractStrategy:
    match method:
        case AbstractStrategy():
            return method.for_adjoint()
        case Then(second=second) | Switch(second=second):
            return _without_warm_up(second)
        case Damped(method=inner) | TrustRegion(method=inner) | Chord(method=inner):
            return _without_warm_up(inner)
        case LevenbergMarquardt(approximation=inner):
            return _without_warm_up(inner)
        case _:
            return method
