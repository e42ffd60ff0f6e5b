"""The loop by hand: start, iterate as often as you like with a look at every step, finish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter._torch import without_autocast
from lds_iter.checks import check_arguments
from lds_iter.derivatives.along import linearize_along
from lds_iter.derivatives.linearization import Linearization
from lds_iter.guesses import Guess, repeat_initial
from lds_iter.loop import iteration, state
from lds_iter.loop.notes import explained
from lds_iter.loop.state import AbstractStrategy, LoopOptions, LoopState, Problem
from lds_iter.methods.base import LDSApproximation
from lds_iter.solution import Result, Solution
from lds_iter.solve import solution_of


@dataclass(frozen=True)
class Iterate:
    """One iterate of a solve that you drive yourself. Nothing in it ever changes; `li.iterate` returns the next one.

    Attributes:
        problem: what is solved: `f`, `s0`, `inputs`, `length`.
        method: the LDS approximation.
        options: tolerances, limit of iterations, window.
        state: the tensors of the loop; see `LoopState`.
    """

    problem: Problem
    method: LDSApproximation
    options: LoopOptions
    state: LoopState

    @property
    def states(self) -> Tensor:
        """The states of this iterate, `(T, *batch, D)`."""
        return self.state.states[1:]

    @property
    def update(self) -> Tensor:
        """The update `d` that the next iteration takes, `(T, *batch, D)`; zero before the first evaluation."""
        return self.state.update

    @property
    def residual(self) -> Tensor:
        """The largest residual of this iterate, per sequence, `(*batch)`; NaN before the first evaluation."""
        return self.state.residual if self.state.count else torch.full_like(self.state.residual, torch.nan)

    @property
    def frontier(self) -> Tensor:
        """Rows accepted so far, per sequence, int64, `(*batch)`."""
        return self.state.frontier

    @property
    def iterations(self) -> Tensor:
        """Updates that led to this iterate, per sequence, int64, `(*batch)`."""
        return self.state.iterations

    @property
    def result(self) -> Tensor:
        """`Result` codes, `Result.RUNNING` for a sequence that goes on, `(*batch)`."""
        return self.state.result

    @property
    def carry(self) -> Any:
        """What the method remembers."""
        return self.state.carry

    @property
    def ended(self) -> bool:
        """Whether every sequence has a result. Waits for an accelerator."""
        return not bool(self.state.running.any())

    def linearization(self) -> Linearization:
        """`f` along this iterate, all rows: what a method gets to see, for `method.transition(...)` and the like."""
        states, problem = self.state.states, self.problem
        prev, count = states[:-1], self.state.count
        return next(linearize_along(problem.f, prev, states[1:], problem.inputs, rows=problem.length, iteration=count))


@explained
def start(
    f: Callable[[Tensor, Any], Tensor],
    s0: Tensor,
    inputs: Any,
    method: LDSApproximation | None = None,
    *,
    guess: Tensor | Guess | Solution = repeat_initial,
    rtol: float | None = None,
    atol: float | None = None,
    max_iters: int | None = None,
    window: int | None = None,
) -> Iterate:
    """Begin a solve that you drive yourself: the guess, before anything is evaluated.

    Iterations run in the grad mode that they are called in; under `torch.no_grad()` nothing is recorded.

    Args:
        f, s0, inputs, method, rtol, atol, max_iters, window: as `solve` takes them; the method is no strategy.
        guess: as `solve` takes it, or a `Solution` to go on from: its states and, if it is of this method, its carry.

    Raises:
        TypeError, ValueError: for arguments that cannot work.

    Example:
        >>> state = li.start(lambda s, u: 0.5 * s.tanh() + u, torch.zeros(2), torch.ones(1000, 2))
        >>> while not state.ended:
        ...     state = li.iterate(state)
        >>> li.finish(state).converged
        True
    """
    before = guess if isinstance(guess, Solution) else None
    states: Tensor | Guess = guess.states if isinstance(guess, Solution) else guess
    given = check_arguments(f, s0, inputs, method, states, rtol=rtol, atol=atol, max_iters=max_iters, window=window)
    if isinstance(given.method, AbstractStrategy):
        raise TypeError(
            f"`method` must be one method to drive by hand, got {type(given.method).__name__}, which runs the loop "
            "itself. Type method=li.Newton()."
        )
    begun = state.first_state(given.problem, given.method, given.guess, given.options)
    if before is not None and before.carry is not None:
        if type(before.carry) is not type(begun.carry):
            raise TypeError(
                f"`guess` is a solution of another method: it remembers a {type(before.carry).__name__}, and "
                f"{given.method!r} a {type(begun.carry).__name__}. Type guess=solution.states."
            )
        begun = replace(begun, carry=before.carry)
    return Iterate(given.problem, given.method, given.options, begun)


def iterate(now: Iterate) -> Iterate:
    """One iteration: take the pending update, evaluate `f` along it, measure, accept rows, propose the next update.

    Args:
        now: of `li.start` or of the iteration before.

    Returns:
        The next iterate; `now` stays as it is.
    """
    with without_autocast(now.states):
        return replace(now, state=iteration.iterate(now.problem, now.method, now.state, now.options))


def finish(now: Iterate) -> Solution:
    """The solution reached, as `solve` returns it; sequences without a result get `Result.STOPPED`.

    Args:
        now: the last iterate.
    """
    result = now.state.result.masked_fill(now.state.running, int(Result.STOPPED))
    return solution_of(now.problem, replace(now.state, result=result, residual=now.residual), None)
