"""One solve by `Auto`: measure, choose, pursue, and go step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lds_iter import device
from lds_iter.auto.arms import Arm, Candidate, Option, Outside
from lds_iter.auto.choosing import best, cost_of, options, unexplored, windows
from lds_iter.auto.costs import Outcome
from lds_iter.auto.course import Course
from lds_iter.auto.estimates import expected
from lds_iter.auto.evidence import Evidence
from lds_iter.auto.looking import distance, look_at_rows, rows_of
from lds_iter.auto.sampling import time_sweeps
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
"""Another candidate takes over when it should take so many times less, and an iteration is weighed anew when it should
take so many times what was promised; costs and counts are not more certain than that."""

BLOCK = 256
"""Sequential steps between two looks at whether their values are finite, and two calls of callbacks."""

STEPS = 4
"""Sequential steps that are timed. `solve` has called `f` before, to check it."""

SHORT = 12
"""An iteration costs at least so many sequential steps: it calls `f`, its derivatives, a scan and a few tests."""

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
        self.ceiling = math.inf

    def run(self) -> Workspace:
        """Everything, from the guess to results."""
        self.course.begin()
        short = self.course.outside is None and self.length * self.course.auto.budget < SHORT
        if short and self.course.may_step():
            self._decide(STEPWISE, f"{self.length} rows are too few for iterations to pay")
            self._step_by_step()
            return self.state
        self._learn()
        explored = self._explore()
        while not self.course.over:
            option = explored or best(options(self.course, None))
            explored = None
            if option.arm is None:
                self._decide(STEPWISE, option.why, option.seconds)
                self._step_by_step()
            else:
                self._decide(self._describe(option.arm), option.why, option.seconds)
                self._pursue(option.arm, option.seconds)
        self.course.save()
        return self.state

    def _learn(self) -> None:
        """Time what is not known yet of a problem of this kind."""
        if any(outcome.iterations is not None for outcome in self.costs.outcomes.values()):
            return
        if self.course.outside is None and self.rules.max_iters < 2 * STEPS:
            return
        if self.costs.step is None:
            finite, seconds = take_steps(self.problem, self.state, 0, STEPS, self.course.now)
            if finite:
                self.costs.stepped(seconds)
                self.costs.call = seconds
            self._show_steps(torch.zeros_like(self.state.frontier))
        if self.costs.drift is None:
            first = lowest(self.state, self.length)
            stop = min(self.length, first + rows_of(self.course))
            look_at_rows(self.course, self.state.buffer[first:stop], self.problem.inputs_at(first, stop))
            self.state.evaluations += 2 * (stop - first)
        time_sweeps(self.course)

    def _explore(self) -> Option | None:
        """Where something is known to work, and the budgets that were not spent allow it: what might be faster."""
        choice = best(options(self.course, None))
        if choice.arm is None or self.costs.known(choice.arm.name, choice.arm.window) is None:
            return None
        found = unexplored(self.course, choice.seconds)
        if found is not None:
            self.ceiling = choice.seconds
        return found

    def _sweep(self, arm: Arm) -> int:
        """One timed iteration of the loop; returns the rows that the slowest sequence has accepted."""
        rules = self._rules(arm)
        front, start = lowest(self.state, self.length), self.course.now()
        finished = iterate(self.problem, arm.candidate.method, self.state, rules)
        self.course.over = ended(self.state, finished, rules, self.flag)
        seconds, reached = self.course.now() - start, lowest(self.state, self.length)
        self.course.parallel += seconds
        self.course.swept_rows += reached - front
        if not self.course.over and (arm.window < self.length or front < self.length // 2):
            self.costs.swept(self.course.key(arm), arm.window, seconds)
        return reached

    def _rules(self, arm: Arm) -> Rules:
        return self.rules if arm.window == self.rules.window else replace(self.rules, window=arm.window)

    def _pursue(self, arm: Arm, promised: float) -> None:
        """Iterate while it promises to be the fastest way."""
        begin, known = self.course.parallel, self.costs.known(arm.name, arm.window)
        self.state.carry = arm.candidate.method.init(self.state.buffer[1:])
        stretches = math.ceil(self.course.to_go() / arm.window)
        evidence = Evidence(expected(self.course, arm.candidate) * stretches, self.length, self._target())
        if known is not None:
            self._repeat(arm, known, evidence)
        final = not self.course.may_step()
        while not self.course.over:
            reached = self._sweep(arm)
            if self.course.over:
                evidence.residuals.append(0.0)
                break
            running = self.state.result == Result.RUNNING
            evidence.add(float(self.state.residual.masked_fill(~running, 0).nan_to_num(torch.inf).max()), reached)
            if not final and not self._goes_on(arm, evidence, promised, self.course.parallel - begin):
                self._leave(arm, evidence, self.course.parallel - begin)
                return
        solved = bool((self.state.result == Result.SUCCESS).any())
        count = max(1, len(evidence.residuals) - 1)
        self.costs.ended(arm.name, arm.window, count if solved else None, self.course.parallel - begin)

    def _repeat(self, arm: Arm, known: Outcome, evidence: Evidence) -> None:
        """Iterate as the fixed method would, up to half as often again as last time: weighing costs time, too."""
        assert known.iterations is not None
        rules = self._rules(arm)
        flag = StopFlag(lag=device.lags(self.problem.s0) and not rules.watched(self.length))
        most = min(math.ceil(1.5 * known.iterations) + 2, self._affordable(known))
        front, start, done = lowest(self.state, self.length), self.course.now(), 0
        while not self.course.over and done < most:
            finished = iterate(self.problem, arm.candidate.method, self.state, rules)
            self.course.over = ended(self.state, finished, rules, flag)
            done += 1
        seconds, reached = self.course.now() - start, lowest(self.state, self.length)
        self.course.parallel += seconds
        self.course.swept_rows += reached - front
        self.costs.swept(self.course.key(arm), arm.window, seconds / done)
        evidence.residuals, evidence.fronts, evidence.expected = [math.inf] * done, [reached] * done, 0

    def _affordable(self, known: Outcome) -> int:
        """Iterations that take no longer than step-by-step evaluation of everything."""
        assert known.iterations is not None
        if not self.course.may_step() or not known.seconds > 0:
            return math.ceil(1.5 * known.iterations) + 2
        return max(1, int(self.length * self.course.step / known.seconds * (known.iterations + 1)))

    def _goes_on(self, arm: Arm, evidence: Evidence, promised: float, spent: float) -> bool:
        """Whether to go on, after `spent` seconds of an attempt that promised to take so many."""
        cost, done = cost_of(self.course, arm) or 0.0, len(evidence.residuals)
        hopeful = done < evidence.expected and self.course.lost + cost <= self.course.allowance
        if not hopeful and not self._proven(cost * evidence.shown()) and arm.window == self.length:
            self._look(evidence)
        shown = evidence.shown()
        proven = self._proven(cost * shown)
        if not (proven or hopeful) or spent > self.ceiling:
            return False
        seconds = cost * (shown if proven else min(shown, evidence.hoped()))
        if spent + seconds <= PATIENCE * promised:
            return True
        return all(
            seconds <= (option.seconds if option.arm is None else PATIENCE * option.seconds)
            for option in options(self.course, arm)
        )

    def _proven(self, seconds: float) -> bool:
        """Whether evidence for so many seconds to go is enough, and what may be lost on it is not lost yet."""
        rest = self.course.to_go() * self.course.step
        return seconds < rest and self.course.lost < self.length * self.course.step

    def _look(self, evidence: Evidence) -> None:
        """At a few rows, now, and of the guess. A linear recurrence needs no such evidence."""
        if getattr(self.problem.f, "linear_in_state", False) is True:
            return
        buffers = [self.state.buffer]
        if not evidence.looks:
            buffers.insert(0, torch.cat([self.problem.s0.unsqueeze(0), self.guess]))
        found = distance(self.course, buffers)
        evidence.looks |= dict(zip([0, len(evidence.residuals)][-len(found) :], found, strict=True))

    def _leave(self, arm: Arm, evidence: Evidence, spent: float) -> None:
        self.course.tried |= {
            Arm(arm.candidate, window) for window in windows(self.course, arm.candidate) if window >= arm.window
        }
        nearly = self.course.to_go() <= NEARLY * self.length
        self.costs.ended(arm.name, arm.window, len(evidence.residuals) if nearly else None, spent)
        self.ceiling = math.inf
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
            finite, _ = take_steps(self.problem, state, first, stop, self.course.now)
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
