"""What a kept `Auto` remembers of solutions: the states of the last one of each kind, to begin the next where they are
nearer than the guess, as they are while nothing but parameters changes, and those little.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lds_iter.auto.costs import Key, kind
from lds_iter.auto.looking import PLACES, missing
from lds_iter.loop.state import Workspace
from lds_iter.solution import Result

if TYPE_CHECKING:
    from lds_iter.auto.course import Course

MOST = 1 << 24
"""Numbers that are kept in all, 64 MiB in float32: the oldest give way."""

NEARER = 0.8
"""Part of the digits missing in the guess that may be missing in what is preferred to it. The states for other inputs
lack as many as the guess."""

WORTH, OPERATIONS = 0.1, 25
"""A look at both takes at most this part of the solve: each a call of `f`, and so many operations of torch."""

RESTS = 6
"""Where remembered states were no nearer, none are kept for 1, 3, 7 ... solves, up to that power of 2."""


@dataclass
class Remembered:
    """Of one kind: s0 and the states, `(T + 1, *batch, D)`; solves for which nothing is kept; failures in a row."""

    buffer: Tensor | None = None
    skip: int = 0
    failures: int = 0


@dataclass
class Memory:
    """The last solutions by kind. A copy is empty, as is what is unpickled."""

    kinds: dict[Key, Remembered] = field(default_factory=dict)

    def recall(self, key: Key) -> Tensor | None:
        """The last solution of the kind, if it is kept."""
        return self.kinds[key].buffer if key in self.kinds else None

    def keep(self, key: Key, buffer: Tensor) -> None:
        """Remember a solution, in place of those that were remembered first, where there are too many numbers."""
        one = self.kinds.pop(key, Remembered())
        self.kinds[key] = one
        if one.skip > 0:
            one.skip -= 1
            return
        one.buffer, room = None, MOST - buffer.numel()
        if room < 0:
            return
        one.buffer = buffer
        for other in reversed(list(self.kinds.values())[:-1]):
            room -= 0 if other.buffer is None else other.buffer.numel()
            if room < 0:
                other.buffer = None

    def tell(self, key: Key, nearer: bool) -> None:
        """Note whether what was remembered was of use."""
        one = self.kinds[key]
        if nearer:
            one.failures = 0
            return
        one.buffer, one.failures = None, min(one.failures + 1, RESTS)
        one.skip = 2**one.failures - 1

    def __deepcopy__(self, memo: Any) -> Memory:
        return Memory()

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        return Memory, ()


def begin_nearer(course: Course, guess: Tensor, seconds: float) -> Tensor | None:
    """Begin at the states of the last solve of the kind, where they are nearer to the solution.

    Args:
        course: of the solve, at its beginning.
        guess: where it would begin, `(T, *batch, D)`.
        seconds: that it should take.

    Returns:
        Where it begins, which stands in the buffer; None where that is the guess for all sequences.
    """
    costs, state, memory = course.costs, course.state, course.auto.memory
    last = memory.recall(_key(course)) if course.auto.warm_start else None
    look = OPERATIONS * costs.operation + (costs.call or 0.0) + PLACES * (costs.row or 0.0)
    if last is None or state is None or 2 * look > WORTH * seconds:
        return None
    nearer = missing(course, last) < NEARER * missing(course, state.buffer)
    some = bool(nearer.any())
    memory.tell(_key(course), some)
    if not some:
        return None
    chosen = last[1:] if bool(nearer.all()) else torch.where(nearer.unsqueeze(-1), last[1:], guess)
    put_back(state, chosen)
    return chosen


def remember(course: Course) -> None:
    """Keep the solution for the next solve, where that is for several iterations."""
    state, costs = course.state, course.costs
    solved = state is not None and bool((state.result == Result.SUCCESS).all())
    if course.auto.warm_start and state is not None and solved and not costs.linear:
        course.auto.memory.keep(_key(course), state.buffer)


def put_back(state: Workspace, guess: Tensor) -> None:
    """Put a guess into the rows that are not accepted."""
    times = torch.arange(len(guess), device=guess.device).view(-1, *[1] * state.frontier.ndim)
    open_ = (times >= state.frontier) & (state.result == Result.RUNNING)
    state.buffer[1:].copy_(torch.where(open_.unsqueeze(-1), guess, state.buffer[1:]))


def _key(course: Course) -> Key:
    outside = course.outside
    return *kind(course.problem), *(() if outside is None else (outside.kind, outside.place))
