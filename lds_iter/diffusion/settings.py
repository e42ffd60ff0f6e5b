"""How a solve is to be made: what `ParallelSampler` and `parallelize` share."""

from __future__ import annotations

from dataclasses import dataclass, field

from lds_iter.diffusion.secant import Secant
from lds_iter.methods.base import LDSApproximation

REUSE = 0.5
"""Of a tolerance, where the slope of Gaussian images is nearly that of the network."""

CAREFUL_REUSE = 0.05
"""Under guidance, clipping or added noise, where it is not: with 0.5 one batch in fourteen misses its tolerance."""

SHORT_STEPS = 20
"""Up to so many steps too: each weighs more in the sample, and nearly all of them move in every round anyway."""


@dataclass(frozen=True)
class Settings:
    """Checked when made.

    Attributes:
        method: `Secant()`, `Structured()`, `li.Picard()`, or any other method of `li.solve`.
        window: steps evaluated at once beyond the first one that is not exact yet; all when None.
        tol: the error to aim at, in units of the noise level (a sample has size 1 at every step). It bounds the
            residuals: they may be `5 * tol`, and in more than fifty steps, where they add up, `250 * tol / T`.
        thin: in the first round about so many steps are evaluated and the rest interpolated, in the next twice as many,
            and so on until all are. 0 evaluates all of them from the first round on, as is always done where the
            scheduler adds noise.
        reuse: an image that has moved by no more than this times `tol` since the model last saw it is not evaluated
            again: its output is extended along the move by the slope of Gaussian images. 0: evaluate all that moves.
            None: 0.5, and 0.05 under guidance, where the scheduler clips or adds noise, and up to 20 steps.
    """

    method: LDSApproximation = field(default_factory=Secant)
    window: int | None = None
    tol: float = 1e-2
    thin: int = 16
    reuse: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.method, LDSApproximation):
            raise TypeError(f"`method` must be a method of `li.solve`, such as `Secant()`, got {self.method!r}.")
        if self.window is not None and self.window < 1:
            raise ValueError(f"`window` must be 1 or more, or None for all steps at once, got {self.window}.")
        if self.thin < 0:
            raise ValueError(f"`thin` must be 0 (evaluate all steps) or more, got {self.thin}.")
        if not 0 <= self.tol < float("inf"):
            raise ValueError(f"`tol` must be 0 or more, got {self.tol}.")
        if self.reuse is not None and not 0 <= self.reuse < float("inf"):
            raise ValueError(f"`reuse` must be 0 or more (0 reuses nothing that moved) or None, got {self.reuse}.")

    def radius(self, rough: bool, steps: int) -> float:
        """How far an image may move before it is evaluated again; `rough`: guided, clipped or noisy."""
        careful = rough or steps <= SHORT_STEPS
        reuse = self.reuse if self.reuse is not None else CAREFUL_REUSE if careful else REUSE
        return reuse * self.tol


def check_max_batch(max_batch: int | None) -> None:
    """`max_batch`: 1 or more, or None."""
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"`max_batch` must be 1 or more, or None for no limit, got {max_batch}.")
