"""Repeat the iteration until every sequence has a result.

What is returned, states, residual, result and counts, always belongs to one and the same iterate: the last one whose
residual was evaluated, or one that is exact by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter._torch import StopFlag
from lds_iter.loop.iteration import evaluate
from lds_iter.loop.state import (
    AbstractStrategy,
    LoopOptions,
    LoopState,
    Observer,
    Problem,
    first_state,
    take_proposal,
)
from lds_iter.methods.base import LDSApproximation
from lds_iter.recurrence import own_iterate
from lds_iter.solution import Result

IterationFunction = Callable[[Problem, LDSApproximation, LoopState, LoopOptions], LoopState]


class Interrupted(BaseException):
    """A solve that an interrupt ended, with the state that it had reached."""

    def __init__(self, state: LoopState) -> None:
        super().__init__()
        self.state = state


def run(
    problem: Problem,
    method: LDSApproximation | AbstractStrategy,
    guess: Tensor,
    options: LoopOptions,
    observers: Sequence[Observer] = (),
) -> LoopState:
    """Iterate from a guess to the results.

    Args:
        problem: what is solved.
        method: the LDS approximation, or a strategy that chooses some.
        guess: the states to begin with, `(T, *batch, D)`.
        options: how to iterate.
        observers: called after every iteration.

    Raises:
        Interrupted: in place of a KeyboardInterrupt or an observer's error, with the state reached.
    """
    if isinstance(method, AbstractStrategy):
        return method.run(problem, guess, options, observers)
    state = first_state(problem, method, guess, options)
    return go_on(problem, method, state, options, observers)


def go_on(
    problem: Problem,
    method: LDSApproximation,
    state: LoopState,
    options: LoopOptions,
    observers: Sequence[Observer] = (),
    most: int | None = None,
) -> LoopState:
    """Iterate from a state until every sequence has a result, or for at most `most` evaluations.

    The memory of `state` is reused, unless there are observers or autograd records.
    """
    watched = bool(observers) or options.window < problem.length
    flag = StopFlag(lag=_torch.lags(problem.s0) and not watched)
    own = own_iterate(problem.f)
    reuse = not observers and own is None and not torch.is_grad_enabled()
    bound = (problem.length + 2) * (state.frontier.numel() + 1)  # what the guarantee allows, whatever goes wrong
    left = bound if most is None else most
    try:
        while left > 0:
            if own is not None and not watched:
                state = own(problem, method, state, options)
            else:
                state = take_proposal(state, problem.length, reuse=reuse)
                state = evaluate(problem, method, state, options, reuse=reuse)
            for observer in observers:
                state = observer(problem, state) or state
            left -= 1
            if flag.posted((state.result != int(Result.RUNNING)).all()):
                break
    except (KeyboardInterrupt, RuntimeError) as error:
        if not isinstance(error, KeyboardInterrupt) and not _of_interrupt(error):
            raise
        raise Interrupted(take_proposal(state, problem.length, reuse=reuse)) from KeyboardInterrupt()
    return state


def _of_interrupt(error: RuntimeError) -> bool:
    """Whether an interrupt came while torch entered or left a level of `torch.func`, which it meets with an error of
    its own."""
    return "INTERNAL ASSERT FAILED" in str(error) and isinstance(error.__context__, KeyboardInterrupt)
