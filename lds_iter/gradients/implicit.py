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

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor  # pyright: ignore[reportAttributeAccessIssue]

from lds_iter.gradients.adjoint_recurrence import direct_adjoint, solve_adjoint
from lds_iter.gradients.adjoints import AbstractAdjoint
from lds_iter.gradients.unchanged import Unchanged
from lds_iter.loop.contract import note_where
from lds_iter.loop.run import Interrupted, run
from lds_iter.loop.state import AbstractStrategy, LoopOptions, LoopState, Observer, Problem
from lds_iter.methods.base import LDSApproximation
from lds_iter.recurrence import check_value, detached, own_solve_adjoint
from lds_iter.solution import AdjointCounts


@dataclass(frozen=True)
class Implicit(AbstractAdjoint):
    """The exact gradient at the trajectory, by solving the adjoint recurrence with the same loop. The default.

    Memory: what autograd keeps of one evaluation of `f` over all time steps. Tolerances are relative to the largest
    incoming gradient of each sequence, so that the scale of a loss does not matter.

    Attributes:
        method: for the adjoint; when None a direct solve where the recurrence has one, else that of the solve, without
            warm-up and damping, which a linear recurrence does not need (`method.for_adjoint()`).
        rtol: on the residual of the adjoint; that of the solve when None.
        atol: likewise, in units of the largest incoming gradient.
        window: rows beyond the frontier; that of the solve when None.

    Raises:
        TypeError, ValueError: for arguments that cannot work.
    """

    method: LDSApproximation | AbstractStrategy | None = None
    rtol: float | None = None
    atol: float | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.method is not None and not isinstance(self.method, LDSApproximation | AbstractStrategy):
            raise TypeError(f"`method` must be an instance such as li.Newton(), or None, got {self.method!r}.")
        for name in "rtol", "atol":
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be a finite number, 0 or more, or None, got {value!r}.")
        window = self.window
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
            raise ValueError(f"`window` must be a whole number, 1 or more, or None, got {window!r}.")

    def check_method(self, method: LDSApproximation | AbstractStrategy) -> None:
        """Check nothing: every method has an adjoint."""

    def solve(
        self,
        problem: Problem,
        method: LDSApproximation | AbstractStrategy,
        guess: Tensor,
        options: LoopOptions,
        observers: Sequence[Observer],
        *,
        wanted: bool,
    ) -> tuple[LoopState, Tensor]:
        fixed = replace(problem, s0=problem.s0.detach(), inputs=detached(problem.inputs))
        with torch.no_grad():
            state = run(fixed, method, guess.detach(), options, observers)
        if not wanted:
            return state, state.states[1 : 1 + problem.steps]
        try:
            return state, self.attach(problem, fixed, method, options, state.states)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(state) from interrupt
        except Exception as error:
            note_where(error, "`f`, evaluated along the solution for its gradient", (0, problem.length, state.count))
            raise

    def attach(
        self,
        problem: Problem,
        fixed: Problem,
        method: LDSApproximation | AbstractStrategy,
        options: LoopOptions,
        states: Tensor,
    ) -> Tensor:
        """The states with a gradient.

        Args:
            problem: still attached to autograd.
            fixed: the same, detached.
            method: of the solve.
            options: of the solve.
            states: the solution without a graph, and the state before it, `(T + 1, *batch, D)`.
        """
        start, states = _start(problem, states[0]), states[1:]
        fixed = replace(fixed, s0=start.detach())
        prev = torch.cat([start.unsqueeze(0), states[:-1]])
        value = check_value(problem.f(prev, problem.inputs), prev)
        own = _checked(method.for_adjoint(), method) if self.method is None else self.method
        given = {name: getattr(self, name) for name in ("rtol", "atol", "window") if getattr(self, name) is not None}
        options = replace(options, max_iters=problem.length, **given)
        # kept only for those that solve their adjoint directly, which keep it for their gradients anyway
        direct = self.method is None and problem.shards is None and own_solve_adjoint(problem.f) is not None
        before = prev.detach() if direct else None
        unchanged = Unchanged.of(value)

        shards = problem.shards

        def adjoint(g: Tensor) -> tuple[Tensor, AdjointCounts | None]:
            with contextlib.nullcontext() if shards is None else shards.telling():
                unchanged.check_parameters()
                g = g if len(g) else torch.zeros_like(states)
                direct = None if before is None else direct_adjoint(fixed, before, g)
                return solve_adjoint(fixed, states, g, own, options, unchanged) if direct is None else (direct, None)

        return _attached(value, states[: problem.steps], adjoint)


def _start(problem: Problem, before: Tensor) -> Tensor:
    """The state before the first row of this process, `(*batch, D)`, with the gradient of `s0` where it is that.

    Where several processes share the time steps, it always requires one, for all take part in the backward pass.
    """
    shards = problem.shards
    if shards is None:
        return problem.s0
    own = shards.place == 0 and not shards.is_empty and problem.s0.requires_grad
    return problem.s0 if own else before.detach().requires_grad_()


def _checked(own: object, method: LDSApproximation | AbstractStrategy) -> LDSApproximation | AbstractStrategy:
    """What a method's `for_adjoint` returned."""
    if not isinstance(own, LDSApproximation | AbstractStrategy):
        raise TypeError(
            f"`{type(method).__name__}.for_adjoint` must return a method for a linear recurrence, got {own!r}. A "
            "wrapper returns `self.method.for_adjoint()`; what is made for one `f` alone returns `li.Newton()`."
        )
    return own


Adjoint = Callable[[Tensor], tuple[Tensor, AdjointCounts | None]]
"""From the gradients of the states to all adjoints, and their counts."""


def _attached(value: Tensor, states: Tensor, adjoint: Adjoint) -> Tensor:
    try:
        return _Attached.apply(value, states, adjoint)  # pyright: ignore[reportReturnType]
    except RuntimeError as error:
        if "functorch" not in str(error):
            raise
        raise RuntimeError(
            "`solve` under torch.func.grad (vjp, jacrev ...) cannot attach its gradient. Use torch.autograd.grad "
            "or `.backward()` on the states; what works under every transform is li.sequential(f, s0, inputs)."
        ) from error


class _Attached(torch.autograd.Function):
    """Forward: the states, as they are. Backward: the gradients of `f`'s values, which are the adjoints."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, states: Tensor, adjoint: Adjoint) -> Tensor:  # noqa: ARG004
        ctx.adjoint, ctx.counts = adjoint, []  # the counts are read from the node by `Solution.adjoints`
        return states.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The implicit gradient of `solve` cannot be differentiated again (`create_graph=True`). For second "
                "derivatives type `adjoint=li.Unroll()`, or use li.sequential(f, s0, inputs)."
            )
        if is_legacy_batchedtensor(g):
            raise RuntimeError(
                "The implicit gradient of `solve` takes one gradient of the states at a time, not a batch of them "
                "(`is_grads_batched=True`, `jacobian(..., vectorize=True)`). Take them one after the other, or use "
                "torch.func.jacfwd, which works with `solve`."
            )
        found, counts = ctx.adjoint(g)
        if counts is not None:
            ctx.counts.append(counts)
        return found, None, None
