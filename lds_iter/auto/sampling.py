"""What `Auto` tries out before it chooses: an iteration over a few rows, then over more.

Only where the estimates do not permit to begin at once, and of candidates that could win.
"""

from __future__ import annotations

from lds_iter.auto.arms import Arm, Candidate, numbers
from lds_iter.auto.choosing import permitted
from lds_iter.auto.course import Course
from lds_iter.auto.estimates import estimate, expected
from lds_iter.auto.steps import lowest
from lds_iter.loop import iterate
from lds_iter.methods.base import LDSApproximation
from lds_iter.solution import Result
from lds_iter.workspace import Problem, Rules, Workspace

SAMPLE = 256
"""Rows of the second of three iterations that are timed, fewer where `SAMPLE_NUMBERS` bind; the first has an eighth of
them, the third a tenth of T."""

WORK = 0.25
"""At least this share of such an iteration is taken to grow with its rows when the third one is decided on."""

SAMPLE_NUMBERS = 1 << 15
"""Numbers that the transitions of such an iteration may have, so that it costs little more than its overhead."""


def wanted(course: Course) -> list[Candidate]:
    """Candidates to start with that could win, and may begin if a trial shows that their lower estimate holds."""
    whole, found = min(course.length, course.rules.window), []
    for candidate in course.auto.candidates:
        rough = estimate(course, candidate.method, whole)
        if candidate.rescue or rough is None or candidate.name in course.costs.sweeps:
            continue
        could = course.lost + rough.low <= course.allowance
        if could and not permitted(course, Arm(candidate, whole)) and _promising(course, candidate, rough.low):
            found.append(candidate)
    return found


def _promising(course: Course, candidate: Candidate, cost: float) -> bool:
    return expected(course, candidate) * cost < course.to_go() * course.step


def time_sweeps(course: Course) -> None:
    """Iterations of the candidates wanted over a few rows, then over more, where the budget has room."""
    candidates = wanted(course)
    for level in range(3):
        for candidate in candidates:
            name, rows = candidate.name, _sample_rows(course, candidate.method)[level]
            known = max(course.costs.sweeps.get(name, ()), default=0)
            if level and permitted(course, Arm(candidate, min(course.length, course.rules.window))):
                continue
            if known < rows and course.lost + _sample_guess(course, candidate, rows, known) <= course.allowance:
                _sample(course, candidate.method, rows)


def _sample_guess(course: Course, candidate: Candidate, rows: int, known: int) -> float:
    """What a sample may cost: the first ones are overhead by the choice of their rows, the last one is work."""
    name = candidate.name
    cost = course.costs.sweep(name, rows)
    if cost is None:
        rough = estimate(course, candidate.method, rows)
        return 0.0 if rough is None else rough.high
    before = course.costs.sweeps[name][known]
    return max(min(cost, 2 * before), WORK * before * rows / known)


def _sample_rows(course: Course, method: LDSApproximation) -> tuple[int, int, int]:
    size = course.problem.s0.numel() * numbers(method, course.problem.s0.shape[-1])
    most = min(course.length // 4, course.rules.window)
    rows = min(SAMPLE, max(16, SAMPLE_NUMBERS // size), most)
    return max(2, rows // 8), rows, min(most, max(rows, course.length // 10))


def _sample(course: Course, method: LDSApproximation, rows: int) -> None:
    """Time one iteration over the next rows, as a problem of their own."""
    state = course.state
    assert state is not None
    first = lowest(state, course.length)
    inputs = course.problem.inputs_at(first, first + rows)
    part = Problem(course.problem.f, state.buffer[first], inputs, rows)
    rules = Rules(0.0, 0.0, 1, rows, False, ())
    trial = Workspace.start(part, method, state.buffer[first + 1 : first + 1 + rows], rules)
    start = course.now()
    iterate(part, method, trial, rules)
    seconds = course.now() - start
    course.parallel += seconds
    state.evaluations += trial.evaluations
    if bool((trial.result == Result.RUNNING).all()):
        course.costs.swept(str(method), rows, seconds)
