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
from lds_iter.ode.spans import Span, Spans
from lds_iter.ode.stopping import AtRounding
from lds_iter.recurrence import ravel
from lds_iter.solution import Progress, Result, Solution
from lds_iter.solve import sequential, solve

COARSE_TOLERANCE = 1e-4
"""Of the solutions on coarser grids: below the error of their steps, in most cases."""

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
    approximation: LDSApproximation
    limits: Limits

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
        if self.limits.max_iters is not None and len(blocks) == 1:
            solution = self._attempt(blocks[0], self.s0, start, self.limits.max_iters)
        else:
            least = LEAST_EXPLICIT_STEPS if self.explicit else 1
            spans = Spans(self._span, self._coarse, self._certain, least)
            solution = self._whole(spans.one_after_the_other(blocks, self.s0, start))
        if throw and solution.failed:
            raise _step_failure(solution)
        return solution

    def _attempt(self, rows: slice, s0: Tensor, guess: Tensor, most: int) -> Solution:
        """A solution of some steps within so many iterations, or not."""
        nodes = self.nodes[rows.start : rows.stop + 1]
        steps, limits = (nodes[:-1], nodes.diff()), self.limits
        if not isinstance(self.rule, ExplicitRungeKutta):
            return solve_implicit(
                self.rule, self.field, s0, steps, guess, self.approximation, limits.rtol, limits.atol, most,
                limits.callback,
            )  # fmt: skip
        found = solve(
            ExplicitStep(self.field, self.rule), s0, steps, self.approximation, guess=guess, rtol=limits.rtol,
            atol=limits.atol, max_iters=most, callback=limits.callback, stop=AtRounding(), throw=False,
        )  # fmt: skip
        ended = found.result.masked_fill(found.result == int(Result.STOPPED), int(Result.SUCCESS))
        return replace(found, result=ended)

    def _span(self, rows: slice, s0: Tensor, guess: Tensor, most: int) -> Span:
        found = self._attempt(rows, _finite(s0), guess, most)
        return Span(found.states, found.result, found.iterations, found.evaluations)

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


def _finite(s0: Tensor) -> Tensor:
    """A state to go on from; where a sequence has come to none, its result says so."""
    return s0.nan_to_num(0, 0, 0)


def coarse_guess(rule: Method, field: Field, s0: Tensor, nodes: Tensor) -> Tensor:
    """The guess when none is given, `(T, *batch, D)`: the solution on every tenth node, which starts from its own.

    On coarser grids explicit methods are replaced by Runge and Kutta's of order 4: it is stable for larger steps.
    """
    explicit = isinstance(rule, ExplicitRungeKutta)
    if not explicit and len(nodes) - 1 <= COARSEST_STEPS:
        return s0.expand(len(nodes) - 1, *s0.shape)

    def coarser(coarse: Tensor) -> Tensor:
        if explicit and len(coarse) - 1 <= COARSEST_STEPS:
            return sequential(ExplicitStep(field, RK4), s0, (coarse[:-1], coarse.diff()))
        limits = Limits(COARSE_TOLERANCE, COARSE_TOLERANCE, COARSE_ITERATIONS)
        found = Steps(RK4 if explicit else rule, field, s0, coarse, Newton(), limits).solve(None, throw=False)
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
