"""A solve beside the loop over time: how far apart they are, from where on, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.checks import check_arguments
from lds_iter.guesses import Guess, repeat_initial
from lds_iter.loop.notes import explained
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.recurrence import Function, detached
from lds_iter.solution import Result, Solution
from lds_iter.solve import solve
from lds_iter.testing.plainly import plain_loop

SLACK = 16.0
"""An error is explained where it is at most this many times what rounding, tolerance and residual amount to, each
amplified: their estimates are of first order, and their signs may add up."""


@dataclass(frozen=True)
class Verification:
    """A solve beside the loop: print it. Everything per sequence, `(*batch)`, or per row, `(T, *batch)`.

    Attributes:
        solution: of the solve.
        truth: the states of the loop, `(T, *batch, D)`.
        errors: the largest difference of a row, `(T, *batch)`.
        amplified_residual: what the residual amounts to in each row, to first order, `(T, *batch)`.
        amplified_rounding: how far two loops are apart that round differently at every step, `(T, *batch)`.
        tolerance: of the residual in each row, `(T, *batch)`.
    """

    solution: Solution
    truth: Tensor
    errors: Tensor
    amplified_residual: Tensor
    amplified_rounding: Tensor
    tolerance: Tensor

    @property
    def error(self) -> Tensor:
        """The largest difference from the loop, `(*batch)`."""
        return self.errors.amax(0)

    @property
    def first_step(self) -> Tensor:
        """The first time step, counted from 0, that differs by more than the tolerance; -1 where none does."""
        return _first(~(self.errors <= self.tolerance))

    @property
    def explained(self) -> Tensor:
        """Whether residual and rounding, amplified, explain the error, `(*batch)`."""
        return _first(~(self.errors <= self._allowed)) < 0

    @property
    def _allowed(self) -> Tensor:
        """The error of each row that there are reasons for: none is smaller than one before it was."""
        return SLACK * (self.tolerance + self.amplified_residual + self.amplified_rounding).cummax(0).values

    @property
    def passed(self) -> bool:
        """Whether every sequence was solved, and its error is explained."""
        return bool((self.solution.result == Result.SUCCESS).all()) and bool(self.explained.all())

    def raise_if_failed(self) -> Verification:
        """The verification itself where it passes.

        Raises:
            AssertionError: where a sequence was not solved, or its error is not explained.
        """
        if not self.passed:
            raise AssertionError(f"\n{self}")
        return self

    @property
    def verdict(self) -> str:
        """One sentence on what the error comes from."""
        if not bool((self.solution.result == Result.SUCCESS).all()):
            return "not solved: see the result, and what SolveError says without throw=False"
        if not bool(self.explained.all()):
            return (
                "WRONG: nothing explains this error. `f` depends on which rows come together, or on how often it is "
                "called: li.testing.check_recurrence(f, s0, inputs)"
            )
        if bool((self.first_step < 0).all()):
            return "right: no state differs by more than the tolerance"
        if _most(_of(self.amplified_rounding, self._worst)) >= _most(self.error) / SLACK:
            return (
                "right, as far as that means anything: the recurrence amplifies rounding to this size, and two loops "
                "on two machines would differ as much"
            )
        return "right: the residual that the tolerance allows, amplified. For less: smaller `rtol` and `atol`"

    @property
    def _worst(self) -> int:
        """The sequence with the largest error, counted over the flattened batch."""
        return int(self.error.nan_to_num(torch.inf).flatten().argmax())

    def __str__(self) -> str:
        solution, length = self.solution, len(self.truth)
        first = self.first_step
        error, at = _of(self.errors, self._worst).max(0)
        early = int(first[first >= 0].min()) if bool((first >= 0).any()) else None
        begins = "none" if early is None else f"{early} of {length}, the first that differs by more than the tolerance"
        lines = {
            "solve": repr(solution).removeprefix("Solution"),
            "error": f"{float(error):.2g} at time step {int(at)} of sequence {self._worst}, beside the loop",
            "first step": begins,
            "residual": f"up to {float(solution.residual.max()):.2g}; amplified {_most(self.amplified_residual):.2g}",
            "rounding": f"of one step in every step, amplified {_most(self.amplified_rounding):.2g}",
            "verdict": self.verdict,
        }
        return "\n".join(f"{name:<11} {text}" for name, text in lines.items())


@explained
def verify(
    f: Function,
    s0: Tensor,
    inputs: Any,
    method: LDSApproximation | AbstractStrategy | None = None,
    *,
    guess: Tensor | Guess = repeat_initial,
    rtol: float | None = None,
    atol: float | None = None,
    max_iters: int | None = None,
    window: int | None = None,
) -> Verification:
    """Solve, run the plain loop over time too, and say how far they are apart, from which step on, and why.

    Rounding is told from a fault by a third run, of the loop with one more rounding error in every step. So this takes
    2 T steps one after the other.

    Args:
        f, s0, inputs, method, guess, rtol, atol, max_iters, window: as `solve` takes them.

    Returns:
        A `Verification`: print it, or `li.verify(...).raise_if_failed()` in a test.

    Raises:
        TypeError, ValueError: for arguments that cannot work.

    Example:
        >>> print(li.verify(lambda s, u: 0.5 * s.sin() + u, torch.zeros(2), torch.ones(1000, 2)).verdict)
        right: ...
    """
    options = {"rtol": rtol, "atol": atol, "max_iters": max_iters, "window": window}
    given = check_arguments(f, s0, inputs, method, guess, **options)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        s0, inputs = s0.detach(), detached(inputs)
        solution = solve(f, s0, inputs, method, guess=guess, throw=False, **options)  # pyright: ignore
        truth, shaken = plain_loop(f, s0, inputs), plain_loop(f, s0, inputs, shaken=_rounded)
        estimate = solution.error_estimate().abs().amax(-1)
        error = (solution.states - truth).where(solution.states != truth, 0).abs().amax(-1)
        tolerance = given.options.atol + given.options.rtol * truth.abs().amax(-1)
        rounding = (shaken - truth).where(shaken != truth, 0).abs().amax(-1)
    least = torch.finfo(truth.dtype).eps * truth.abs().amax(-1)
    return Verification(solution, truth, error, estimate, torch.maximum(rounding, least), tolerance)


def _rounded(s: Tensor, t: int) -> Tensor:
    """A state with another rounding of its last digit, up or down by turns of time and coordinate."""
    turns = torch.arange(s.shape[-1], device=s.device) * 7 + t * 5
    return s * (1 + torch.finfo(s.dtype).eps * (1 - 2.0 * (turns // 3 % 2).to(s.dtype)))


def _first(wrong: Tensor) -> Tensor:
    """The first row where it is true, -1 where none is, `(*batch)`."""
    return torch.where(wrong.any(0), wrong.to(torch.uint8).argmax(0), -1)


def _of(rows: Tensor, sequence: int) -> Tensor:
    """One sequence, `(T)`, of rows `(T, *batch)`."""
    return rows.reshape(len(rows), -1)[:, sequence]


def _most(rows: Tensor) -> float:
    return float(rows.nan_to_num(torch.inf).max())
