"""One solve by `Auto`: measure, choose, pursue, and go step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lds_iter import _torch
from lds_iter._torch import StopFlag
from lds_iter.auto.arms import Arm, Candidate, Option, Outside
from lds_iter.auto.choosing import best, options, settled, unexplored, windows
from lds_iter.auto.costs import Outcome
from lds_iter.auto.course import Course
from lds_iter.auto.evidence import Evidence
from lds_iter.auto.head_start import head_start
from lds_iter.auto.looking import ask_for_sweeps, look_at_rows, rows_of
from lds_iter.auto.memory import begin_nearer, put_back, remember
from lds_iter.auto.steps import finish, lowest, show_steps, take_steps
from lds_iter.auto.trial import Trial, Verdict
from lds_iter.loop.run import ended, iterate
from lds_iter.loop.state import Problem, Rules, Workspace
from lds_iter.methods.jacobi import Jacobi
from lds_iter.solution import Decision, Result

if TYPE_CHECKING:
    from lds_iter.auto.auto import Auto

BLOCK = 256
"""Sequential steps between two looks at whether their values are finite, and two calls of callbacks."""

WARM, STEPS = 2, 4
"""Sequential steps that warm up, and that are timed then."""

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
        self.ceiling, self.warm = math.inf, False

    def run(self) -> Workspace:
        """Everything, from the guess to results."""
        self.course.begin()
        short = self.course.outside is None and self.length * self.course.auto.budget < SHORT
        if short and self.course.may_step():
            self._decide(STEPWISE, f"{self.length} rows are too few for iterations to pay")
            self._step_by_step()
            return self.state
        option = self._as_before()
        if option is not None:
            option = self._nearer(option)
        else:
            option = head_start(self.course, self.state.buffer[:1], self.problem.inputs_at(0, 1))
        if option is None:
            self._learn()
        while not self.course.over:
            option = option or best(options(self.course, None))
            self._decide(self._describe(option.arm), option.why, option.seconds or None)
            if option.arm is None:
                self._step_by_step()
            else:
                self._pursue(option.arm, option)
            option = None
        self.course.save()
        if self.costs.outcomes:
            remember(self.course)
        return self.state

    def _learn(self) -> None:
        """Time what is not known yet of a problem of this kind."""
        if self.course.outside is None and self.rules.max_iters < 2 * (WARM + STEPS):
            return
        if self.costs.step is None and self.course.to_go() > WARM + STEPS:
            before, first = self.state.frontier, self.course.front
            stop = first + WARM + STEPS
            finite, seconds = take_steps(self.problem, self.state, first, stop, self.course.now, WARM)
            if finite:
                self.costs.stepped(seconds)
            self.course.moved()
            show_steps(self.state, self.rules, before)
        if self.costs.picard is None:
            first = self.course.front
            stop = min(self.length, first + rows_of(self.course))
            rows = self.state.buffer[first:stop], self.problem.inputs_at(first, stop)
            ask_for_sweeps(self.course, *rows)
            self.state.evaluations += look_at_rows(self.course, *rows) * (stop - first)

    def _as_before(self) -> Option | None:
        """What worked before and beats stepping, or what might be faster, as far as budgets were not spent."""
        choice = settled(self.course)
        if choice is not None:  # what the first solve could do without, and later ones compare with
            self.course.time_outside()
            if self.costs.step is None:
                self._learn()
        if choice is None or (self.course.may_step() and choice.seconds > self.length * self.course.step):
            return None
        found = unexplored(self.course, choice.seconds)
        if found is not None:
            self.ceiling = choice.seconds
        return found or choice

    def _nearer(self, option: Option) -> Option:
        """Begin at the states of the last solve, if they are nearer, unless something is being tried out."""
        chosen = begin_nearer(self.course, self.guess, option.seconds) if self.ceiling == math.inf else None
        if chosen is None:
            return option
        self.guess, self.warm = chosen, True
        return replace(option, why=f"{option.why}; it begins at the states of the last solve, which are nearer")

    def _sweep(self, arm: Arm) -> None:
        """One timed iteration of the loop."""
        rules, front, start = self._rules(arm), self.course.front, self.course.now()
        finished = iterate(self.problem, arm.candidate.method, self.state, rules)
        self.course.over = ended(self.state, finished, rules, self.flag)
        seconds = self.course.now() - start
        self.course.parallel += seconds
        self.course.swept_rows += self.course.moved()
        if not self.course.over and (arm.window < self.length or front < self.length // 2):
            self.costs.swept(self.course.key(arm), arm.window, seconds)

    def _rules(self, arm: Arm) -> Rules:
        return self.rules if arm.window == self.rules.window else replace(self.rules, window=arm.window)

    def _pursue(self, arm: Arm, option: Option) -> None:
        """Iterate while it promises to be the fastest way."""
        begin, known = self.course.parallel, self.costs.known(arm.name, arm.window)
        self.state.carry = arm.candidate.method.init(self.state.buffer[1:])
        before = 0
        if known is not None or option.unweighed:
            before = self._repeat(arm, option.unweighed if known is None else self._affordable(known))
        if option.unweighed and not self.course.over:
            self._learn()
        final, trial = not self.course.may_step(), None
        while not self.course.over:
            trial = trial or Trial.start(self.course, arm, self.guess, option.seconds, self.ceiling, before)
            self._sweep(arm)
            if self.course.over:
                break
            trial.see()
            if len(trial.evidence.residuals) >= trial.evidence.expected:
                self.course.time_outside()  # from here on the least that it could take is no measure
            verdict = Verdict.ON if final else trial.verdict(self.course.parallel - begin)
            if verdict != Verdict.ON:
                self._leave(arm, trial.evidence, verdict, self.course.parallel - begin, repeated=known is not None)
                return
        if known is not None and (self.course.tried or self.warm):
            return  # it began where others had left off, or the last solve
        done = before - 1 if trial is None else len(trial.evidence.residuals)
        solved = bool((self.state.result == Result.SUCCESS).any())
        self.costs.ended(arm.name, arm.window, max(1, done) if solved else None, self.course.parallel)

    def _repeat(self, arm: Arm, most: int) -> int:
        """Iterate as the fixed method would, up to so many times; returns how often that was.

        Weighing everything after each iteration would cost more than it saves.
        """
        rules = self._rules(arm)
        flag = StopFlag(lag=_torch.lags(self.problem.s0) and not rules.watched(self.length))
        start, done = self.course.now(), 0
        while not self.course.over and done < most:
            finished = iterate(self.problem, arm.candidate.method, self.state, rules)
            self.course.over = ended(self.state, finished, rules, flag)
            done += 1
        seconds = self.course.now() - start
        self.course.parallel += seconds
        self.course.swept_rows += self.course.moved()
        self.costs.swept(self.course.key(arm), arm.window, seconds / done)
        return done

    def _affordable(self, known: Outcome) -> int:
        """Half as many evaluations again as last time, if they take no longer than step-by-step evaluation of all."""
        assert known.iterations is not None
        usual = known.iterations + 1
        most = math.ceil(1.5 * usual)
        if self.course.may_step() and known.seconds > 0:
            most = min(most, int(self.length * self.course.step * usual / known.seconds))
        return max(1, most)

    def _leave(self, arm: Arm, evidence: Evidence, verdict: Verdict, spent: float, *, repeated: bool) -> None:
        self.course.tried |= {
            Arm(arm.candidate, window) for window in windows(self.course, arm.candidate) if window >= arm.window
        }
        self.ceiling = math.inf
        nearly = self.course.to_go() <= NEARLY * self.length
        if verdict == Verdict.FAILED:
            self.course.failed.add(arm.candidate)
            if len(evidence.residuals) == 1:
                self.costs.forget(self.course.key(arm), arm.window)
        if verdict == Verdict.FAILED or nearly or repeated:  # what is not repeated was owed to what went before it
            self.costs.ended(arm.name, arm.window, len(evidence.residuals) if nearly else None, spent)
        if evidence.grew:
            put_back(self.state, self.guess)  # what the attempt left there is worse

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
            self.course.moved()
            show_steps(self.state, self.rules, before)
            self.course.over = not bool((state.result == Result.RUNNING).any())
            if not finite and not self.course.over:
                state.carry = None
                self._sweep(Arm(Candidate(Jacobi()), self.rules.window))  # the loop finds what is not finite

    def _describe(self, arm: Arm | None) -> str:
        if arm is None:
            return STEPWISE
        return arm.name if arm.window >= self.length else f"{arm.name} in windows of {arm.window} rows"

    def _decide(self, choice: str, why: str, projected: float | None = None) -> None:
        row = self.course.front
        unknown = projected is None or projected == math.inf or self.costs.step is None
        rest = None if unknown else self.course.to_go() * self.course.step
        record = Decision(self.state.sweeps, row, choice, why, None if rest is None else projected, rest)
        self.state.decisions = (*self.state.decisions, record)
