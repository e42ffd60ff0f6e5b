"""How many iterations a long sequence will take, from a solve of its first steps.

The prefix is solved and recorded, and the Lyapunov exponent is taken along its states. How the count grew within the
prefix, and whether the prefix is longer than the memory of the recurrence, decide what can be said (`growth`): a number
with a range, or only a lower bound.

Longer than the memory means that an error of the size of the guess's can fade below the tolerance within the prefix:
`ln(residual of the guess / tolerance)` e-folds, at the exponent less its standard error, and that no stretch of the
prefix expands.

This is an extrapolation: it cannot know of anything that the prefix does not contain (a regime that begins later, an
input unlike the first ones).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.checks import check_inputs, check_state
from lds_iter.diagnostics._along import checked_prefix
from lds_iter.diagnostics.evaluation import ByScan, StepByStep
from lds_iter.diagnostics.exponents import Lyapunov, lyapunov
from lds_iter.diagnostics.growth import GrowthLaw, forecast
from lds_iter.guesses import Guess, repeat_initial
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import spelled
from lds_iter.recurrence import take_rows
from lds_iter.solution import History, Result, Solution
from lds_iter.solve import solve

LEAST_EFOLDS = 3.0
"""A prefix that spans fewer e-folds tells nothing, however close the guess is."""

WIDE = 64
"""States of more numbers get their exponent by products `J v`, without a Jacobian."""


@dataclass(frozen=True)
class Prediction:
    """Iterations to expect, per sequence. Everything `(*batch)`, on the CPU, counts as float64.

    Attributes:
        iterations: what to expect for all T steps; where the law is `GrowthLaw.UNKNOWN`, what they will take at least.
        low, high: the range. `low` is the count of the prefix, which more steps cannot undercut, or more; `high` is T
            where the law is unknown.
        law: how the count grows, `GrowthLaw` codes.
        exponent: the Lyapunov exponent of the prefix.
        efolds: how many e-folds the prefix must span to be longer than the memory.
        counted: what the prefix took; the limit where it was not solved.
        solved: whether the prefix was solved within the limit, bool.
        evaluations: rows of `f` that the prediction evaluated, derivatives not counted; `Solution.evaluations` is the
            same number for a solve.
        prefix: how many steps were solved.
        length: T.
    """

    iterations: Tensor
    low: Tensor
    high: Tensor
    law: Tensor
    exponent: Lyapunov
    efolds: Tensor
    counted: Tensor
    solved: Tensor
    evaluations: Tensor
    prefix: int
    length: int

    @property
    def told(self) -> Tensor:
        """Whether the prefix shows how the count grows, bool, `(*batch)`."""
        return (self.law != GrowthLaw.UNKNOWN) | (self.prefix == self.length) & self.solved

    @property
    def share(self) -> Tensor:
        """Iterations per time step, `(*batch)`: 1 is the sequential loop at many times its price."""
        return self.iterations / self.length

    @property
    def enough(self) -> Tensor:
        """The prefix that would be longer than the memory, in steps, `(*batch)`; infinity where nothing fades."""
        rate = -self.exponent.largest.cpu()
        return torch.where(rate > 0, self.efolds / rate, torch.inf)

    def __str__(self) -> str:
        worst = int(self.iterations.max().ceil())
        start = f"iterations for {self.length:,} steps"
        if self.prefix == self.length and bool(self.solved.all()):
            return f"{worst:,} {start}, counted on all of them"
        if bool(self.told.all()):
            low, high = int(self.low.min()), int(self.high.max().ceil())
            text = f"about {worst:,} {start} (between {low:,} and {high:,})"
            return f"{text}, extrapolated from {int(self.counted.max()):,} for the first {self.prefix:,}"
        if not bool(self.solved.all()):
            return (
                f"at least {int(self.low.max()):,} {start}: so many did not solve the first {self.prefix:,}; at the "
                f"pace of the rows that they did solve, {worst:,}"
            )
        return f"at least {int(self.low.max()):,} {start}: the first {self.prefix:,} {self._why()}"

    def _why(self) -> str:
        """The reason why the first sequence without a prediction has none."""
        which = int(self.told.flatten().to(torch.int64).argmin())
        spans = float(self.exponent.largest.flatten()[which].abs()) * self.prefix
        needs, enough = float(self.efolds.flatten()[which]), float(self.enough.flatten()[which])
        if spans >= needs or enough == math.inf:
            return "do not show how the count grows; try a longer `prefix`"
        text = f"span {spans:.2g} e-folds, and {needs:.2g} are needed to tell more"
        if enough >= self.length:
            return f"{text}: the memory is as long as the sequence"
        return f"{text}: a `prefix` of about {math.ceil(enough):,}"


@spelled
def predict_iterations(
    f: Callable[[Tensor, Any], Tensor],
    s0: Tensor,
    inputs: Any,
    method: LDSApproximation | None = None,
    *,
    prefix: int | None = 512,
    guess: Tensor | Guess = repeat_initial,
    rtol: float | None = None,
    atol: float | None = None,
    max_iters: int | None = None,
    exponent: Lyapunov | None = None,
) -> Prediction:
    """Predict the iteration count of a solve from a solve of its first steps, or say that they cannot tell it.

    Args:
        f: the recurrence, as `li.solve` takes it.
        s0: the state before the first step, `(*batch, D)`.
        inputs: a pytree of tensors that lead with T.
        method: of the solve in question; `Newton()` when None.
        prefix: how many time steps to solve; None for all, which is no prediction but a count.
        guess: of the solve in question; of a tensor its first rows are taken.
        rtol: of the solve in question.
        atol: likewise.
        max_iters: give up on the prefix after so many iterations, and go by how far the solved rows reached; when None
            as many as steps, which always suffice.
        exponent: of these steps, where it is known already; when None it is measured, which takes derivatives of `f`
            even for a method that needs none.

    Returns:
        A `Prediction`.

    Raises:
        TypeError, ValueError: for arguments that `solve` refuses.

    Example:
        >>> forget = lambda s, u: torch.tanh(0.5 * s + u)
        >>> print(li.diagnostics.predict_iterations(forget, torch.zeros(2), torch.randn(8000, 2)))
        about 3 iterations for 8,000 steps (between 3 and 7), extrapolated from 3 for the first 512
        >>> remember = lambda s, u: s + 0.001 * torch.sin(s) + 0.01 * u
        >>> print(li.diagnostics.predict_iterations(remember, torch.zeros(2), torch.randn(8000, 2)))
        at least ... iterations for 8,000 steps: the first 512 do not show how the count grows; try a longer `prefix`
    """
    check_state(s0)
    if exponent is not None and not isinstance(exponent, Lyapunov):
        raise TypeError(f"`exponent` must be what li.diagnostics.lyapunov(...) returns, or None, got {exponent!r}.")
    length = check_inputs(inputs, s0)
    steps = checked_prefix(prefix, length)
    with torch.no_grad():
        start = guess[:steps] if isinstance(guess, Tensor) else guess
        head = take_rows(inputs, 0, steps)
        rules = {"rtol": rtol, "atol": atol, "max_iters": max_iters}
        solution = solve(f, s0, head, method, guess=start, record=True, throw=False, **rules)
        if exponent is None:
            by = ByScan() if s0.shape[-1] <= WIDE else StepByStep()
            exponent = lyapunov(f, s0, head, solution.states, prefix=None, by=by)
    default = 1e-5 if s0.dtype == torch.float32 else 1e-10
    tolerance = (default if atol is None else atol) + (default if rtol is None else rtol) * solution.states.abs()
    return _extrapolated(solution, tolerance.amax(-1).cpu(), exponent, length)


def counts_by_length(history: History, tolerance: Tensor) -> Tensor:
    """`N(t)`: how many updates the first t rows took, for every t, from one recorded solve without a window.

    Args:
        history: of a solve of n rows.
        tolerance: on the largest residual of a row, `(n, *batch)`.

    Returns:
        `(n, *batch)`, int64; the number of iterates on record where a length was not solved by any.
    """
    within = (history.residual_map <= tolerance).to(torch.int64).cumprod(1).bool()
    first = within.to(torch.int64).argmax(0)
    return torch.where(within.any(0), first, within.shape[0]).cummax(0).values


def _extrapolated(solution: Solution, tolerance: Tensor, exponent: Lyapunov, length: int) -> Prediction:
    steps, iterations = solution.states.shape[0], solution.iterations.double().cpu()
    solved = (solution.result == Result.SUCCESS).cpu()
    assert solution.history is not None
    counts = torch.minimum(counts_by_length(solution.history, tolerance).double(), iterations)
    counts[-1] = iterations
    needed = _efolds_needed(solution.history, tolerance)
    fades, persists = _memory(exponent, steps, needed)
    found = forecast(counts, length, fades & solved, persists & solved)
    # Not solved: the front of solved rows keeps its pace, and is never slower than one row an iteration.
    reached = (counts < iterations).sum(0).double().clamp(min=1)
    pace = torch.maximum(reached / iterations.clamp(min=1), torch.ones_like(iterations))
    return Prediction(
        iterations=torch.where(solved, found.expected, torch.maximum(length / pace, iterations).clamp(max=length)),
        low=torch.where(solved, found.low, iterations),
        high=torch.where(solved, found.high, length),
        law=found.law,
        exponent=exponent,
        efolds=needed,
        counted=solution.iterations.cpu(),
        solved=solved,
        evaluations=solution.evaluations.double().cpu() + steps,
        prefix=steps,
        length=length,
    )


def _efolds_needed(history: History, tolerance: Tensor) -> Tensor:
    """How many e-folds bring the guess's largest residual below the smallest tolerance, `(*batch)`."""
    guess = history.residual_map[0].nan_to_num(nan=torch.inf).amax(0).double()
    return (guess / tolerance.amin(0)).clamp(max=1e12).log().nan_to_num(nan=LEAST_EFOLDS).clamp(min=LEAST_EFOLDS)


def _memory(exponent: Lyapunov, steps: int, needed: Tensor) -> tuple[Tensor, Tensor]:
    """Whether differences fade within so many steps, everywhere and by so many e-folds; and whether they do not fade
    at all, by less than one e-fold. Both bool, `(*batch)`."""
    largest, error = exponent.largest.cpu(), exponent.error[..., 0].nan_to_num(nan=0, posinf=torch.inf).cpu()
    everywhere = (exponent.blocks[..., 0] < 0).all(0).cpu()
    return (-(largest + error) * steps >= needed) & everywhere, largest * steps > -1
