"""What `Auto` could do next, and what it should take: methods with their windows, or step by step."""

from __future__ import annotations

import math
from dataclasses import replace

from lds_iter.auto.arms import Arm, Candidate, Option
from lds_iter.auto.course import Course
from lds_iter.decisions import duration
from lds_iter.methods.trust_region import TrustRegion

SLIDING, TRUSTED = 1.5, 2.0
"""What an iteration of a sliding window, and of a `TrustRegion`, is taken to cost before one was measured, in
units of one over as many rows and of its inner method."""

WINDOWS = (1, 8, 64)
"""What T is divided by for the windows to choose from."""

DENSE_NUMBERS = 1 << 27
"""Numbers that the matrices of a `TrustRegion`, which takes all its rows at once, may have: 512 MiB in float32."""


def options(course: Course, current: Arm | None) -> list[Option]:
    """What else could be done, and what it would take."""
    found = []
    if course.may_step():
        found.append(Option(None, course.to_go() * course.step, "nothing else promises to be faster"))
    arms = [arm for candidate in course.auto.candidates for arm in _arms(course, candidate, current)]
    settled = [arm for arm in arms if _succeeded(course, arm)]
    if course.tried and settled:
        arms = settled  # one experiment a solve, where something is known to work
    considered = [_option(course, arm) for arm in arms]
    found += [option for option in considered if option is not None]
    return found or [_last_resort(course)]


def _arms(course: Course, candidate: Candidate, current: Arm | None) -> list[Arm]:
    """The windows in which a candidate comes into question."""
    if (candidate.rescue and not _in_need(course)) or _ruled_out(course, candidate):
        return []
    if current is not None and current.candidate == candidate:
        return []
    arms = [Arm(candidate, window) for window in windows(course, candidate)]
    arms = [arm for arm in arms if arm not in course.tried and not course.costs.resting(arm.name, arm.window)]
    if candidate.rescue:
        return arms
    # A shorter window is for where the budget does not allow a longer one, or where it is known to work.
    longest = next((arm for arm in arms if _option(course, arm) is not None), None)
    return [arm for arm in arms if arm == longest or _succeeded(course, arm)]


def _succeeded(course: Course, arm: Arm) -> bool:
    return course.costs.known(arm.name, arm.window) is not None


def _in_need(course: Course) -> bool:
    """Whether a method to start with has failed, now or not long ago."""
    starters = [candidate for candidate in course.auto.candidates if not candidate.rescue]
    whole = min(course.length, course.rules.window)
    return bool(course.tried) or any(course.costs.resting(str(starter.method), whole) for starter in starters)


def _ruled_out(course: Course, candidate: Candidate) -> bool:
    """Whether a method that usually takes fewer iterations has failed: then this one would, too."""
    failed = [arm.candidate for arm in course.tried if not arm.candidate.rescue]
    return not candidate.rescue and any(expected(course, candidate) > expected(course, other) for other in failed)


def _option(course: Course, arm: Arm) -> Option | None:
    """Of one method with one window; None where its cost is unknown or the budget too small."""
    cost = cost_of(course, arm)
    if cost is None:
        return None
    known = course.costs.known(arm.name, arm.window)
    if known is not None and arm.window == course.length:
        return Option(arm, cost * (known + 0.5), f"the last one took {known} iterations of {duration(cost)}")
    stretches = math.ceil(course.to_go() / arm.window)
    usual = expected(course, arm.candidate)
    count = stretches * (usual + (stretches > 1)) + 0.5
    need = usual if arm.candidate.rescue else min(2, usual)  # iterations until there can be evidence
    if known is None and course.may_step() and course.lost + need * cost > course.allowance:
        return None
    count = known or count
    return Option(arm, count * cost, f"{count:.4g} iterations of {duration(cost)} are to be expected")


def _last_resort(course: Course) -> Option:
    """Where steps are ruled out by `max_iters`: the first candidate, over and over."""
    candidate = course.auto.candidates[0]
    return Option(Arm(candidate, course.rules.window), math.inf, "`max_iters` rules out going step by step")


def expected(course: Course, candidate: Candidate) -> int:
    """Iterations that the candidate usually takes."""
    linear = getattr(course.problem.f, "linear_in_state", False) is True
    return candidate.linear if linear and candidate.linear is not None else candidate.expected


def windows(course: Course, candidate: Candidate) -> list[int]:
    """The windows to consider, longest first."""
    most = min(course.length, course.rules.window)
    if isinstance(candidate.method, TrustRegion):
        s0 = course.problem.s0
        most = min(most, max(64, DENSE_NUMBERS // (s0.numel() * s0.shape[-1])))
    return sorted({max(min(64, most), min(most, course.length // part)) for part in WINDOWS}, reverse=True)


def cost_of(course: Course, arm: Arm) -> float | None:
    """Seconds of an iteration, measured or estimated; None where nothing is known."""
    cost, method = course.costs.sweep(course.key(arm), arm.window), arm.candidate.method
    if cost is None and arm.window < course.length:
        whole = course.costs.sweep(arm.name, arm.window)
        cost = None if whole is None else SLIDING * whole
    if cost is None and isinstance(method, TrustRegion):
        return _times_inner(course, Arm(replace(arm.candidate, method=method.method), arm.window))
    return cost


def _times_inner(course: Course, arm: Arm) -> float | None:
    inner = cost_of(course, arm)
    return None if inner is None else TRUSTED * inner


def best(options: list[Option]) -> Option:
    """The one that should take the least time."""
    return min(options, key=lambda option: option.seconds)
