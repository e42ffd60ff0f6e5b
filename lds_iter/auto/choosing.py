"""What `Auto` could do next, and what it should take: methods with their windows, or step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lds_iter.auto.arms import Arm, Candidate, Option
from lds_iter.auto.costs import Outcome
from lds_iter.auto.course import Course
from lds_iter.auto.estimates import TRUSTED, estimate, expanding, expected, reliable
from lds_iter.methods.trust_region import TrustRegion
from lds_iter.solution import duration

SLIDING = 1.5
"""What an iteration of a sliding window is taken to cost before one was measured, in units of one over as many rows."""

WINDOWS = (1, 8, 64)
"""What T is divided by for the windows to choose from."""

DENSE_NUMBERS = 1 << 27
"""Numbers that the matrices of a `TrustRegion`, which takes all its rows at once, may have: 512 MiB in float32."""

GAIN = 0.5
"""What was never tried must promise to take at most this part of step-by-step evaluation, unless earlier solves have
left enough to find out: counts to expect are those of networks at initialisation, and trained ones take more."""

ROUGH = 3.0
"""And where they have, a cost that was only estimated is taken to be so many times too high: an iteration tells."""


def options(course: Course, current: Arm | None) -> list[Option]:
    """What else could be done, and what it would take."""
    found = stepping(course)
    others = [option for candidate in course.auto.candidates for option in _of(course, candidate, current)]
    settled = [option for option in others if option.arm is not None and _succeeded(course, option.arm)]
    # One experiment a solve, where something is known to work.
    found += settled if course.tried and settled else others
    return found or [_last_resort(course)]


def stepping(course: Course) -> list[Option]:
    """Step by step, unless that is ruled out."""
    seconds = course.to_go() * course.step
    return [Option(None, seconds, "nothing else promises to be faster")] if course.may_step() else []


def rivals(course: Course, current: Arm) -> list[Option]:
    """What might take over from an arm that gets on.

    From a method to the rescue nothing that was never tried here: what others take on hard problems is not known.
    """
    if not current.candidate.rescue:
        return options(course, current)
    known = settled(course)
    return stepping(course) + ([known] if known is not None and known.arm not in (current, *course.tried) else [])


def _of(course: Course, candidate: Candidate, current: Arm | None) -> list[Option]:
    """The windows in which a candidate comes into question."""
    if current is not None and current.candidate == candidate:
        return []
    arms = [Arm(candidate, window) for window in windows(course, candidate)]
    if course.tried:
        arms = [arm for arm in arms if arm not in course.tried]
    found = list(_possible(course, [arm for arm in arms if _succeeded(course, arm)]))
    if (candidate.rescue and not _in_need(course)) or _ruled_out(course, candidate):
        return found
    arms = [arm for arm in arms if not course.costs.resting(arm.name, arm.window)]
    if candidate.rescue:
        return list(_possible(course, arms))
    # A shorter window is for where the budget does not allow a longer one, or where it is known to work.
    longest = next(iter(_possible(course, arms)), None)
    return found if longest is None or longest.arm in [option.arm for option in found] else [longest, *found]


def _succeeded(course: Course, arm: Arm) -> bool:
    return course.costs.known(arm.name, arm.window) is not None


def _in_need(course: Course) -> bool:
    """Whether a method to start with has failed, now or not long ago, or is bound to."""
    if expanding(course):
        return True
    starters = [candidate for candidate in course.auto.candidates if not candidate.rescue]
    whole = min(course.length, course.rules.window)
    return bool(course.failed) or any(course.costs.resting(starter.name, whole) for starter in starters)


def _ruled_out(course: Course, candidate: Candidate) -> bool:
    """Whether a method that usually takes fewer iterations has failed: then this one would, too."""
    failed = [other for other in course.failed if not other.rescue]
    return not candidate.rescue and any(expected(course, candidate) > expected(course, other) for other in failed)


def _possible(course: Course, arms: list[Arm]) -> Iterator[Option]:
    return (option for option in (option_of(course, arm) for arm in arms) if option is not None)


def option_of(course: Course, arm: Arm) -> Option | None:
    """Of one method with one window; None where its cost is unknown, the budget too small, or the promise."""
    known = course.costs.known(arm.name, arm.window)
    if known is not None:
        return _again(arm, known, course.to_go() / course.length)
    cost = cost_of(course, arm)
    if cost is None:
        return None
    stretches = math.ceil(course.to_go() / arm.window)
    usual = expected(course, arm.candidate)
    count = stretches * (usual + (stretches > 1)) * 2 ** course.costs.failures(arm.name, arm.window) + 0.5
    may_step = course.may_step()
    if may_step and not permitted(course, arm, cost):
        return None
    unspent = course.costs.credit >= 2 * cost
    sure = reliable(course, arm.candidate) or unspent or course.training
    if may_step and unspent and course.costs.sweep(course.key(arm), arm.window) is None:
        cost /= ROUGH
    if may_step and count * cost > (1.0 if sure else GAIN) * course.to_go() * course.step:
        return None
    return Option(arm, count * cost, f"{count:.4g} iterations of {duration(cost)} are to be expected")


def permitted(course: Course, arm: Arm, cost: float | None = None) -> bool:
    """Whether the budget has room until an arm that was never tried can show that it gets on.

    That is one iteration, after which a look at a few rows tells; half of the usual ones for a method to the rescue,
    which is for hard problems. None where the few rows have told already.
    """
    cost = cost_of(course, arm) if cost is None else cost
    need = expected(course, arm.candidate) / 2 if arm.candidate.rescue and not expanding(course) else 1
    return cost is not None and (reliable(course, arm.candidate) or course.lost + need * cost <= course.allowance)


def _last_resort(course: Course) -> Option:
    """Where steps are ruled out by `max_iters`: the first candidate, over and over."""
    candidate = course.auto.candidates[0]
    return Option(Arm(candidate, course.rules.window), math.inf, "`max_iters` rules out going step by step")


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
    if cost is None and isinstance(method, TrustRegion) and getattr(course.problem.f, "serves", None) is None:
        inner = course.costs.sweep(str(method.method), arm.window)
        cost = None if inner is None else TRUSTED * inner
    return estimate(course, arm.candidate, arm.window) if cost is None else cost


def best(options: list[Option]) -> Option:
    """The one that should take the least time."""
    return min(options, key=lambda option: option.seconds)


def rescuable(course: Course) -> bool:
    """Whether a method to the rescue might begin if this one failed."""
    whole = min(course.length, course.rules.window)
    arms = [Arm(candidate, whole) for candidate in course.auto.candidates if candidate.rescue]
    return any(
        arm not in course.tried and not course.costs.resting(arm.name, whole) and permitted(course, arm) for arm in arms
    )


def _again(arm: Arm, known: Outcome, share: float = 1.0) -> Option:
    """Of what has solved the last problem, for a share of the rows."""
    why = f"the last one took {known.iterations} iterations in {duration(known.seconds)}"
    return Option(arm, known.seconds * share, why)


def settled(course: Course) -> Option | None:
    """The fastest that has solved problems of this kind."""
    by_name, costs = {candidate.name: candidate for candidate in course.auto.candidates}, course.costs
    arms = [
        Arm(by_name[name], rows) for name, rows in costs.outcomes if name in by_name and rows <= course.rules.window
    ]
    found = [_again(arm, known) for arm in arms if (known := costs.known(arm.name, arm.window)) is not None]
    return best(found) if found else None


def unexplored(course: Course, best_known: float) -> Option | None:
    """An arm that was never tried and would take less than the best one known, if all went twice as well as usual."""
    whole, found = min(course.length, course.rules.window), None
    for candidate in course.auto.candidates:
        outcome = course.costs.outcomes.get((candidate.name, whole))
        if outcome is not None and (outcome.iterations is not None or course.costs.solves < outcome.retry):
            continue
        arm = Arm(candidate, whole)
        seconds = (cost_of(course, arm) or math.inf) * (max(1.0, expected(course, candidate) / 2) + 0.5)
        best_known = best_known if found is None else found.seconds
        if seconds < best_known and whole in windows(course, candidate) and permitted(course, arm):
            found = Option(arm, seconds, f"it was never tried, and might take only {duration(seconds)}")
    return found
