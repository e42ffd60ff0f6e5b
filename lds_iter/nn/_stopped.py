"""Why a layer was left to torch's kernel without a solve, and the solution that says so."""

from __future__ import annotations

import torch

from lds_iter.auto.driver import STEPWISE
from lds_iter.loop.state import Problem
from lds_iter.solution import Decision, Result, Solution, duration, no_estimate

UNTIMED = "torch's kernel was not timed yet, and is not certain to take longer than a solve"

LARGE = "recurrent weights as large as those of trained networks may take many iterations"


def too_long(hope: float) -> str:
    """A solve does not pay."""
    return f"a solve takes {duration(hope)} if all goes well, and trying would cost more than the budget"


def stopped(problem: Problem, why: str) -> Solution:
    """A solution that has not begun."""
    s0 = problem.s0
    count = torch.zeros(s0.shape[:-1], dtype=torch.int64, device=s0.device)
    return Solution(
        states=s0.expand(problem.length, *s0.shape),
        result=torch.full_like(count, int(Result.STOPPED)),
        iterations=count,
        residual=s0.new_full(count.shape, torch.nan),
        history=None,
        evaluations=count,
        resets=count,
        carry=None,
        decisions=(Decision(0, 0, STEPWISE, why),),
        _estimate=no_estimate,
    )
