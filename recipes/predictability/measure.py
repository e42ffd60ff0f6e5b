"""The measurements: iterations of Newton's method beside the Lyapunov exponent, for four families of recurrences.

By the paper's convention a sequence is solved when its mean merit `|r|^2 / (2 T)` is at most 1e-10; here, when no
residual exceeds the `atol` that implies it. All in float64. Exponents are in nats per time step, counts are updates.
Problems are solved on the device that is given; the tensors of a result are on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.problems import (
    Problem,
    mean_field_rnn,
    normal_guess,
    two_well_guess,
    two_well_langevin,
    uniform_guess,
)
from lds_iter.diagnostics import counts_by_length
from recipes.devices import CPU
from recipes.predictability.flows import FLOWS, guess, observer, rollout, system
from recipes.predictability.lorenz96 import lorenz96

MERIT = 1e-10
"""The paper's tolerance on `|r|^2 / (2 T)`."""


def tolerance(width: int) -> float:
    """The largest residual that implies a mean merit of at most `MERIT`, whatever T."""
    return (2 * MERIT / width) ** 0.5


@dataclass(frozen=True)
class Point:
    """One solve.

    Attributes:
        label: the parameter that was varied: g, F or a name.
        exponent, error: the largest Lyapunov exponent and its standard error, nats per step.
        iterations: updates that Newton's method took.
        length: T.
        counts: iterations for every shorter length, `(T,)`, int64; None where the solve was not recorded.
        solved: whether it converged within its limit.
        off: largest distance from the sequential states; None where none was at hand.
    """

    label: str
    exponent: float
    error: float
    iterations: int
    length: int
    counts: Tensor | None
    solved: bool
    off: float | None


def point(
    label: str,
    problem: Problem,
    start: Tensor | Callable[..., Tensor],
    truth: Tensor | None = None,
    *,
    record: bool = True,
) -> Point:
    """Solve a problem by Newton's method and take the exponent along its true states (found ones, when None).

    A record takes iterations times T numbers.
    """
    width = problem.s0.shape[-1]
    atol = tolerance(width)
    solution = li.solve(*problem, guess=start, rtol=0, atol=atol, record=record, throw=False)
    states = solution.states if truth is None else truth
    found = li.diagnostics.lyapunov(*problem, states, prefix=None)
    iterations, rows = int(solution.iterations), torch.full_like(states[:, 0], atol)
    return Point(
        label,
        float(found.largest),
        float(found.error),
        iterations,
        states.shape[0],
        None if solution.history is None else counts_by_length(solution.history, rows).clamp(max=iterations).cpu(),
        solution.converged,
        None if truth is None else float((solution.states - truth).abs().max()),
    )


def networks(gains: list[float], seeds: range, width: int, length: int, device: torch.device = CPU) -> Iterator[Point]:
    """The mean-field RNN over its gain g: from predictable to chaotic."""
    for gain in gains:
        for seed in seeds:
            problem = mean_field_rnn(gain, width, length, seed, device)
            yield point(f"{gain:g}", problem, uniform_guess(seed), li.sequential(*problem))


def observers(length: int, dt: float = 0.01, device: torch.device = CPU) -> Iterator[tuple[Point, float]]:
    """The observers of the nine flows, and the exponent of the flow itself, nats per step."""
    for name, flow in FLOWS.items():
        truth = rollout(flow, length, dt).to(device)
        chaos = li.diagnostics.lyapunov(*system(flow, length, dt, device), truth[1:], prefix=None)
        problem = observer(flow, truth, dt)
        yield point(name, problem, guess(length).to(device), li.sequential(*problem)), float(chaos.largest)


def systems(names: Sequence[str], length: int, dt: float = 0.01, device: torch.device = CPU) -> Iterator[Point]:
    """Chaotic flows themselves, without an observer."""
    for name in names:
        flow = FLOWS[name]
        problem, truth = system(flow, length, dt, device), rollout(flow, length, dt)[1:].to(device)
        yield point(f"{name}, the flow", problem, guess(length).to(device), truth, record=False)


def rings(forcings: list[float], width: int, length: int, device: torch.device = CPU) -> Iterator[Point]:
    """Lorenz-96 over its forcing F, from a guess of independent N(0, 1) numbers."""
    for forcing in forcings:
        problem = lorenz96(forcing, width, length, device=device)
        yield point(f"{forcing:g}", problem, normal_guess(0), li.sequential(*problem))


@dataclass(frozen=True)
class Langevin:
    """The two wells, all noise seeds together.

    Attributes:
        exponents: of every iterate, the guess first, nats per step, `(iterations + 1, seeds)`.
        merits: of the same iterates, `|r|^2 / (2 T)`.
        counts: updates that the first t steps took, `(T, seeds)`.
        iterations: updates in all, `(seeds,)`.
        off: largest distance from the sequential states.
    """

    exponents: Tensor
    merits: Tensor
    counts: Tensor
    iterations: Tensor
    off: float


@dataclass(frozen=True)
class Watching(li.LDSApproximation):
    """Newton's method, which also takes down the exponent and the merit of every iterate it is shown."""

    exponents: list[Tensor]
    merits: list[Tensor]

    def init(self, guess: Tensor) -> None:  # noqa: ARG002
        return None

    def update(self, lin: li.Linearization, carry: Any) -> tuple[Tensor, Any]:
        jacobian = lin.jacobian()
        _, scale = li.diagnostics.product(jacobian)
        self.exponents.append(scale / jacobian.shape[0])
        self.merits.append(lin.residual.square().sum((0, -1)) / (2 * jacobian.shape[0]))
        return lin.scan(li.Dense(jacobian), lin.residual), carry


def wells(seeds: int, length: int, device: torch.device = CPU) -> Langevin:
    """Langevin dynamics between two wells: unstable between them, stable in them, predictable on the whole."""
    problem, atol = two_well_langevin(seeds, length, device=device), tolerance(2)
    watching = Watching([], [])
    solution = li.solve(*problem, watching, guess=two_well_guess, rtol=0, atol=atol, record=True)
    assert solution.history is not None
    truth = li.sequential(*problem)
    rows = torch.full_like(truth[..., 0], atol)
    return Langevin(
        torch.stack(watching.exponents).cpu(),
        torch.stack(watching.merits).cpu(),
        counts_by_length(solution.history, rows).cpu(),
        solution.iterations.cpu(),
        float((solution.states - truth).abs().max()),
    )
