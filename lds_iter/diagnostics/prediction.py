"""How many iterations a long sequence will take, from a solve of its first steps.

Time is causal: what a forward method does to the first rows does not depend on how many come after. So one recorded
solve of n steps tells the count `N(t)` of every shorter length, and how it grows says what to expect
beyond n. It is taken for a power law, `N ~ t^p`: where small differences die out, p is close to 0 (the count grows like
log t, or not at all); where they grow, or where the method leaves out what matters, it is 1.

It is an extrapolation, nothing more: what the prefix does not contain (a regime that begins later, an input unlike the
first ones), it cannot know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.checks import check_inputs, check_state
from lds_iter.diagnostics._along import checked_prefix
from lds_iter.guesses import Guess, repeat_initial
from lds_iter.methods.base import LDSApproximation
from lds_iter.solution import History, Result, Solution
from lds_iter.solve import solve
from lds_iter.states import take_rows

SLACK = 0.25
"""What the power is raised by for the upper end: a count of 3 that becomes 4 within four doublings has a power of 0.1,
and counts are that coarse."""


@dataclass(frozen=True)
class Prediction:
    """Iterations to expect, per sequence. Everything `(*batch)`, counts as float64.

    Attributes:
        iterations: what to expect for all T steps.
        low: the count of the prefix: more steps never take fewer.
        high: the count if it grows by a power larger by `SLACK` than in the prefix, and one more; at most T.
        counted: what the prefix took; the limit where it was not solved.
        solved: whether the prefix was solved within the limit, bool.
        prefix: how many steps were solved.
        length: T.
    """

    iterations: Tensor
    low: Tensor
    high: Tensor
    counted: Tensor
    solved: Tensor
    prefix: int
    length: int

    @property
    def share(self) -> Tensor:
        """Iterations per time step, `(*batch)`: 1 is the sequential loop at many times its price."""
        return self.iterations / self.length

    def __str__(self) -> str:
        low, high = int(self.low.min()), int(self.high.max().ceil())
        worst = int(self.iterations.max().round())
        return (
            f"about {worst:,} iterations for {self.length:,} steps (between {low:,} and {high:,}), extrapolated from "
            f"{int(self.counted.max()):,} for the first {self.prefix:,}"
        )


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
) -> Prediction:
    """Predict the iteration count of a solve from a solve of its first steps.

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

    Returns:
        A `Prediction`.

    Example:
        >>> forget = lambda s, u: torch.tanh(0.5 * s + u)
        >>> print(li.diagnostics.predict_iterations(forget, torch.zeros(2), torch.randn(8000, 2)))
        about 3 iterations for 8,000 steps (between 3 and 7), extrapolated from 3 for the first 512
    """
    check_state(s0)
    length = check_inputs(inputs, s0)
    steps = checked_prefix(prefix, length)
    with torch.no_grad():
        start = guess[:steps] if isinstance(guess, Tensor) else guess
        head = take_rows(inputs, 0, steps)
        rules = {"rtol": rtol, "atol": atol, "max_iters": max_iters}
        solution = solve(f, s0, head, method, guess=start, record=True, throw=False, **rules)
    default = 1e-5 if s0.dtype == torch.float32 else 1e-10
    tolerance = (default if atol is None else atol) + (default if rtol is None else rtol) * solution.states.abs()
    return _extrapolated(solution, tolerance.amax(-1).cpu(), length)


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


def _extrapolated(solution: Solution, tolerance: Tensor, length: int) -> Prediction:
    steps, iterations = solution.states.shape[0], solution.iterations.double().cpu()
    solved = (solution.result == Result.SUCCESS).cpu()
    assert solution.history is not None
    counts = torch.minimum(counts_by_length(solution.history, tolerance).double(), iterations)
    times, power = length / steps, growth_power(counts)
    # Not solved: the front of solved rows keeps its pace, and is never slower than one row an iteration.
    reached = (counts < iterations).sum(0).double().clamp(min=1)
    pace = torch.maximum(reached / iterations.clamp(min=1), torch.ones_like(iterations))
    expected = torch.where(solved, iterations * times**power, length / pace)
    high = torch.where(solved, iterations * times ** (power + SLACK).clamp(max=1) + (times > 1), float(length))
    return Prediction(
        iterations=torch.maximum(expected, iterations).clamp(max=length),
        low=iterations,
        high=torch.maximum(high, expected).clamp(max=length),
        counted=solution.iterations.cpu(),
        solved=solved,
        prefix=steps,
        length=length,
    )


def growth_power(counts: Tensor) -> Tensor:
    """The p of `N(t) ~ t^p`, between 0 and 1, fitted to the last four doublings of t.

    Args:
        counts: `N(t)` for t = 1..n, `(n, *batch)`, float64.

    Returns:
        `(*batch)`: 0 where the count has stopped growing, 1 where it grows in proportion.
    """
    steps = counts.shape[0]
    marks = (steps * 2 ** torch.linspace(-4, 0, 17, dtype=torch.float64)).round().long().clamp(min=1)
    x = marks.double().log()
    x = (x - x.mean()).view(-1, *[1] * (counts.ndim - 1))
    y = counts[marks - 1].clamp(min=1).log()
    return ((x * y).sum(0) / x.square().sum().clamp(min=1e-12)).clamp(0, 1)
