"""Solve a span of time; where that fails, solve its first half and then its second.

On a chaotic or strongly growing stretch the linearization along a guess explodes, and the guess for late times is
worthless anyway, for it grew out of small errors at early ones. From the end of an exact first half the second half
gets a fresh guess. Which spans a sequence is solved on depends on that sequence alone; its mates rest at their
solution meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lds_iter.solution import Result

ATTEMPT_ITERATIONS = 12
"""A span that takes more iterations is halved: a good guess takes 2 to 5."""


@dataclass(frozen=True)
class Span:
    """A stretch of steps, solved or not; all but `states` per sequence, `(*batch)`.

    Attributes:
        states: after each step, `(n, *batch, D)`.
        result: `Result` codes.
        iterations: updates made, on this span and those that it was divided into, one after the other.
        evaluations: rows evaluated.
    """

    states: Tensor
    result: Tensor
    iterations: Tensor
    evaluations: Tensor

    @property
    def failed(self) -> Tensor:
        """True for sequences that smaller spans may help."""
        return self.result == int(Result.MAX_ITERS)


@dataclass(frozen=True)
class Spans:
    """How spans of one solve are solved.

    Attributes:
        attempt: solves the steps of a slice from a state and a guess, with a limit of iterations.
        guess: makes a guess for the steps of a slice from the state before them.
        certain: solves a slice that is not divided further.
        least: the length of a span that is not divided further.
    """

    attempt: Callable[[slice, Tensor, Tensor, int], Span]
    guess: Callable[[slice, Tensor], Tensor]
    certain: Callable[[slice, Tensor], Span]
    least: int

    def solve(self, rows: slice, s0: Tensor, guess: Tensor, solved: Tensor) -> Span:
        """The steps of a slice.

        Args:
            rows: which steps.
            s0: the state before them, `(*batch, D)`.
            guess: where to start, `(n, *batch, D)`; the solution, of sequences that are solved already.
            solved: those, `(*batch)`.
        """
        return self.go_on(rows, s0, self.attempt(rows, s0, guess, ATTEMPT_ITERATIONS), solved)

    def go_on(self, rows: slice, s0: Tensor, first: Span, solved: Tensor) -> Span:
        """The same after a first attempt."""
        failed = first.failed & ~solved
        if not bool(failed.any()):
            return first
        middle = (rows.start + rows.stop) // 2
        early, late = slice(rows.start, middle), slice(middle, rows.stop)
        one = self._part(early, s0, first.states[: middle - rows.start], ~failed)
        two = self._part(late, one.states[-1], first.states[middle - rows.start :], ~failed)
        return Span(
            torch.where(failed.unsqueeze(-1), torch.cat([one.states, two.states]), first.states),
            torch.where(failed, torch.maximum(one.result, two.result), first.result),
            first.iterations + torch.where(failed, one.iterations + two.iterations, 0),
            first.evaluations + torch.where(failed, one.evaluations + two.evaluations, 0),
        )

    def _part(self, rows: slice, s0: Tensor, known: Tensor, solved: Tensor) -> Span:
        settled = solved.unsqueeze(-1)
        if rows.stop - rows.start <= self.least:
            found = self.certain(rows, s0)
            return replace(found, states=torch.where(settled, known, found.states))
        return self.solve(rows, s0, torch.where(settled, known, self.guess(rows, s0)), solved)

    def one_after_the_other(self, spans: list[slice], s0: Tensor, guess: Tensor) -> Span:
        """Several spans, each from a fresh guess, but for the first, which starts from `guess`."""
        nobody = torch.zeros_like(s0[..., 0], dtype=torch.bool)
        found: list[Span] = []
        for rows in spans:
            start = guess if rows.start == 0 else self.guess(rows, s0)
            found.append(self.solve(rows, s0, start, nobody))
            s0 = found[-1].states[-1]
        if len(found) == 1:
            return found[0]
        return Span(
            torch.cat([span.states for span in found]),
            torch.stack([span.result for span in found]).amax(0),
            torch.stack([span.iterations for span in found]).sum(0),
            torch.stack([span.evaluations for span in found]).sum(0),
        )
