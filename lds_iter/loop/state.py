"""What the loop works on: the problem, the rules, and everything that changes while it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.methods.base import LDSApproximation
from lds_iter.recurrence import take_rows
from lds_iter.solution import Decision, Progress, Result


@dataclass(frozen=True)
class Problem:
    """A recurrence whose arguments have been checked. `s0`: `(*batch, D)`; leaves of `inputs`: `(T, ...)`."""

    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any
    length: int

    def inputs_at(self, start: int, stop: int) -> Any:
        whole = start == 0 and stop == self.length
        return self.inputs if whole else take_rows(self.inputs, start, stop)


@dataclass(frozen=True)
class Rules:
    """How to run the loop: tolerances on the residual, iteration limit (a tensor where the loop is compiled, so that it
    is not part of the graph), window, who watches, and who may stop it."""

    rtol: float
    atol: float
    max_iters: int | Tensor
    window: int
    record: bool
    observers: tuple[Callable[[Progress], object], ...]
    stop: Callable[[Progress], Tensor] | None = None

    def watched(self, length: int) -> bool:
        """Whether the host looks at every iteration: a recording, a callback, a rule, the frontier of a window."""
        return self.record or bool(self.observers) or self.stop is not None or self.window < length


@dataclass
class Workspace:
    """What the loop works on.

    `buffer` holds s0 and then the states, so that states and predecessors are views of it; `spare`, of the same layout,
    takes the proposals.
    """

    buffer: Tensor
    spare: Tensor
    frontier: Tensor
    result: Tensor
    iterations: Tensor
    residual: Tensor
    accepted_residual: Tensor
    evaluations: Tensor
    resets: Tensor
    age: Tensor | None
    carry: Any
    sweeps: int = 0
    residuals: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    fronts: list[Tensor] = field(default_factory=list)
    decisions: tuple[Decision, ...] = ()

    @staticmethod
    def start(problem: Problem, method: LDSApproximation, guess: Tensor, rules: Rules) -> Workspace:
        batch = problem.s0.shape[:-1]
        count = torch.zeros(batch, dtype=torch.int64, device=guess.device)
        real = guess.new_zeros(batch)
        windowed = rules.window < problem.length
        age = count.new_zeros((problem.length, *batch), dtype=torch.int32) if windowed else None
        buffer = torch.cat([problem.s0.unsqueeze(0), guess])
        spare = torch.empty_like(buffer)
        spare[0] = problem.s0
        return Workspace(
            buffer=buffer,
            spare=spare,
            frontier=count,
            result=torch.full_like(count, int(Result.RUNNING)),
            iterations=count.clone(),
            residual=real,
            accepted_residual=real.clone(),
            evaluations=count.clone(),
            resets=count.clone(),
            age=age,
            carry=method.init(guess),
        )


class AbstractStrategy(ABC):
    """What may stand in place of a method and chooses methods itself, iteration by iteration (see `lds_iter.auto`)."""

    @abstractmethod
    def run(self, problem: Problem, guess: Tensor, rules: Rules) -> Workspace:
        """Solve, as `loop.run` does with one method."""

    def for_adjoint(self) -> AbstractStrategy:
        """What solves the recurrence of the gradient."""
        return self
