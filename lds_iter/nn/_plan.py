"""The plan of a forward (which code computes it, and why) and its outcome."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lds_iter.solution import Solution


class Route(enum.Enum):
    """What computes a forward: compiled steps of the recurrence, a solve, or torch's own kernel."""

    STEPS = enum.auto()
    SOLVE = enum.auto()
    KERNEL = enum.auto()


@dataclass(frozen=True)
class Plan:
    """What computes a forward, and why.

    Attributes:
        route: what computes it.
        why: the reason, in words.
    """

    route: Route
    why: str


BY_STEPS = Plan(Route.STEPS, "on a CPU compiled code takes a step in less time than a solve takes an iteration")
BY_METHOD = Plan(Route.SOLVE, "a method was given")
BY_RANKS = Plan(Route.SOLVE, "the ranks of `mesh` share the time steps")
RACE = Plan(Route.SOLVE, "on an accelerator `Auto` has found a solve to be faster than torch's kernel")
LOST = Plan(Route.KERNEL, "on an accelerator `Auto` has found torch's kernel to be faster than a solve")
HALF = Plan(Route.KERNEL, "in half precision torch's kernel of an accelerator computes what a solve cannot")
SAVED = Plan(Route.KERNEL, "hooks on saved tensors (checkpointing) need the same computation every time")
FASTER = Plan(Route.KERNEL, "torch's LSTM has one kernel for all steps, the faster one for few steps and for batches")
MALFORMED = Plan(Route.KERNEL, "torch answers empty and malformed arguments in its own words")
WATCHED = Plan(Route.KERNEL, "a dispatch mode of torch watches every operation")
NO_STEPS = Plan(Route.KERNEL, "compiled steps do not serve this width, dtype or machine")
NOT_FINITE = Plan(Route.KERNEL, "inputs, states or weights hold inf or NaN, on which nothing can be iterated")
OVER_BUDGET = Plan(Route.KERNEL, "a solve did not converge within its budget")


@dataclass(frozen=True)
class Part:
    """The outcome of one layer and direction.

    Attributes:
        results: output `(T, B, D)` and final states `(B, D)`; None where torch's kernel must compute the whole module.
        solution: of a solve.
        plan: the plan that was carried out in the end.
    """

    results: tuple[Tensor, tuple[Tensor, ...]] | None
    plan: Plan
    solution: Solution | None = None


@dataclass(frozen=True)
class LayerOutcome:
    """The outcome of a forward.

    Attributes:
        results: what the layer returns; None if torch's kernel has to compute it.
        plan: what computed it.
        solutions: of the solves, in the order of torch's weights.
    """

    results: tuple[Any, Any] | None
    plan: Plan
    solutions: tuple[Solution, ...] = ()
