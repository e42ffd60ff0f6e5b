"""When an iteration over an ODE's steps may stop.

The residual of one step is no error of the solution: N steps that are each off by r may add up to N r, however small
the step. So a tolerance on the solution is divided by the number of steps. For a fine grid that asks for less than
rounding allows; then the iteration ends when the residual is at rounding level and falls no further.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.solution import Progress

RELATIVE_FLOOR_ULPS = 4
"""The relative tolerance of one step is at least this many units in the last place."""

ROUNDING_ULPS = 8
"""A residual of at most this many units in the last place of a sequence's largest number is rounding once it has
stopped to fall by half."""

STALLED_ULPS = 1000
"""The same for a residual that has not fallen by half in `STALLED_ITERATIONS`: a stiff `func` amplifies rounding."""

STALLED_ITERATIONS = 4


def per_step(rtol: float | None, atol: float | None, steps: int, dtype: torch.dtype) -> tuple[float, float]:
    """The tolerances on the residual of one step, from those on the solution of so many steps.

    Raises:
        ValueError: for a tolerance that is no number, or negative.
    """
    default = 1e-5 if dtype == torch.float32 else 1e-10
    given = []
    for name, value in ("rtol", rtol), ("atol", atol):
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be a finite number, 0 or more, got {value!r}.")
        given.append(value / steps)
    return max(given[0], RELATIVE_FLOOR_ULPS * torch.finfo(dtype).eps), given[1]


@dataclass
class AtRounding:
    """A rule for `stop`: true for sequences whose residual is at rounding level and falls no further."""

    _least: Tensor | None = None
    _idle: Tensor | None = None

    def __call__(self, progress: Progress) -> Tensor:
        return self.ended(progress.residual, progress.states)

    def ended(self, residual: Tensor, states: Tensor) -> Tensor:
        """The same from the residual of each sequence, `(*batch)`, and its states, `(T, *batch, D)`."""
        if self._least is None or self._idle is None:
            self._least, self._idle = residual.clone(), torch.zeros_like(residual, dtype=torch.int64)
            return torch.zeros_like(residual, dtype=torch.bool)
        fallen = ~(residual >= self._least / 2)
        self._idle = torch.where(fallen, 0, self._idle + 1)
        self._least = torch.where(fallen, residual, self._least)
        unit = torch.finfo(residual.dtype).eps * states.abs().amax((0, -1))
        slow = (self._idle >= STALLED_ITERATIONS) & (residual <= STALLED_ULPS * unit)
        return slow | ((self._idle > 0) & (residual <= ROUNDING_ULPS * unit))
