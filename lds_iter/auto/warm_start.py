"""Beginning at the last solution of a kind, where it is nearer than the guess.

That is so while nothing but parameters changes, and those little, as in training on a whole series. A few rows of `f`
tell, sequence by sequence.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.auto.table import Entry
from lds_iter.loop.state import LoopOptions, LoopState, Problem
from lds_iter.solution import Result

PROBED_ROWS = 64
"""Rows that tell how far a guess is from the solution, spread over the sequence."""

NEARER_RATIO = 0.8
"""Share of the digits missing in the guess that may be missing in remembered states. States of other inputs lack as
many as the guess."""

MOST_UNHELPFUL = 6
"""Where remembered states were no nearer, none are kept for 1, 3, 7 ... solves, up to that power of 2."""


def begin_nearer(problem: Problem, options: LoopOptions, entry: Entry, guess: Tensor) -> tuple[Tensor | None, Entry]:
    """Where to begin in place of the guess, `(T, *batch, D)`, or None; and the entry, which notes whether it helped."""
    states = entry.states
    if states is None or states.shape[0] != problem.length + 1:
        return None, entry
    begun = torch.cat([problem.s0.unsqueeze(0), guess])
    nearer = _digits(problem, options, states) < NEARER_RATIO * _digits(problem, options, begun)
    if bool(nearer.any()):
        return torch.where(nearer.unsqueeze(-1), states[1:], guess), replace(entry, unhelpful=0)
    unhelpful = min(entry.unhelpful + 1, MOST_UNHELPFUL)
    return None, replace(entry, states=None, unhelpful=unhelpful, skip=2**unhelpful - 1)


def remember(entry: Entry, state: LoopState) -> Entry:
    """Keep a solution for the next solve, in memory of its own: its user may write into the other."""
    if entry.skip > 0:
        return replace(entry, skip=entry.skip - 1)
    solved = bool((state.result == int(Result.SUCCESS)).all())
    return replace(entry, states=state.states.detach().clone()) if solved else entry


def _digits(problem: Problem, options: LoopOptions, states: Tensor) -> Tensor:
    """Natural digits that states, with `s0` before them, lack on average in a few rows, per sequence."""
    times = torch.linspace(0, problem.length - 1, min(PROBED_ROWS, problem.length), device=states.device).round().long()
    inputs = pytree.tree_map(lambda leaf: leaf[times] if isinstance(leaf, Tensor) else leaf, problem.inputs)
    value = problem.f(states[times], inputs)
    rounding = torch.finfo(value.dtype).eps * (1 + value.abs())
    tolerance = torch.maximum(options.atol + options.rtol * value.abs(), rounding)
    most = -math.log(torch.finfo(value.dtype).tiny)
    excess = ((value - states[times + 1]).abs() / tolerance).amax(-1)
    return excess.clamp(min=1).log().nan_to_num(most, most).clamp(max=most).mean(0)
