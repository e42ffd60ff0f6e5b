"""One solve by `Auto`: measure, choose, pursue, and go step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lds_iter.auto.arms import Arm, Candidate, Option, Outside, numbers
from lds_iter.auto.evidence import Evidence
from lds_iter.auto.steps import finish, lowest, record_steps, take_steps
from lds_iter.decisions import Decision, duration
from lds_iter.device import StopFlag
from lds_iter.loop import ended, iterate, stopped, watch
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.jacobi import Jacobi
from lds_iter.methods.trust_region import TrustRegion
from lds_iter.solution import Result
from lds_iter.workspace import Problem, Rules, Workspace

if TYPE_CHECKING:
    from lds_iter.auto.auto import Auto

STEPS = 8
"""Sequential steps that are timed; one more before them warms up."""

SAMPLE = 256
"""Rows of the second of three iterations that are timed, fewer where `SAMPLE_NUMBERS` bind; the first has an eighth of
them, the third a tenth of T."""

WORK = 0.25
"""At least this share of such an iteration is taken to grow with its rows when the third one is decided on."""

SAMPLE_NUMBERS = 1 << 15
"""Numbers that the transitions of such an iteration may have, so that it costs little more than its overhead."""

SWEEP_IN_STEPS = 12
"""An iteration is taken to cost so many sequential steps before one was measured: it calls `f`, its derivatives, a scan
and a few tests."""

PLAIN_IN_STEPS = 100
"""The same for a function whose derivatives torch.func has to find, at every iteration anew."""

SLIDING, TRUSTED = 1.5, 2.0
"""What an iteration of a sliding window, and of a `TrustRegion`, is taken to cost before one was measured, in
units of one over as many rows and of its inner method."""

WINDOWS = (1, 8, 64)
"""What T is divided by for the windows to choose from."""

CREDIT, DEBT = 4, 64
"""Solves whose unspent budgets a later one may spend at most, and that at most save for what one has overdrawn."""

PATIENCE = 1.5
"""Another candidate takes over when it should take so many times less; its cost and count are less certain."""

BLOCK = 256
"""Sequential steps between two looks at whether their values are finite, and two calls of callbacks."""

DENSE_NUMBERS = 1 << 27
"""Numbers that the matrices of a `TrustRegion`, which takes all its rows at once, may have: 512 MiB in float32."""

STEPWISE = "step by step"


class Driver:
    """The state of one solve."""

    def __init__(
        self, auto: Auto, problem: Problem, guess: Tensor, rules: Rules, outside: Outside | None = None
    ) -> None:
        self.auto, self.problem, self.guess, self.rules, self.outside = auto, problem, guess, rules, outside
        self.length = problem.length
        self.costs = auto.costs.of(problem, None if outside is None else outside.kind)
        self.state = Workspace.start(problem, auto.candidates[0].method, guess, rules)
        self.flag = StopFlag(lag=False)
        self.parallel, self.swept_rows = 0.0, 0  # seconds of iterations, and rows accepted by them
        self.tried: set[Arm] = set()
        self.over = False

    def run(self) -> Workspace:
        """Everything, from the guess to results."""
        self.costs.solves += 1
        if self.outside is not None:
            self.costs.step = self.outside.step
            self._earn(self.auto.costs.idle)
        if self.outside is None and self.length * self.auto.budget < SWEEP_IN_STEPS and self._may_step():
            self._decide(STEPWISE, f"{self.length} rows are too few for iterations to pay")
            self._step_by_step()
            return self.state
        self._time_steps()
        self._time_sweeps()
        while not self.over:
            option = self._best(self._options(None))
            if option.arm is None:
                self._decide(STEPWISE, option.why, option.seconds)
                self._step_by_step()
            else:
                self._decide(self._describe(option.arm), option.why, option.seconds)
                self._pursue(option.arm)
        self._save()
        return self.state

    # Measuring

    def _time_steps(self) -> None:
        """The first rows, one at a time, unless it is known what a step takes."""
        if self.costs.step is not None or self.rules.max_iters < 2 * STEPS:
            return
        finite = take_steps(self.problem, self.state, 0, 1)
        start = self._now()
        if finite:
            take_steps(self.problem, self.state, 1, 1 + STEPS)
            self.costs.stepped((self._now() - start) / STEPS)
        self._show_steps(torch.zeros_like(self.state.frontier))

    def _time_sweeps(self) -> None:
        """Iterations of every candidate to start with over a few rows, then over more, where the budget has room."""
        for level in range(3):
            for candidate in self.auto.candidates:
                if self.over or candidate.rescue:
                    continue
                name, rows = str(candidate.method), self._sample_rows(candidate.method)[level]
                known = max(self.costs.sweeps.get(name, ()), default=0)
                if known < rows and self._lost + self._sample_guess(name, rows, known) <= self._allowance:
                    self._sample(candidate.method, rows)

    def _sample_guess(self, name: str, rows: int, known: int) -> float:
        """What a sample may cost: the first ones are overhead by the choice of their rows, the last one is work."""
        cost = self.costs.sweep(name, rows)
        if cost is None:
            own = getattr(self.problem.f, "linearize", None) is not None
            return (SWEEP_IN_STEPS if own else PLAIN_IN_STEPS) * self._step
        before = self.costs.sweeps[name][known]
        return max(min(cost, 2 * before), WORK * before * rows / known)

    def _sample_rows(self, method: LDSApproximation) -> tuple[int, int, int]:
        size = self.problem.s0.numel() * numbers(method, self.problem.s0.shape[-1])
        most = min(self.length // 4, self.rules.window)
        rows = min(SAMPLE, max(16, SAMPLE_NUMBERS // size), most)
        return max(2, rows // 8), rows, min(most, max(rows, self.length // 10))

    def _sample(self, method: LDSApproximation, rows: int) -> None:
        """Time one iteration over the next rows, as a problem of their own."""
        state, first = self.state, lowest(self.state, self.length)
        inputs = self.problem.inputs_at(first, first + rows)
        part = Problem(self.problem.f, state.buffer[first], inputs, rows)
        rules = Rules(0.0, 0.0, 1, rows, False, ())
        trial = Workspace.start(part, method, state.buffer[first + 1 : first + 1 + rows], rules)
        start = self._now()
        iterate(part, method, trial, rules)
        seconds = self._now() - start
        self.parallel += seconds
        state.evaluations += trial.evaluations
        if bool((trial.result == Result.RUNNING).all()):
            self.costs.swept(str(method), rows, seconds)

    def _sweep(self, arm: Arm) -> None:
        """One timed iteration of the loop."""
        method, rules = arm.candidate.method, replace(self.rules, window=arm.window)
        front, start = lowest(self.state, self.length), self._now()
        self.over = ended(self.state, iterate(self.problem, method, self.state, rules), rules, self.flag)
        seconds = self._now() - start
        self.parallel += seconds
        self.swept_rows += lowest(self.state, self.length) - front
        if not self.over and (arm.window < self.length or front < self.length // 2):
            self.costs.swept(self._key(arm), arm.window, seconds)

    def _key(self, arm: Arm) -> str:
        """Of the table: an iteration of a window that slides costs more than one over as many rows in all."""
        return arm.name if arm.window >= self.length else f"{arm.name}, sliding"

    def _now(self) -> float:
        return self.auto.clock.now(self.problem.s0)

    # Choosing

    @property
    def _step(self) -> float:
        return 0.0 if self.costs.step is None else self.costs.step

    @property
    def _lost(self) -> float:
        """Seconds of iterations that their accepted rows do not make up for."""
        return self.parallel - self.swept_rows * self._step

    @property
    def _allowance(self) -> float:
        """Seconds that may be lost without evidence."""
        return self.auto.budget * self.length * self._step + self.costs.credit

    def _to_go(self) -> int:
        return self.length - lowest(self.state, self.length)

    def _may_step(self) -> bool:
        taken = int(self.state.iterations.max())
        return self.outside is not None or bool(self._to_go() <= self.rules.max_iters - taken)

    def _options(self, current: Arm | None) -> list[Option]:
        """What else could be done, and what it would take."""
        options = [Option(None, self._to_go() * self._step, "nothing else promises to be faster")]
        if not self._may_step():
            options = []
        for candidate in self.auto.candidates:
            if (candidate.rescue and not self._in_need()) or self._ruled_out(candidate):
                continue
            arms = [Arm(candidate, window) for window in self._windows(candidate)]
            if current is not None and current.candidate == candidate:
                continue
            for arm in arms:
                if arm in self.tried or self.costs.resting(arm.name, arm.window):
                    continue
                found = self._option(arm)
                options += found
                if found and not candidate.rescue:
                    break  # a shorter window is for where the budget does not allow a longer one
        return options or [self._last_resort()]

    def _in_need(self) -> bool:
        """Whether a method to start with has failed, now or not long ago."""
        starters = [candidate for candidate in self.auto.candidates if not candidate.rescue]
        whole = min(self.length, self.rules.window)
        return bool(self.tried) or any(self.costs.resting(str(starter.method), whole) for starter in starters)

    def _ruled_out(self, candidate: Candidate) -> bool:
        """Whether a method that usually takes fewer iterations has failed: then this one would, too."""
        failed = [arm.candidate for arm in self.tried if not arm.candidate.rescue]
        return not candidate.rescue and any(self._expected(candidate) > self._expected(other) for other in failed)

    def _option(self, arm: Arm) -> list[Option]:
        cost = self._cost(arm)
        if cost is None:
            return []
        known = self.costs.known(arm.name, arm.window)
        if known is not None and arm.window == self.length:
            return [Option(arm, cost * (known + 0.5), f"the last one took {known} iterations of {duration(cost)}")]
        stretches = math.ceil(self._to_go() / arm.window)
        expected = self._expected(arm.candidate)
        count = stretches * (expected + (stretches > 1)) + 0.5
        need = expected if arm.candidate.rescue else min(2, expected)  # iterations until there can be evidence
        if known is None and self._may_step() and self._lost + need * cost > self._allowance:
            return []
        count = known or count
        return [Option(arm, count * cost, f"{count:.4g} iterations of {duration(cost)} are to be expected")]

    def _last_resort(self) -> Option:
        """Where steps are ruled out by `max_iters`: the first candidate, over and over."""
        candidate = self.auto.candidates[0]
        return Option(Arm(candidate, self.rules.window), math.inf, "`max_iters` rules out going step by step")

    def _expected(self, candidate: Candidate) -> int:
        linear = getattr(self.problem.f, "linear", False) and candidate.linear is not None
        return candidate.linear if linear and candidate.linear is not None else candidate.expected

    def _windows(self, candidate: Candidate) -> list[int]:
        most = min(self.length, self.rules.window)
        if isinstance(candidate.method, TrustRegion):
            s0 = self.problem.s0
            most = min(most, max(64, DENSE_NUMBERS // (s0.numel() * s0.shape[-1])))
        return sorted({max(min(64, most), min(most, self.length // part)) for part in WINDOWS}, reverse=True)

    def _cost(self, arm: Arm) -> float | None:
        """Seconds of an iteration, measured or estimated; None where nothing is known."""
        cost, method = self.costs.sweep(self._key(arm), arm.window), arm.candidate.method
        if cost is None and arm.window < self.length:
            whole = self.costs.sweep(arm.name, arm.window)
            cost = None if whole is None else SLIDING * whole
        if cost is None and isinstance(method, TrustRegion):
            return self._times_inner(Arm(replace(arm.candidate, method=method.method), arm.window))
        return cost

    def _times_inner(self, arm: Arm) -> float | None:
        inner = self._cost(arm)
        return None if inner is None else TRUSTED * inner

    def _best(self, options: list[Option]) -> Option:
        return min(options, key=lambda option: option.seconds)

    # Pursuing

    def _pursue(self, arm: Arm) -> None:
        """Iterate while it promises to be the fastest way."""
        method, window = arm.candidate.method, arm.window
        self.state.carry = method.init(self.state.buffer[1:])
        stretches = math.ceil(self._to_go() / window)
        evidence = Evidence(self._expected(arm.candidate) * stretches, self.length, self._target())
        known, final = self.costs.known(arm.name, window), not self._may_step()
        while not self.over:
            self._sweep(arm)
            if self.over:
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
        cost = self._cost(arm) or 0.0
        done, shown = len(evidence.residuals), evidence.shown()
        if known is not None and done <= 1.5 * known + 1:
            shown = min(shown, max(1.0, known - done))
        rest = self._to_go() * self._step
        proven = cost * shown < rest and self._lost < self.length * self._step
        hopeful = self._lost + cost <= self._allowance
        if not (proven or hopeful):
            return False
        seconds = cost * (shown if proven else min(shown, evidence.hoped()))
        others = self._options(arm)
        return all(
            seconds <= (option.seconds if option.arm is None else PATIENCE * option.seconds) for option in others
        )

    def _leave(self, arm: Arm, evidence: Evidence) -> None:
        self.tried |= {Arm(arm.candidate, window) for window in self._windows(arm.candidate) if window >= arm.window}
        self.costs.ended(arm.name, arm.window, None)
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

    # Step by step

    def _step_by_step(self) -> None:
        """The rest, one row after the other; or leave it to the kernel outside."""
        state = self.state
        if self.outside is not None:
            running = state.result == Result.RUNNING
            state.result = state.result.masked_fill(running, int(Result.STOPPED))
            state.residual = state.residual.masked_fill(running, torch.nan)  # that of the iterate before
            self.over = True
            return
        while not self.over:
            first = lowest(state, self.length)
            before, stop, start = state.frontier, min(self.length, first + BLOCK), self._now()
            finite = take_steps(self.problem, state, first, stop)
            self.costs.stepped((self._now() - start) / (stop - first))
            finish(state, self.length)
            self._show_steps(before)
            self.over = not bool((state.result == Result.RUNNING).any())
            if not finite and not self.over:
                state.carry = None
                self._sweep(Arm(Candidate(Jacobi()), self.rules.window))  # the loop finds what is not finite

    def _show_steps(self, before: Tensor) -> None:
        """As after an evaluation in the loop: the record, callbacks, and the rule that may end it."""
        state, rules = self.state, self.rules
        if rules.record:
            record_steps(state, before)
        watch(state, rules)
        stopped(state, state.result == Result.RUNNING, rules)

    # Explaining

    def _describe(self, arm: Arm) -> str:
        return arm.name if arm.window >= self.length else f"{arm.name} in windows of {arm.window} rows"

    def _decide(self, choice: str, why: str, projected: float | None = None) -> None:
        row = lowest(self.state, self.length)
        rest = None if projected is None or projected == math.inf else self._to_go() * self._step
        record = Decision(self.state.sweeps, row, choice, why, None if rest is None else projected, rest)
        self.state.decisions = (*self.state.decisions, record)

    def _save(self) -> None:
        """What this solve might have lost and did not, later ones may, and the other way round, within bounds."""
        self._earn(1, max(0.0, self._lost))

    def _earn(self, solves: int, spent: float = 0.0) -> None:
        share = self.auto.budget * self.length * self._step
        self.costs.credit = min(max(-DEBT * share, self.costs.credit + solves * share - spent), CREDIT * share)
