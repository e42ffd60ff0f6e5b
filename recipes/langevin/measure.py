"""Iterations of cheap and full methods on Langevin dynamics, `s' = s + eps grad log p(s) + sqrt(2 eps) noise`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import lds_iter as li
from bench.common.problems import Problem, mixture_langevin, two_well_guess, two_well_langevin
from lds_iter.auto import wall_clock
from recipes.devices import CPU

Guess = Callable[..., Tensor]

TOLERANCE = 1e-6
"""On the largest residual. States are of order 1 and in float32, so this is a few units of rounding."""

LIMIT = 50
"""Iterations after which a method is given up."""

WIDEST = {"Picard": 256, "one probe": 256, "one probe, rotated": 256, "exact diagonal": 32, "Newton": 64}
"""The largest D for which a method is run: the last two take D derivatives an iteration, where the others take none or
one."""


def methods(problem: Problem) -> dict[str, li.LDSApproximation]:
    """By name, from the cheapest iteration to the dearest.

    "Rotated" is the diagonal in the basis of the Jacobian's eigenvectors at the start. Within one Gaussian the Jacobian
    is diagonal there, and one probe finds a diagonal matrix exactly.
    """
    lin = li.linearization(problem.f, problem.s0, problem.s0.unsqueeze(0), problem.inputs[:1])
    jacobian = lin.jacobian().flatten(0, -3)[0]
    basis = torch.linalg.eigh((jacobian + jacobian.T) / 2).eigenvectors
    probe = li.Clipped(li.QuasiNewton(li.Hutchinson()), 1)
    return {
        "Picard": li.Picard(),
        "one probe": probe,
        "one probe, rotated": li.Rotated(probe, basis),
        "exact diagonal": li.QuasiNewton(),
        "Newton": li.Newton(),
    }


@dataclass(frozen=True)
class Count:
    """One solve.

    Attributes:
        method: its name.
        width, step, length: of the problem: D, eps and T.
        iterations: the largest of the batch; None where there were more than the limit.
        error: the largest difference to the loop's states.
        estimate: what `error_estimate` says of it.
        seconds, loop_seconds: of the solve and of the loop.
    """

    method: str
    width: int
    step: float
    length: int
    iterations: int | None
    error: float
    estimate: float
    seconds: float
    loop_seconds: float


def counts(problem: Problem, width: int, step: float, guess: Guess = li.repeat_initial) -> Iterator[Count]:
    """Every method on one problem, from a guess as `li.solve` takes it."""
    with torch.no_grad():
        begin = wall_clock(problem.s0)
        truth = li.sequential(*problem)
        loop = wall_clock(truth) - begin
        for name, method in methods(problem).items():
            if width > WIDEST[name]:
                continue
            begin = wall_clock(truth)
            found = li.solve(*problem, method, guess=guess, rtol=0, atol=TOLERANCE, max_iters=LIMIT, throw=False)
            seconds = wall_clock(truth) - begin
            estimate = float(found.error_estimate(li.Picard()).abs().max())
            most = int(found.iterations.max()) if found.converged else None
            error = float((found.states - truth).abs().max())
            yield Count(name, width, step, len(truth), most, error, estimate, seconds, loop)


def mixtures(widths: Sequence[int], steps: Sequence[float], length: int, device: torch.device = CPU) -> Iterator[Count]:
    """Two anisotropic Gaussians in D dimensions, for every D and every eps."""
    for width in widths:
        for step in steps:
            yield from counts(mixture_langevin(width, length, step, device=device), width, step)


def two_wells(length: int, chains: int, step: float = 0.01, device: torch.device = CPU) -> tuple[list[Count], Tensor]:
    """Two wells in the plane; the counts, and the states of all chains by Newton's method, `(length, chains, 2)`.

    The guess is random, as the paper has it: the start lies on the ridge between the wells, and along a guess of the
    start alone every Jacobian expands.
    """
    problem = two_well_langevin(chains, length, step, device)
    with torch.no_grad():
        states = li.solve(*problem, guess=two_well_guess).states
    return list(counts(problem, 2, step, two_well_guess)), states


def two_well_density(x: Tensor) -> Tensor:
    """The density of the first coordinate of `two_well_langevin`'s target."""
    means, variances, weights = ((-1.4, 1.6), (0.45, 0.54), (0.49, 0.51))
    parts = zip(means, variances, weights, strict=True)
    return torch.stack([w * torch.exp(-((x - m) ** 2) / 2 / v) / (2 * torch.pi * v) ** 0.5 for m, v, w in parts]).sum(0)
