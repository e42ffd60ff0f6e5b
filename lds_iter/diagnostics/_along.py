"""`f` linearized along a trajectory, a stretch of rows at a time: the common start of all diagnostics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.checks import check_f, check_inputs, check_state
from lds_iter.derivatives.along import linearize_along
from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import Zero
from lds_iter.methods.base import TransitionApproximation
from lds_iter.plain_loop import sequential
from lds_iter.recurrence import detached, take_rows
from lds_iter.solution import Solution

LATE = sys.maxsize
"""The age that rows pretend to have, so that a method that begins with another one (`Then`) shows its later self."""

STRETCH_ELEMENTS = 1 << 22
"""Numbers of the dense Jacobians of one stretch (32 MiB in float64)."""


@dataclass(frozen=True)
class Along:
    """A trajectory to look along, cut to `length` rows. `states`: `(length, *batch, D)`."""

    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any
    states: Tensor

    @property
    def length(self) -> int:
        return self.states.shape[0]

    def rows_that_fit(self) -> int:
        """How many dense Jacobians fit into one stretch."""
        return max(1, STRETCH_ELEMENTS // (self.s0.numel() * self.s0.shape[-1]))

    def stretches(self, rows: int) -> Iterator[Linearization]:
        """Linearizations of at most `rows` rows each, in order; nothing in them is accepted or cut."""
        before = torch.cat([self.s0.unsqueeze(0), self.states[:-1]])
        return linearize_along(self.f, before, self.states, self.inputs, rows=rows, iteration=LATE)

    def whole(self) -> Linearization:
        """One linearization of all rows."""
        return next(self.stretches(self.length))


def along(
    f: Callable[[Tensor, Any], Tensor], s0: Tensor, inputs: Any, states: Tensor | None, prefix: int | None
) -> Along:
    """The first `prefix` steps along `states`, or along the loop when None. Call under `torch.no_grad()`."""
    check_state(s0)
    length = check_inputs(inputs, s0)
    steps = checked_prefix(prefix, length)
    s0, inputs = s0.detach(), take_rows(detached(inputs), 0, steps)
    if states is None:
        return Along(f, s0, inputs, sequential(f, s0, inputs))
    if not isinstance(states, Tensor):
        raise TypeError(
            f"`states` must be a tensor (T, *batch, D), got {type(states).__name__}. Type `solution.states`, or leave "
            "it out to evaluate the prefix step by step."
        )
    if states.shape[1:] != s0.shape or states.shape[0] < steps:
        raise ValueError(f"`states` must have shape {(steps, *s0.shape)} or be longer, got {tuple(states.shape)}.")
    check_f(f, s0, inputs, steps)
    return Along(f, s0, inputs, states[:steps].detach())


def checked_prefix(prefix: int | None, length: int) -> int:
    """The number of steps to look at, at most `length`."""
    if prefix is not None and (isinstance(prefix, bool) or not isinstance(prefix, int) or prefix < 2):
        raise ValueError(f"`prefix` must be a whole number of time steps, 2 or more, or None for all; got {prefix!r}.")
    return length if prefix is None else min(prefix, length)


def check_solution(solution: Any) -> None:
    """Check that `solution` is a `Solution`."""
    if not isinstance(solution, Solution):
        raise TypeError(
            f"`solution` must be a Solution, got {type(solution).__name__}. Pass all that li.solve returned, not its "
            "states alone: they do not know their `f`."
        )


@dataclass(frozen=True)
class _Witness(TransitionApproximation):
    """Not a method: keeps the linearizations that it is shown."""

    seen: list[Linearization]

    def transition(self, lin: Linearization) -> Zero:
        self.seen.append(lin)
        return Zero()


def linearizations(solution: Solution) -> list[Linearization]:
    """`f` linearized along the own states of a solution, in stretches of time; derivatives are computed when asked for.

    Start a diagnostic of your own from here.

    Args:
        solution: of `li.solve`, not made light.

    Raises:
        RuntimeError: for a solution that has been made light or was pickled.
    """
    check_solution(solution)
    witness = _Witness([])
    solution.error_estimate(witness)
    return witness.seen
