"""An attempt with one arm, and what is made of it after each iteration."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.auto.arms import Arm
from lds_iter.auto.choosing import cost_of, rescuable, rivals
from lds_iter.auto.course import Course
from lds_iter.auto.estimates import expected, reliable
from lds_iter.auto.evidence import Evidence
from lds_iter.auto.looking import distance
from lds_iter.loop.state import Rules, Workspace
from lds_iter.solution import Result

PATIENCE = 1.5
"""Another candidate takes over when it should take so many times less, and an iteration is weighed anew when it should
take so many times what was promised; costs and counts are not more certain than that."""


class Verdict(enum.Enum):
    """After an iteration: on with it, something else should take less, or there is neither evidence nor hope."""

    ON = enum.auto()
    OVERTAKEN = enum.auto()
    FAILED = enum.auto()


@dataclass
class Trial:
    """An attempt.

    Attributes:
        course: of the solve.
        arm: what is tried.
        guess: of the solve.
        promised: seconds that it should take.
        ceiling: seconds that it may take as an experiment beside something that is known to work; else infinite.
        evidence: what it has shown.
    """

    course: Course
    arm: Arm
    guess: Tensor
    promised: float
    ceiling: float
    evidence: Evidence

    @staticmethod
    def start(course: Course, arm: Arm, guess: Tensor, promised: float, ceiling: float, before: int) -> Trial:
        """Without evidence; `before`: iterations that were made without looking, after which there is no hope left."""
        assert course.state is not None
        stretches = math.ceil(course.to_go() / arm.window)
        usual = 0 if before else expected(course, arm.candidate) * stretches
        evidence = Evidence(usual, course.length, _target(course.state, course.rules))
        for _ in range(before):
            evidence.add(math.inf, course.front)
        return Trial(course, arm, guess, promised, ceiling, evidence)

    def see(self) -> None:
        """Note an iterate."""
        state = self.course.state
        assert state is not None
        residual = state.residual.masked_fill(state.result != Result.RUNNING, 0).nan_to_num(torch.inf)
        self.evidence.add(float(residual.max()), self.course.front)

    def verdict(self, spent: float) -> Verdict:
        """Whether to go on, after so many seconds."""
        course, evidence, cost = self.course, self.evidence, cost_of(self.course, self.arm) or 0.0
        hopeful, limit = self._hopeful(cost), PATIENCE * self.ceiling - spent
        claimed = cost * evidence.shown()
        if not (self._proven(claimed) and claimed <= limit) and not (hopeful and math.inf in (claimed, limit)):
            self._look()
        shown = evidence.shown()
        dear = limit < cost * shown < math.inf or spent > self.ceiling
        if dear or not (hopeful or self._proven(cost * shown)):
            return Verdict.FAILED
        seconds = cost * (min(shown, evidence.hoped()) if hopeful else shown)
        if spent + seconds <= PATIENCE * self.promised or self.ceiling < math.inf:
            return Verdict.ON
        others = rivals(course, self.arm)
        ahead = any(seconds > (PATIENCE if other.arm else 1.0) * other.seconds for other in others)
        return Verdict.OVERTAKEN if ahead else Verdict.ON

    def _hopeful(self, cost: float) -> bool:
        """Whether the budget has room for another iteration that nothing speaks for.

        After the usual count something is left for a method to the rescue, if there is one.
        """
        if reliable(self.course, self.arm.candidate) and len(self.evidence.residuals) <= self.evidence.expected:
            return True  # and one more, to see it
        if self.course.lost + cost > self.course.allowance:
            return False
        if len(self.evidence.residuals) < self.evidence.expected or self.ceiling < math.inf:
            return True
        return not (self.arm.candidate.rescue or rescuable(self.course))

    def _proven(self, seconds: float) -> bool:
        """Whether evidence for so many seconds to go is enough, and what may be lost on it is not lost yet."""
        rest = self.course.to_go() * self.course.step
        return seconds < rest and self.course.lost < self.course.length * self.course.step

    def _look(self) -> None:
        """At a few rows, now, and of the guess. What solves a linear recurrence at once needs no such evidence, and a
        window has none."""
        course, looks = self.course, self.evidence.looks
        at_once = course.costs.linear and self.arm.candidate.linear == 1
        if self.arm.window < course.length or at_once or course.state is None:
            return
        if not looks:
            looks[0] = distance(course, torch.cat([course.problem.s0.unsqueeze(0), self.guess]))
        looks[len(self.evidence.residuals)] = distance(course, course.state.buffer)


def _target(state: Workspace, rules: Rules) -> float:
    """The residual to reach, for states of a typical size."""
    rows = state.buffer[1 :: max(1, (state.buffer.shape[0] - 1) // 64)]
    typical = max(float(rows.abs().mean()), 1e-3)
    return max(rules.atol + rules.rtol * typical, torch.finfo(rows.dtype).eps * typical)
