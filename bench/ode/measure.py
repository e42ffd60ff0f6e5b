"""Times, memory, iterations and errors of one problem by all solvers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.timing import first_run
from bench.ode.methods import ENTRIES, Entry

CASES = ((1_000, 1), (10_000, 1), (100_000, 1), (1_000_000, 1), (1_000, 64), (10_000, 64), (100_000, 64))
"""Steps and batch."""

LARGEST = 2_000_000
"""Steps times batch, at most: more does not fit eight minutes."""


@dataclass(frozen=True)
class Row:
    """One solver on one case.

    Attributes:
        forward, both: seconds without and with gradients; None where it was not measured.
        peak_mib: by how much memory grew going forward.
        error: the largest difference to the solution on twice as many steps.
        iterations: ours alone.
    """

    steps: int
    batch: int
    solver: str
    forward: float
    both: float | None
    peak_mib: float | None
    error: float
    iterations: int | None


class VanDerPol(torch.nn.Module):
    """mu = 1, with a parameter that gradients reach."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return torch.stack([y[..., 1], self.mu * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], -1)


def lorenz(t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
    a, b, c = y.unbind(-1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


def measure(most_steps: int) -> Iterator[dict[str, Any]]:
    """A row for every solver and case, as it is done."""
    func = VanDerPol()
    for steps, batch in CASES:
        if steps > most_steps or steps * batch > LARGEST:
            continue
        torch.manual_seed(0)
        y0 = torch.randn(batch, 2, dtype=torch.float64) if batch > 1 else torch.tensor([[0.0, 1.0]]).double()
        t = torch.linspace(0, 10, steps + 1, dtype=torch.float64)
        with torch.no_grad():
            exact = li.ode.odeint(func, y0, t, options={"substeps": 2})
        for entry in ENTRIES:
            if steps <= entry.most_steps and steps * batch <= max(entry.most_steps, 10_000) * 10:
                yield asdict(_row(entry, func, y0, t, exact))
    yield asdict(_chaos())


def _row(entry: Entry, func: VanDerPol, y0: Tensor, t: Tensor, exact: Tensor) -> Row:
    iterations = None
    with torch.no_grad():
        entry.solve(func, y0, t[:201])  # compilers and caches
        forward = first_run(lambda: entry.solve(func, y0, t))
        if entry is ENTRIES[0]:
            iterations = int(li.ode.integrate(func, y0, t).solution.iterations.max())
    both = first_run(lambda: entry.solve(func, y0, t).square().mean().backward()) if entry.differentiable else None
    return Row(
        len(t) - 1, len(y0), entry.name, forward.seconds, None if both is None else both.seconds, forward.peak_mib,
        float((forward.result - exact).abs().max()), iterations,
    )  # fmt: skip


def _chaos() -> Row:
    """Lorenz on [0, 20], where a parallel solve loses: 4000 steps."""
    y0, t = torch.ones(1, 3, dtype=torch.float64), torch.linspace(0, 20, 4001, dtype=torch.float64)
    with torch.no_grad():
        run = first_run(lambda: li.ode.integrate(lorenz, y0, t))
        found = run.result
        exact = li.sequential(*li.ode.recurrence(lorenz, y0, t))
    return Row(
        4000, 1, "lds_iter, rk4, Lorenz", run.seconds, None, run.peak_mib,
        float((found.solution.states - exact).abs().max()), int(found.solution.iterations.max()),
    )  # fmt: skip
