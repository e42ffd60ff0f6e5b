"""Beginning at once: where a few iterations cost less than finding out whether they pay.

A recurrence that computes an iteration itself, in compiled code, needs little more for a row than its arithmetic takes.
Step by step, Python or a kernel dispatches several operations for every row. As long as the state is small the second
takes hundreds of times as long, and nothing needs to be timed to know it.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lds_iter.auto.arms import Arm, Candidate, Option
from lds_iter.auto.choosing import windows
from lds_iter.auto.course import Course
from lds_iter.auto.estimates import COMPILED, expected, work_of
from lds_iter.auto.looking import sweeps

SMALL, SMALL_IN_TRAINING = 1 << 11, 1 << 14
"""Products of the numbers of all states of a time step with the width of one: that many multiplications take a
microsecond, where a step takes ten at least and ten times that with a backward pass."""

PART = 2
"""Times the usual count of iterations that are made before anything is weighed, for trained networks take that many;
and one more that sees the solution."""


def head_start(course: Course, s: Tensor, u: Any) -> Option | None:
    """What to begin with without having measured anything; None where that is no good.

    Args:
        course: of the solve.
        s: a row of states, `(1, *batch, D)`, for asking what is compiled.
        u: its inputs.
    """
    candidate = promising(course)
    if candidate is None or not sweeps(course, candidate, s, u):
        return None
    arm = Arm(candidate, windows(course, candidate)[0])
    why = "its iterations are compiled and its states small, so that some cost less than finding out"
    rounds = PART * math.ceil(expected(course, arm.candidate) * math.ceil(course.length / arm.window)) + 1
    return Option(arm, 0.0, why, rounds)


def promising(course: Course) -> Candidate | None:
    """With which method to begin, if its iterations are compiled, as far as anybody has asked."""
    costs, s0 = course.costs, course.problem.s0
    if costs.call is not None or costs.outcomes or (course.outside is not None and not course.outside.step):
        return None
    if s0.numel() * s0.shape[-1] > (SMALL_IN_TRAINING if course.training else SMALL):
        return None
    compiled = [
        (expected(course, candidate) * (work.rows + work.columns * s0.shape[-1]), candidate)
        for candidate in course.auto.candidates
        if not candidate.rescue and (work := work_of(course, candidate.method, candidate.name)) in COMPILED
    ]
    return min(compiled, key=lambda one: one[0], default=(0.0, None))[1]
