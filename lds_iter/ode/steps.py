"""The steps of one solve: attempts at spans of them, guesses, and the result put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.errors import SolveError
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.newton import Newton
from lds_iter.ode.anchored import solve_implicit
from lds_iter.ode.explicit import RK4, ExplicitRungeKutta, ExplicitStep
from lds_iter.ode.field import Field
from lds_iter.ode.guess import COARSEST_STEPS, from_coarse
from lds_iter.ode.methods import Method
from lds_iter.ode.midpoint import MidpointJacobian
from lds_iter.ode.spans import ATTEMPT_ITERATIONS, Span, Spans
from lds_iter.ode.stopping import AtRounding, per_step
from lds_iter.plain_loop import sequential
from lds_iter.recurrence import ravel
from lds_iter.solution import Progress, Result, Solution
from lds_iter.solve import solve

COARSE_TOLERANCE = 1e-4
"""Of the solutions on coarser grids: an iteration there costs a tenth of the one on the finer grid that it saves."""

COARSE_ITERATIONS = 20
"""A coarse solve that takes more is given up; its sequence starts from the initial state."""

LEAST_EXPLICIT_STEPS = 256
"""A span of so many explicit steps is solved one step after the other where an attempt at twice as many has failed."""

SINGLE_STEP_ITERATIONS = 100
"""The limit for one implicit step alone."""


@dataclass(frozen=True)
class Limits:
    """The tolerances on the residual of a step, the limit of iterations, the steps solved at once, and who watches."""

    rtol: float
    atol: float
    max_iters: int | None = None
    window: int | None = None
    callback: Callable[[Progress], object] | None = None


@dataclass(frozen=True)
class Steps:
    """All steps of a method from `s0`, `(*batch, D)`, between the nodes, `(T + 1)`; nothing carries a gradient."""

    rule: Method
    field: Field
    s0: Tensor
    nodes: Tensor
    approximation: LDSApproximation | None
    limits: Limits

    @property
    def method(self) -> LDSApproximation:
        """How the recurrence over the steps is approximated."""
        if self.approximation is not None:
            return self.approximation
        return MidpointJacobian(self.field, self.rule) if isinstance(self.rule, ExplicitRungeKutta) else Newton()

    @property
    def explicit(self) -> bool:
        """Whether a step has a value to give."""
        return isinstance(self.rule, ExplicitRungeKutta)

    def solve(self, guess: Any, *, throw: bool) -> Solution:
        """The states after all steps, from a guess as `odeint` takes it."""
        count = len(self.nodes) - 1
        window = count if self.limits.window is None else self.limits.window
        blocks = [slice(first, min(first + window, count)) for first in range(0, count, window)]
        start = self._given(guess, blocks[0])
        if len(blocks) == 1:
            limit = ATTEMPT_ITERATIONS if self.limits.max_iters is None else self.limits.max_iters
            solution = self._attempt(blocks[0], self.s0, start, limit)
            if self.limits.max_iters is None:
                solution = self._halved(solution)
        else:
            solution = self._whole(self._spans.one_after_the_other(blocks, self.s0, start))
        if throw and solution.failed:
            raise _step_failure(solution)
        return solution

    @property
    def _spans(self) -> Spans:
        return Spans(self._span, self._coarse, self._certain, LEAST_EXPLICIT_STEPS if self.explicit else 1)

    def _halved(self, solution: Solution) -> Solution:
        """An attempt at all steps, where need be in halves."""
        first = _as_span(solution)
        if not bool(first.failed.any()):
            return solution
        everything, nobody = slice(0, len(first.states)), torch.zeros_like(first.failed)
        return self._whole(self._spans.go_on(everything, self.s0, first, nobody))

    def _attempt(self, rows: slice, s0: Tensor, guess: Tensor, most: int) -> Solution:
        """A solution of some steps within so many iterations, or not."""
        nodes = self.nodes[rows.start : rows.stop + 1]
        steps, limits = (nodes[:-1], nodes.diff()), self.limits
        if not isinstance(self.rule, ExplicitRungeKutta):
            return solve_implicit(
                self.rule, self.field, s0, steps, guess, self.method, limits.rtol, limits.atol, most,
                limits.callback,
            )  # fmt: skip
        found = solve(
            ExplicitStep(self.field, self.rule), s0, steps, self.method, guess=guess, rtol=limits.rtol,
            atol=limits.atol, max_iters=most, callback=limits.callback, stop=AtRounding(), throw=False,
        )  # fmt: skip
        ended = found.result.masked_fill(found.result == int(Result.STOPPED), int(Result.SUCCESS))
        return replace(found, result=ended)

    def _span(self, rows: slice, s0: Tensor, guess: Tensor, most: int) -> Span:
        return _as_span(self._attempt(rows, _finite(s0), guess, most))

    def _certain(self, rows: slice, s0: Tensor) -> Span:
        """A span that is not divided further: explicit steps one after the other, an implicit step alone."""
        s0, count = _finite(s0), rows.stop - rows.start
        if not isinstance(self.rule, ExplicitRungeKutta):
            return self._span(rows, s0, s0.expand(count, *s0.shape), SINGLE_STEP_ITERATIONS)
        nodes = self.nodes[rows.start : rows.stop + 1]
        states = sequential(ExplicitStep(self.field, self.rule), s0, (nodes[:-1], nodes.diff()))
        broken = ~states.isfinite().all(-1).all(0)
        result = torch.where(broken, int(Result.NONFINITE), int(Result.SUCCESS))
        counts = torch.full_like(result, count)
        return Span(states, result, counts, counts)

    def _coarse(self, rows: slice, s0: Tensor) -> Tensor:
        return coarse_guess(self.rule, self.field, _finite(s0), self.nodes[rows.start : rows.stop + 1])

    def _whole(self, span: Span) -> Solution:
        """A solution of all steps, with their residual and the estimate of their error, from their states."""
        count = len(self.nodes) - 1
        found = self._attempt(slice(0, count), self.s0, span.states.nan_to_num(), 0)
        return replace(
            found, states=span.states, result=span.result, iterations=span.iterations, evaluations=span.evaluations
        )

    def _given(self, guess: Any, rows: slice) -> Tensor:
        """The states to start from in the first span, `(n, *batch, D)`."""
        if guess is None:
            return self._coarse(rows, self.s0)
        if not callable(guess):
            flat = ravel(pytree.tree_map(lambda leaf: leaf.detach(), guess), self.field.batch_dims + 1)[0]
            return flat[rows]
        if not isinstance(self.rule, ExplicitRungeKutta):
            raise TypeError("`guess` must be tensors (T, ...) for an implicit method, whose steps have no values.")
        steps = (self.nodes[:-1], self.nodes.diff())
        return guess(ExplicitStep(self.field, self.rule), self.s0, steps, len(steps[0]))[rows]  # pyright: ignore[reportIndexIssue]


def _as_span(solution: Solution) -> Span:
    return Span(solution.states, solution.result, solution.iterations, solution.evaluations)


def _finite(s0: Tensor) -> Tensor:
    """A state to go on from; where a sequence has come to none, its result says so."""
    return s0.nan_to_num(0, 0, 0)


def coarse_guess(rule: Method, field: Field, s0: Tensor, nodes: Tensor) -> Tensor:
    """The guess when none is given, `(T, *batch, D)`: the solution on every tenth node, which starts from its own.

    A few explicit steps are taken one after the other, which costs less than an iteration. On coarser grids explicit
    methods are replaced by Runge and Kutta's of order 4: it is stable for larger steps.
    """
    explicit = isinstance(rule, ExplicitRungeKutta)
    if len(nodes) - 1 <= COARSEST_STEPS:
        constant = s0.expand(len(nodes) - 1, *s0.shape)
        if not explicit:
            return constant
        found = sequential(ExplicitStep(field, rule), s0, (nodes[:-1], nodes.diff()))
        return torch.where(found.isfinite().all(-1, keepdim=True).all(0), found, constant)

    def coarser(coarse: Tensor) -> Tensor:
        if explicit and len(coarse) - 1 <= COARSEST_STEPS:
            return sequential(ExplicitStep(field, RK4), s0, (coarse[:-1], coarse.diff()))
        # a stiff equation forgets the errors of its steps, so that they do not add up
        steps = len(coarse) - 1 if explicit else 1
        limits = Limits(*per_step(COARSE_TOLERANCE, COARSE_TOLERANCE, steps, s0.dtype), COARSE_ITERATIONS)
        found = Steps(RK4 if explicit else rule, field, s0, coarse, None, limits).solve(None, throw=False)
        failed = found.result != int(Result.SUCCESS)
        return found.states.masked_fill(failed.unsqueeze(-1), torch.nan)

    return from_coarse(field, s0, nodes, coarser, smooth=explicit)


def _step_failure(solution: Solution) -> SolveError:
    """The error of a solve that did not converge."""
    results = "/".join(sorted({Result(int(code)).name for code in solution.result.unique()}))
    return SolveError(
        f"The steps were not solved ({results}, residual of a step {float(solution.residual.max()):.3g}). In order of "
        "likelihood: the solution leaves the range of numbers, so that steps after each other would end the same way "
        "(li.sequential(*li.ode.recurrence(func, y0, t)) shows where); `max_iters` is too small, leave it out; an "
        "implicit step is too large to be solved, type options={'substeps': 10}.",
        solution,
    )
