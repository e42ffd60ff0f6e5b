"""The arguments of a solve, checked together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.checks.arguments import (
    check_adjoint,
    check_callable,
    check_flags,
    check_guess,
    check_inputs,
    check_numbers,
    check_state,
    check_tolerance,
    checked_method,
)
from lds_iter.checks.probes import check_f, check_transforms
from lds_iter.derivatives.autodiff import with_derivatives
from lds_iter.derivatives.under_autocast import keep_autocast
from lds_iter.gradients.adjoints import AbstractAdjoint
from lds_iter.guesses import Guess
from lds_iter.loop.state import AbstractStrategy, LoopOptions, Problem
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.newton import Newton
from lds_iter.methods.rules import AbstractRule


@dataclass(frozen=True)
class Options:
    """What a solve takes beside the problem, the method and the limits; see `solve` for each."""

    adjoint: AbstractAdjoint
    record: bool
    progress: bool
    callback: Any
    stop: Any
    throw: bool

    def check(self) -> None:
        """Raise a TypeError or ValueError for what cannot work."""
        check_adjoint(self.adjoint)
        check_flags(record=self.record, progress=self.progress, throw=self.throw)
        check_callable("callback", self.callback)
        check_callable("stop", None if isinstance(self.stop, AbstractRule) else self.stop)


@dataclass(frozen=True)
class Arguments:
    """The arguments of a solve, checked.

    Attributes:
        problem: `f`, `s0`, `inputs` and T.
        method: an instance.
        guess: the states to begin with, `(T, *batch, D)`.
        options: tolerances, limit and window.
        wanted: whether values of `f` carry a gradient.
        first: the value of the first step, `(1, *batch, D)`.
        limit: of iterations.
    """

    problem: Problem
    method: LDSApproximation | AbstractStrategy
    guess: Tensor
    options: LoopOptions
    wanted: bool
    first: Tensor
    limit: int


def check_arguments(
    f: Callable[[Tensor, Any], Tensor],
    s0: Tensor,
    inputs: Any,
    method: LDSApproximation | AbstractStrategy | None,
    guess: Tensor | Guess,
    *,
    rtol: float | None,
    atol: float | None,
    max_iters: int | None,
    window: int | None,
) -> Arguments:
    """Check what every solve takes, once, before any iteration; see `solve` for each."""
    length, tolerances, first = check_problem(f, s0, inputs, rtol, atol)
    check_transforms(first, s0, inputs)
    approximation = checked_method(Newton() if method is None else method)
    limits = check_numbers(length, max_iters=max_iters, window=window)
    with torch.no_grad():
        given = guess(f, s0, inputs, length) if callable(guess) else guess
    check_guess(given, s0, length)
    options = LoopOptions(*tolerances, limits["max_iters"], limits["window"])
    problem = Problem(with_derivatives(keep_autocast(f, s0)), s0, inputs, length)
    return Arguments(problem, approximation, given, options, first.requires_grad, first.detach(), limits["max_iters"])


def check_problem(
    f: Callable[[Tensor, Any], Tensor], s0: Tensor, inputs: Any, rtol: float | None, atol: float | None
) -> tuple[int, tuple[float, float], Tensor]:
    """Check what `solve` and `sequential` share.

    Returns:
        T, the tolerances, and the value of the first step, `(1, *batch, D)`.
    """
    check_state(s0)
    length = check_inputs(inputs, s0)
    rtol, atol = (check_tolerance(name, value, s0.dtype) for name, value in (("rtol", rtol), ("atol", atol)))
    return length, (rtol, atol), check_f(f, s0, inputs, length)
