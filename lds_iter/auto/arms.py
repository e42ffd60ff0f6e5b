"""What `Auto` chooses from: candidates, candidates with a window, and what each way to go on should take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lds_iter.methods.base import LDSApproximation


@dataclass(frozen=True)
class Candidate:
    """A method to choose.

    Attributes:
        method: any method.
        expected: iterations that it usually takes where it is in its place; hope, until a solve has shown otherwise.
        linear: the same for a recurrence that is linear in its state, as that of a gradient is; `expected` when None.
        rescue: not to start with, but where others do not get on.
        name: the method as a text, which costs are kept by.
    """

    method: LDSApproximation
    expected: int = 10
    linear: int | None = None
    rescue: bool = False
    name: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.method, LDSApproximation):
            raise TypeError(f"`method` must be a method such as li.Newton(), got {self.method!r}.")
        if self.expected < 1:
            raise ValueError(f"`expected` must be at least 1 iteration, got {self.expected}.")
        object.__setattr__(self, "name", str(self.method))  # once: it takes as long as an operation of torch


@dataclass(frozen=True)
class Arm:
    """A candidate with a window."""

    candidate: Candidate
    window: int

    @property
    def name(self) -> str:
        return self.candidate.name


@dataclass(frozen=True)
class Option:
    """A way to go on, what it should take, and why; `unweighed`: how many iterations to make before anything is."""

    arm: Arm | None
    seconds: float
    why: str
    unweighed: int = 0


@dataclass(frozen=True)
class Outside:
    """A kernel that takes over in place of the steps here.

    Attributes:
        step: seconds of a time step.
        kind: what keeps its costs apart from those of others.
        training: whether its backward pass is in them.
        timed: times a step, where `step` is only known to be the least that it could take.
        place: what keeps its solutions apart from those of others that cost the same.
    """

    step: float
    kind: str
    training: bool = False
    timed: Callable[[], float] | None = None
    place: Any = None
