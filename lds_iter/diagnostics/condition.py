"""How well-conditioned the parallel problem is: the Polyak-Lojasiewicz constant of the sum of squared residuals.

The merit function `|r(s)|^2 / 2` has the PL constant `mu = min sigma_min(I - J L)^2` (`J L` multiplies by the Jacobians
and shifts by one step). Where small differences grow by exactly `e^l` a step, whatever the direction,

    (e^l - 1) / (e^{lT} - 1)  <=  sqrt(mu)  <=  e^{-l (T - 1)}

("Predictability enables parallelization of nonlinear state space models", Gonzalez, Kozachkov et al. 2025,
with its two constants 1). So for l < 0 the problem is as well-conditioned for a million steps as for a hundred, and
for l > 0 the condition degrades exponentially in T. Growth that fluctuates, or depends on direction, leaves the
lower bound by a constant factor; the measured number has no such reservation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.diagnostics._along import along
from lds_iter.diagnostics.exponents import Lyapunov, lyapunov
from lds_iter.diagnostics.singular import Inverse, norm
from lds_iter.linear.transitions import Dense
from lds_iter.methods.spelling import spelled


@dataclass(frozen=True)
class Conditioning:
    """The PL constant of the residual along a trajectory, per sequence. All logarithms are natural ones.

    Attributes:
        log_mu: of the measured `sigma_min^2`, `(*batch)`, float64; `-inf` where it is below what float64 holds.
        log_lower: of the bound from the exponent, `(*batch)`.
        log_upper: of the other one, and of 1, whichever is less, `(*batch)`: the last row of `I - J L` makes it so.
        exponent: the Lyapunov exponent over the same steps.
        steps: T, the time steps looked at: `mu` belongs to this length.
    """

    log_mu: Tensor
    log_lower: Tensor
    log_upper: Tensor
    exponent: Lyapunov
    steps: int

    @property
    def amplification(self) -> Tensor:
        """`1 / sqrt(mu)`: at most how often larger than the residual's norm the error's is, to first order."""
        return (-self.log_mu / 2).exp()

    def __str__(self) -> str:
        low, high = float(self.log_mu.min()), float(self.log_mu.max())
        span = f"{low:.3g}" if self.log_mu.numel() == 1 else f"{low:.3g} to {high:.3g}"
        return (
            f"log mu = {span} over {self.steps:,} steps (an error of up to {float(self.amplification.max()):.2g} times "
            f"the residual); from the exponent {float(self.log_lower.min()):.3g} to {float(self.log_upper.max()):.3g}"
        )


@spelled
def conditioning(
    f: Callable[[Tensor, Any], Tensor],
    s0: Tensor,
    inputs: Any,
    states: Tensor | None = None,
    *,
    prefix: int | None = 256,
) -> Conditioning:
    """The PL constant `mu`, measured and bounded from the exponent, for the first steps of a recurrence.

    The measurement is `1 / |(I - J L)^-1|^2`: each step of the Lanczos iteration takes two of Newton's scans.

    Args:
        f: the recurrence, as `li.solve` takes it.
        s0: the state before the first step, `(*batch, D)`.
        inputs: a pytree of tensors that lead with T.
        states: the trajectory, such as `solution.states`, `(T, *batch, D)`; step by step when None.
        prefix: how many time steps to look at; None for all.

    Returns:
        A `Conditioning`.

    Example:
        >>> found = li.diagnostics.conditioning(lambda s, u: 0.5 * s + u, torch.zeros(3), torch.randn(400, 3))
        >>> bool(found.log_lower <= found.log_mu), bool(found.log_mu <= found.log_upper)
        (True, True)
    """
    with torch.no_grad():
        trajectory = along(f, s0, inputs, states, prefix)
        lin = trajectory.whole()
        inverse = Inverse(Dense(lin.jacobian().double()))
        sigma = norm(inverse.apply, inverse.transposed, lin.prev)
        exponent = lyapunov(f, s0, inputs, trajectory.states, prefix=trajectory.length)
    lower, upper = mu_bounds(exponent.largest, trajectory.length)
    return Conditioning(-2 * sigma.log(), lower, upper, exponent, trajectory.length)


def mu_bounds(exponent: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The logarithms of the lower and the upper bound of `mu`.

    Args:
        exponent: in nats per step, any shape.
        steps: T.
    """
    grows = exponent > 0
    rate, tiny = exponent.abs().double(), torch.finfo(torch.float64).tiny
    # (e^l - 1) / (e^{lT} - 1), with the larger exponential taken out where l > 0, so that nothing overflows
    ratio = torch.expm1(-rate) / torch.expm1(-rate * steps).clamp(max=-tiny)
    root = torch.where(rate * steps < 1e-12, -math.log(steps), ratio.clamp(min=tiny).log())
    lower = 2 * (root - torch.where(grows, rate * (steps - 1), 0))
    return lower, (-2 * exponent.double() * (steps - 1)).clamp(max=0)
