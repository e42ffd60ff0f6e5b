"""How a solve is to be made: what `ParallelSampler` and `parallelize` share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from lds_iter.diffusion.schedule import Schedule
from lds_iter.diffusion.secant import Secant
from lds_iter.errors import warn_of_slowness
from lds_iter.methods.base import LDSApproximation

REUSE = 0.5
"""Of a tolerance, where the slope of Gaussian images is nearly that of the network."""

FEW_STEPS, FEW_STEPS_REUSE = 20, 0.2
"""Up to so many steps: each weighs more in the sample."""

CAREFUL_REUSE = 0.05
"""Under guidance, clipping or added noise, where it is not: with 0.5 one batch in fourteen misses its tolerance. Under
guidance and clipping at once, without noise, errors grow up to a thousandfold along a trajectory: there nothing is
reused."""

GUIDED_NOISY_REUSE = 0.01
"""Under guidance and added noise. With 0.05 two runs in thirty miss their tolerance, by up to 1.6 times, and smaller
residuals do not help; with 0.01 rounds are the same, and work is a tenth more."""

RESIDUAL, CAREFUL_RESIDUAL = 5.0, 2.0
"""Tolerances that a residual may have. The second one under clipping, since what is clipped in the last iterate stays
so, and under guidance, which multiplies errors: with 5.0 one of twelve runs by UniPC is off by twice its tolerance, and
with 2.0 none; that takes half a round more."""

SUMMED_RESIDUAL = 250.0
"""Tolerances that all residuals may have together: in more than fifty steps they add up."""

STRIDE_PER_ROOT = 0.6
"""The steps of the first round lie so many square roots of T apart: the first rounds are as far off if all steps are
evaluated."""


@dataclass(frozen=True)
class Settings:
    """Checked when made.

    Attributes:
        method: `Secant()`, `Structured()`, `li.Picard()`, or any other method of `li.solve`.
        window: steps evaluated at once beyond the first one that is not exact yet; all when None.
        tol: the error to aim at, in units of the noise level (a sample has size 1 at every step). It bounds the
            residuals: they may be `5 * tol`, under guidance or clipping `2 * tol`, and in many steps, where they add
            up, `250 * tol / T`.
        thin: in the first round about so many steps are evaluated and the rest interpolated, in the next twice as many,
            and so on until all are. 0 evaluates all of them from the first round on, as is always done where the
            scheduler adds noise. None: one of three for 20 steps, one of five for 50, one of ten for 250
            with `Secant`; all with other methods, whose derivatives are of evaluated steps.
        reuse: an image that has moved by no more than this times `tol` since the model last saw it is not evaluated
            again: its output is extended along the move by the slope of Gaussian images. 0: evaluate all that moves.
            None: 0.5, and 0.2 up to 20 steps; 0.05 under guidance, or where the scheduler clips or adds noise; 0.01
            where it adds noise under guidance; 0 where it clips under guidance and adds no noise.
    """

    method: LDSApproximation = field(default_factory=Secant)
    window: int | None = None
    tol: float = 1e-2
    thin: int | None = None
    reuse: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.method, LDSApproximation):
            raise TypeError(f"`method` must be a method of `li.solve`, such as `Secant()`, got {self.method!r}.")
        if self.window is not None and self.window < 1:
            raise ValueError(f"`window` must be 1 or more, or None for all steps at once, got {self.window}.")
        if self.thin is not None and self.thin < 0:
            raise ValueError(f"`thin` must be 0 (evaluate all steps) or more, or None, got {self.thin}.")
        if not 0 <= self.tol < float("inf"):
            raise ValueError(f"`tol` must be 0 or more, got {self.tol}.")
        if self.reuse is not None and not 0 <= self.reuse < float("inf"):
            raise ValueError(f"`reuse` must be 0 or more (0 reuses nothing that moved) or None, got {self.reuse}.")

    def stride(self, schedule: Schedule) -> int:
        """One of how many steps the first round evaluates; outputs along a noisy trajectory do not interpolate."""
        if schedule.noisy or self.thin == 0 or (self.thin is None and not isinstance(self.method, Secant)):
            return 1
        steps = len(schedule)
        return math.ceil(STRIDE_PER_ROOT * math.sqrt(steps) if self.thin is None else steps / self.thin)

    def radius(self, schedule: Schedule, *, guided: bool) -> float:
        """How far an image may move before it is evaluated again."""
        clipped = schedule.clip is not None
        if self.reuse is not None:
            reuse = self.reuse
        elif guided and clipped and not schedule.noisy:
            reuse = 0.0
        elif guided and schedule.noisy:
            reuse = GUIDED_NOISY_REUSE
        elif guided or clipped or schedule.noisy:
            reuse = CAREFUL_REUSE
        else:
            reuse = FEW_STEPS_REUSE if len(schedule) <= FEW_STEPS else REUSE
        return reuse * self.tol

    def residual(self, steps: int, *, careful: bool) -> float:
        """How large residuals may stay at the end of so many steps; `careful`: under guidance or clipping."""
        return self.tol * min(CAREFUL_RESIDUAL if careful else RESIDUAL, SUMMED_RESIDUAL / steps)


def warn_of_clipping(scheduler: Any, schedule: Schedule, *, guided: bool) -> None:
    """Guidance drives images against the clipping of a scheduler that adds no noise, and few steps can be skipped."""
    if guided and schedule.clip is not None and not schedule.noisy and len(schedule) > FEW_STEPS:
        name = type(scheduler).__name__
        warn_of_slowness(
            f"`{name}` clips its images under guidance: that takes two to four times the rounds, and every step is "
            f"evaluated in most of them. Images drawn without clipping are other ones, in fewer rounds: type "
            f"`{name}.from_config(scheduler.config, clip_sample=False, thresholding=False)`."
        )


def check_max_batch(max_batch: int | None) -> None:
    """`max_batch`: 1 or more, or None."""
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"`max_batch` must be 1 or more, or None for no limit, got {max_batch}.")
