"""The equations and grids of the bench, and the cases that are left out, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import scipy.integrate
import torch
from torch import Tensor

import lds_iter as li

Func = Callable[[Tensor, Tensor], Tensor]


class VanDerPol(torch.nn.Module):
    """mu = 1, with a parameter that gradients reach."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return torch.stack([y[..., 1], self.mu * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], -1)


class Lorenz(torch.nn.Module):
    """Chaotic: differences grow by e^0.9 in a unit of time."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        a, b, c = y.unbind(-1)
        return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


class ZeroTest(torch.nn.Module):
    """DEER's own test of its solver: four states, networks without training, and a cubic force."""

    def __init__(self) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(0)
        inner, outer = torch.randn(2, 4, 4, generator=chance, dtype=torch.float64) / 2
        self.inner, self.outer = torch.nn.Parameter(inner), torch.nn.Parameter(outer)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        pulled = torch.tanh(torch.relu(y @ self.inner.T) @ self.outer.T)
        return -6 * pulled - 10 * y**3 + 30 * torch.sin(6 * t) + 3


@dataclass(frozen=True)
class Case:
    """One equation on one grid.

    Attributes:
        name: in the table.
        func: the equation.
        end: of the time span, from 0.
        steps: of the grid.
        batch: initial states at once.
    """

    name: str
    func: torch.nn.Module
    end: float
    steps: int
    batch: int = 1

    @property
    def key(self) -> str:
        """The same for the same case in another run."""
        return f"{self.name}, {self.steps} steps, batch {self.batch}"

    def start(self) -> Tensor:
        """The initial states, `(batch, D)`."""
        if isinstance(self.func, Lorenz):
            return torch.ones(self.batch, 3, dtype=torch.float64)
        if isinstance(self.func, ZeroTest):
            return torch.linspace(-1, 1, 4, dtype=torch.float64).expand(self.batch, 4)
        chance = torch.Generator().manual_seed(0)
        if self.batch == 1:
            return torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        return torch.randn(self.batch, 2, generator=chance, dtype=torch.float64)

    def times(self) -> Tensor:
        """The grid, `(steps + 1)`."""
        return torch.linspace(0, self.end, self.steps + 1, dtype=torch.float64)

    @torch.no_grad()
    def reference(self) -> Tensor:
        """What errors are measured against, `(steps + 1, batch, D)`; see the page."""
        y0, t = self.start(), self.times()
        if isinstance(self.func, ZeroTest):
            return _by_scipy(self.func, y0, t)
        if isinstance(self.func, Lorenz):
            return torch.cat([y0.unsqueeze(0), li.sequential(*li.ode.recurrence(self.func, y0, t))])
        return li.ode.odeint(self.func, y0, t, options={"substeps": 2})


def _by_scipy(func: Func, y0: Tensor, t: Tensor) -> Tensor:
    """Of a batch of equal states, to 1e-10."""
    slope = lambda time, y: func(torch.tensor(time), torch.from_numpy(y)).numpy()  # noqa: E731
    found = scipy.integrate.solve_ivp(slope, (0, float(t[-1])), y0[0].numpy(), t_eval=t.numpy(), rtol=1e-10, atol=1e-10)
    return torch.from_numpy(found.y.T).unsqueeze(1).expand(-1, len(y0), -1)


def cases(most_steps: int) -> list[Case]:
    """What is measured, the most important first."""
    oscillator, chaos = VanDerPol(), Lorenz()
    grids = [(100_000, 1), (1_000, 1), (100, 1), (10_000, 1), (1_000, 64), (10_000, 64), (1_000_000, 1)]
    found = [Case("van der Pol", oscillator, 10, steps, batch) for steps, batch in grids]
    found += [Case("DEER's zero test", ZeroTest(), 1, 10_000), Case("Lorenz", chaos, 20, 4_000)]
    return [case for case in found if case.steps <= most_steps]
