"""One solve by `Auto`: measure, choose, pursue, and go step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lds_iter.auto.arms import Arm, Candidate, Outside
from lds_iter.auto.choosing import best, cost_of, expected, options, windows
from lds_iter.auto.course import Course
from lds_iter.auto.evidence import Evidence
from lds_iter.auto.sampling import SWEEP_IN_STEPS, time_sweeps
from lds_iter.auto.steps import finish, lowest, record_steps, take_steps
from lds_iter.decisions import Decision
from lds_iter.device import StopFlag
from lds_iter.loop import ended, iterate, stopped, watch
from lds_iter.methods.jacobi import Jacobi
from lds_iter.solution import Result
from lds_iter.workspace import Problem, Rules, Workspace

if TYPE_CHECKING:
    from lds_iter.auto.auto import Auto

PATIENCE = 1.5
"""Another candidate takes over when it should take so many times less; its cost and count are less certain."""

BLOCK = 256
"""Sequential steps between two looks at whether their values are finite, and two calls of callbacks."""

STEPS = 8
"""Sequential steps that are timed; one more before them warms up."""

NEARLY = 0.02
"""With at most this share of the rows to go, an attempt has solved the problem, whatever takes over."""

STEPWISE = "step by step"


class Driver:
    """The state of one solve."""

    def __init__(
        self, auto: Auto, problem: Problem, guess: Tensor, rules: Rules, outside: Outside | None = None
    ) -> None:
        costs = auto.costs.of(problem, None if outside is None else outside.kind)
        state = Workspace.start(problem, auto.candidates[0].method, guess, rules)
        self.course = Course(auto, problem, rules, outside, costs, state)
        self.problem, self.guess, self.rules, self.costs, self.state = problem, guess, rules, costs, state
        self.length, self.flag = problem.length, StopFlag(lag=False)

    def run(self) -> Workspace:
        """Everything, from the guess to results."""
        self.costs.solves += 1
        if self.course.outside is not None:
            self.costs.step = self.course.outside.step
            self.course.earn(self.course.auto.costs.idle)
        if (
            self.course.outside is None
            and self.length * self.course.auto.budget < SWEEP_IN_STEPS
            and self.course.may_step()
        ):
            self._decide(STEPWISE, f"{self.length} rows are too few for iterations to pay")
            self._step_by_step()
            return self.state
        self._time_steps()
        time_sweeps(self.course)
        while not self.course.over:
            option = best(options(self.course, None))
            if option.arm is None:
                self._decide(STEPWISE, option.why, option.seconds)
                self._step_by_step()
            else:
                self._decide(self._describe(option.arm), option.why, option.seconds)
                self._pursue(option.arm)
        self.course.save()
        return self.state

    def _time_steps(self) -> None:
        """The first rows, one at a time, unless it is known what a step takes."""
        if self.costs.step is not None or self.rules.max_iters < 2 * STEPS:
            return
        finite = take_steps(self.problem, self.state, 0, 1)
        start = self.course.now()
        if finite:
            take_steps(self.problem, self.state, 1, 1 + STEPS)
            self.costs.stepped((self.course.now() - start) / STEPS)
        self._show_steps(torch.zeros_like(self.state.frontier))

    def _sweep(self, arm: Arm) -> None:
        """One timed iteration of the loop."""
        method, rules = arm.candidate.method, replace(self.rules, window=arm.window)
        front, start = lowest(self.state, self.length), self.course.now()
        self.course.over = ended(self.state, iterate(self.problem, method, self.state, rules), rules, self.flag)
        seconds = self.course.now() - start
        self.course.parallel += seconds
        self.course.swept_rows += lowest(self.state, self.length) - front
        if not self.course.over and (arm.window < self.length or front < self.length // 2):
            self.costs.swept(self.course.key(arm), arm.window, seconds)

    def _pursue(self, arm: Arm) -> None:
        """Iterate while it promises to be the fastest way."""
        method, window = arm.candidate.method, arm.window
        self.state.carry = method.init(self.state.buffer[1:])
        stretches = math.ceil(self.course.to_go() / window)
        evidence = Evidence(expected(self.course, arm.candidate) * stretches, self.length, self._target())
        known, final = self.costs.known(arm.name, window), not self.course.may_step()
        while not self.course.over:
            self._sweep(arm)
            if self.course.over:
                break
            running = self.state.result == Result.RUNNING
            residual = float(self.state.residual.masked_fill(~running, 0).nan_to_num(torch.inf).max())
            evidence.add(residual, lowest(self.state, self.length))
            if not final and not self._goes_on(arm, evidence, known):
                self._leave(arm, evidence)
                return
        solved = bool((self.state.result == Result.SUCCESS).any())
        self.costs.ended(arm.name, window, max(1, len(evidence.residuals)) if solved else None)

    def _goes_on(self, arm: Arm, evidence: Evidence, known: int | None) -> bool:
        cost = cost_of(self.course, arm) or 0.0
        done, shown = len(evidence.residuals), evidence.shown()
        if known is not None and done <= 1.5 * known + 1:
            shown = min(shown, max(1.0, known - done))
        rest = self.course.to_go() * self.course.step
        proven = cost * shown < rest and self.course.lost < self.length * self.course.step
        hopeful = self.course.lost + cost <= self.course.allowance
        if not (proven or hopeful):
            return False
        if proven and known is not None and done <= known:
            return True  # as the last time: weighing everything again would cost more than it saves
        seconds = cost * (shown if proven else min(shown, evidence.hoped()))
        others = options(self.course, arm)
        return all(
            seconds <= (option.seconds if option.arm is None else PATIENCE * option.seconds) for option in others
        )

    def _leave(self, arm: Arm, evidence: Evidence) -> None:
        self.course.tried |= {
            Arm(arm.candidate, window) for window in windows(self.course, arm.candidate) if window >= arm.window
        }
        nearly = self.course.to_go() <= NEARLY * self.length
        self.costs.ended(arm.name, arm.window, len(evidence.residuals) if nearly else None)
        if evidence.grew:
            self._restart()

    def _restart(self) -> None:
        """Put the guess back into the rows that are not accepted: what an attempt left there is worse."""
        state = self.state
        times = torch.arange(self.length, device=self.guess.device).view(-1, *[1] * state.frontier.ndim)
        open_ = (times >= state.frontier) & (state.result == Result.RUNNING)
        state.buffer[1:].copy_(torch.where(open_.unsqueeze(-1), self.guess, state.buffer[1:]))

    def _target(self) -> float:
        """The residual to reach, for states of a typical size."""
        rows = self.state.buffer[1 :: max(1, self.length // 64)]
        typical = max(float(rows.abs().mean()), 1e-3)
        tolerance = self.rules.atol + self.rules.rtol * typical
        return max(tolerance, torch.finfo(rows.dtype).eps * typical)

    def _step_by_step(self) -> None:
        """The rest, one row after the other; or leave it to the kernel outside."""
        state = self.state
        if self.course.outside is not None:
            running = state.result == Result.RUNNING
            state.result = state.result.masked_fill(running, int(Result.STOPPED))
            state.residual = state.residual.masked_fill(running, torch.nan)  # that of the iterate before
            self.course.over = True
            return
        while not self.course.over:
            first = lowest(state, self.length)
            before, stop, start = state.frontier, min(self.length, first + BLOCK), self.course.now()
            finite = take_steps(self.problem, state, first, stop)
            self.costs.stepped((self.course.now() - start) / (stop - first))
            finish(state, self.length)
            self._show_steps(before)
            self.course.over = not bool((state.result == Result.RUNNING).any())
            if not finite and not self.course.over:
                state.carry = None
                self._sweep(Arm(Candidate(Jacobi()), self.rules.window))  # the loop finds what is not finite

    def _show_steps(self, before: Tensor) -> None:
        """As after an evaluation in the loop: the record, callbacks, and the rule that may end it."""
        state, rules = self.state, self.rules
        if rules.record:
            record_steps(state, before)
        watch(state, rules)
        stopped(state, state.result == Result.RUNNING, rules)

    def _describe(self, arm: Arm) -> str:
        return arm.name if arm.window >= self.length else f"{arm.name} in windows of {arm.window} rows"

    def _decide(self, choice: str, why: str, projected: float | None = None) -> None:
        row = lowest(self.state, self.length)
        rest = None if projected is None or projected == math.inf else self.course.to_go() * self.course.step
        record = Decision(self.state.sweeps, row, choice, why, None if rest is None else projected, rest)
        self.state.decisions = (*self.state.decisions, record)
