"""What a solve tells about its recurrence, in words and in a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lds_iter.diagnostics._along import check_solution
from lds_iter.diagnostics.condition import mu_bounds
from lds_iter.diagnostics.exponents import Lyapunov, lyapunov_of
from lds_iter.methods.spelling import spelled
from lds_iter.solution import Result, Solution

if TYPE_CHECKING:
    pass

WORTH_TRYING = 0.25
"""Above this many iterations per step even free parallel hardware gains less than four times."""


@dataclass(frozen=True)
class Report:
    """A solution looked at: print it, or `plot()` it. Everything per sequence, `(*batch)`.

    Attributes:
        solution: what the report is on.
        lyapunov: exponents along the solution's states, which mean nothing for a sequence that was not solved.
        error: the largest entry of `Solution.error_estimate()`: the error to expect, to first order.
        log_mu: the bounds of the PL constant that the exponent gives for all T steps, natural logarithms.
    """

    solution: Solution
    lyapunov: Lyapunov
    error: Tensor
    log_mu: tuple[Tensor, Tensor]

    @property
    def length(self) -> int:
        """T, the time steps of the solution."""
        return self.solution.states.shape[0]

    @property
    def share(self) -> Tensor:
        """Iterations per time step: 1 is the sequential loop at many times its price."""
        return self.solution.iterations / self.length

    @property
    def verdict(self) -> str:
        """One sentence on whether parallel evaluation pays."""
        sweeps = int(self.solution.iterations.max()) + 1
        if float(self.share.max()) > WORTH_TRYING:
            return f"does not pay: {sweeps:,} sweeps for {self.length:,} steps; use li.sequential or a smaller window"
        if bool((self.solution.result != Result.SUCCESS).any()):
            return "not solved, so there is no count to judge by"
        return (
            f"pays where {self.length:,} steps side by side cost less than {self.length / sweeps:,.4g} times one step, "
            "scan included"
        )

    def __str__(self) -> str:
        solution, result = self.solution, [Result(int(code)).name for code in self.solution.result.unique()]
        evaluations = float((solution.evaluations / self.length).mean())
        count = solution.result.numel()
        lines = {
            "solve": f"{'/'.join(result)}, {self.length:,} steps, {count} sequence{'s' * (count > 1)}",
            "iterations": f"{_span(solution.iterations)}, {evaluations:.1f} evaluations of f per step",
            "residual": f"{float(solution.residual.max()):.2g}; error to expect {float(self.error.max()):.2g}",
            **self._dynamics(),
            "verdict": self.verdict,
        }
        return "\n".join(f"{name:<11} {text}" for name, text in lines.items())

    def _dynamics(self) -> dict[str, str]:
        """What the exponents say, along the sequences that were solved: other states are no trajectory."""
        solved = self.solution.result == Result.SUCCESS
        if not bool(solved.any()):
            return {"exponent": "none: no sequence was solved, and these states are no trajectory"}
        largest, (lower, upper) = self.lyapunov.largest[solved], self.log_mu
        return {
            "exponent": f"{_span(largest, '+.3g')} nats per step: {_temper(self.lyapunov, solved)}",
            "condition": f"log mu from {float(lower[solved].min()):.3g} to {float(upper[solved].max()):.3g}, by the "
            "exponent",
        }


@spelled
def report(solution: Solution, *, prefix: int | None = 10_000) -> Report:
    """Look back at a solve: was it worth it, how sensitive is the recurrence, how exact are the states.

    Args:
        solution: of `li.solve`; with `record=True` its picture has a convergence map.
        prefix: time steps to take the exponent from; None for all. The error estimate takes them all.

    Returns:
        A `Report`.

    Raises:
        RuntimeError: for a solution that has been made light or was pickled.

    Example:
        >>> solution = li.solve(lambda s, u: 0.5 * s + u, torch.zeros(2), torch.ones(1000, 2))
        >>> print(li.diagnostics.report(solution))
        solve       SUCCESS, 1,000 steps, 1 sequence
        iterations  1, 2.0 evaluations of f per step
        residual    ...; error to expect ...
        exponent    -0.693 nats per step: stable, forgets e-fold within 1.44 steps
        condition   log mu from -1.39 to 0, by the exponent
        verdict     pays where 1,000 steps side by side cost less than 500 times one step, scan included
    """
    check_solution(solution)
    exponents = lyapunov_of(solution, prefix=prefix, blocks=40)
    with torch.no_grad():
        error = solution.error_estimate().abs().amax((0, -1))
    return Report(solution, exponents, error, mu_bounds(exponents.largest, solution.states.shape[0]))


def _temper(found: Lyapunov, solved: Tensor) -> str:
    """What the exponents say, for the most sensitive of the solved sequences."""
    memory = float(found.memory[solved][found.largest[solved].argmax()])
    if bool((found.largest[solved] == -torch.inf).all()):
        return "a difference is gone at once, in this precision"
    if bool(found.stable[solved].all()):
        return f"stable, forgets e-fold within {memory:.3g} steps"
    if bool(found.chaotic[solved].any()):
        return f"chaotic, a difference grows e-fold in {memory:.3g} steps; the count grows with T"
    return "at the edge of stability, where the count can go either way"


def _span(values: Tensor, form: str = ",") -> str:
    low, high = values.min().item(), values.max().item()
    return format(low, form) if low == high else f"{format(low, form)} to {format(high, form)}"
