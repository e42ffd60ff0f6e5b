"""Ways to evaluate the layers: by any method of `lds_iter`, or step by step by torch. One table names them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

import lds_iter as li


@dataclass(frozen=True)
class Options:
    """Of the parallel solves; torch has no use for them.

    Attributes:
        tolerance: `rtol` and `atol` of `solve`; its default when None.
        window: see `solve`.
        warm_start: where to keep every sample's states from one epoch to the next; nowhere when None.
    """

    tolerance: float | None = None
    window: int | None = None
    warm_start: li.nn.WarmStart | None = None


class AbstractSolver(ABC):
    """A way to evaluate a stack of GRU layers."""

    @abstractmethod
    def gru(self, inputs: int, width: int, layers: int, options: Options) -> torch.nn.GRU:
        """The layers, `batch_first`, initialised as torch initialises them: the same weights for the same seed."""


@dataclass(frozen=True)
class Parallel(AbstractSolver):
    """All times at once, by fixed-point iteration."""

    method: li.LDSApproximation

    def gru(self, inputs: int, width: int, layers: int, options: Options) -> li.nn.GRU:
        return li.nn.GRU(
            inputs,
            width,
            num_layers=layers,
            batch_first=True,
            method=self.method,
            rtol=options.tolerance,
            atol=options.tolerance,
            window=options.window,
            warm_start=options.warm_start,
        )


@dataclass(frozen=True)
class StepByStep(AbstractSolver):
    """torch's own kernel: the reference."""

    def gru(self, inputs: int, width: int, layers: int, options: Options) -> torch.nn.GRU:  # noqa: ARG002
        return torch.nn.GRU(inputs, width, num_layers=layers, batch_first=True)


SOLVERS: dict[str, AbstractSolver] = {
    "quasi": Parallel(li.QuasiNewton()),
    "newton": Parallel(li.Newton()),
    "block": Parallel(li.BlockNewton(4)),
    "clipped": Parallel(li.Clipped(li.QuasiNewton(li.Hutchinson()))),
    "then": Parallel(li.Then(li.Jacobi(), li.QuasiNewton(), 4)),
    "damped": Parallel(li.Damped(li.QuasiNewton(), 0.05)),
    "jacobi": Parallel(li.Jacobi()),
    "picard": Parallel(li.Picard()),
    "torch": StepByStep(),
}
"""What `--solver` takes."""
