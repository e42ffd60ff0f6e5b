"""The problems of the tables: a GRU, a diagonal scan, a neural ODE. Each knows its reference and its gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

Outcome = tuple[Tensor, ...]

RESIDUAL = 1e-5
"""Where whoever iterates stops: the largest residual; rtol = 0."""

LIMIT = 200
"""Iterations allowed to every peer that iterates."""


@dataclass(frozen=True)
class GRUProblem:
    """A `torch.nn.GRU` as initialised, N(0, 1) inputs, float32; in training with the gradients of all parameters.

    `layer` may be `torch.nn.LSTM` for those peers that take any layer of torch's.
    """

    length: int
    width: int
    batch: int = 1
    training: bool = False
    device: str = "cpu"
    gate: float = 5e-5
    gradient_gate: float = 1e-3
    layer: type[torch.nn.GRU] | type[torch.nn.LSTM] = torch.nn.GRU

    @cached_property
    def module(self) -> torch.nn.GRU | torch.nn.LSTM:
        torch.manual_seed(0)
        return self.layer(self.width, self.width).to(self.device)

    @cached_property
    def x(self) -> Tensor:
        """`(T, batch, D)`."""
        return torch.randn(self._shape, generator=torch.Generator().manual_seed(1)).to(self.device)

    @cached_property
    def weights(self) -> Tensor:
        """Of the loss in training, `(states * weights).mean()`."""
        return torch.randn(self._shape, generator=torch.Generator().manual_seed(2)).to(self.device)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.length, self.batch, self.width

    def evaluated(self, states: Callable[[], Tensor], parameters: list[torch.nn.Parameter]) -> Callable[[], Outcome]:
        """One evaluation by torch: the states, and in training the gradients too."""

        def forward() -> Outcome:
            with torch.no_grad():
                return (states(),)

        def step() -> Outcome:
            found = states()
            return found.detach(), *torch.autograd.grad((found * self.weights).mean(), parameters)

        return step if self.training else forward

    def reference(self) -> Outcome:
        """By torch's layer."""
        run = self.evaluated(lambda: self.module(self.x)[0], list(self.module.parameters()))
        return tuple(tensor.cpu() for tensor in run())


@dataclass(frozen=True)
class ScanProblem:
    """`x_t = a_t x_{t-1} + b_t`, elementwise: a uniform in [0.5, 1), b N(0, 1), float32, `(T, batch, D)`."""

    length: int
    width: int
    batch: int = 1
    device: str = "cpu"
    gate: float = 1e-4  # float32 sums of up to a thousand terms of size 1 before they are forgotten

    @cached_property
    def a(self) -> Tensor:
        shape = self.length, self.batch, self.width
        return (0.5 + 0.5 * torch.rand(shape, generator=torch.Generator().manual_seed(0))).to(self.device)

    @cached_property
    def b(self) -> Tensor:
        shape = self.length, self.batch, self.width
        return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device)

    def reference(self) -> Outcome:
        """By a loop in float64."""
        a, b = (tensor.cpu().double().numpy() for tensor in (self.a, self.b))
        x = np.zeros_like(b[0])
        out = np.empty_like(b)
        for t in range(self.length):
            x = a[t] * x + b[t]
            out[t] = x
        return (torch.from_numpy(out),)


class Field(torch.nn.Module):
    """A forced vector field `g(t, y)` of a neural ODE: two layers with tanh, with a leak that lets it forget."""

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(width + 2, hidden)
        self.outer = torch.nn.Linear(hidden, width)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """`t` is a number or `(n, 1, 1)`, `y` is `(batch, D)` or `(n, batch, D)`."""
        wave = torch.stack([t.sin(), t.cos()], -1).reshape(*t.shape[:1], *[1] * (y.ndim - 2), 2)[..., :2]
        wave = wave.expand(*y.shape[:-1], 2)
        return self.outer(self.inner(torch.cat([y, wave], -1)).tanh()) - 0.5 * y


@dataclass(frozen=True)
class ODEProblem:
    """A neural ODE on `length` equal steps of `dt`, from a N(0, 1) state, by one of the maps in `STEPS`."""

    length: int
    step: str
    width: int = 4
    batch: int = 1
    dt: float = 0.01
    device: str = "cpu"
    gate: float = 1e-4  # float32, a relative forgetting time of 200 steps: that many roundings of 1e-7 and the residual

    @cached_property
    def field(self) -> Field:
        torch.manual_seed(0)
        return Field(self.width).requires_grad_(False).to(self.device)

    @cached_property
    def y0(self) -> Tensor:
        return torch.randn(self.batch, self.width, generator=torch.Generator().manual_seed(1)).to(self.device)

    @cached_property
    def times(self) -> Tensor:
        """Start of each step, and the end: `(T + 1)`."""
        return torch.arange(self.length + 1, dtype=torch.float64).mul(self.dt).float().to(self.device)

    def advance(self, y: Tensor, t: Tensor) -> Tensor:
        """One step of all rows: `y` `(n, batch, D)`, `t` `(n)`."""
        return STEPS[self.step](self.field, t, y, self.dt)

    def reference(self) -> Outcome:
        """By a loop in float64 over the same map."""
        field, y, out = Field(self.width).double(), self.y0.cpu().double().unsqueeze(0), []
        field.load_state_dict(self.field.state_dict())
        times = self.times.cpu().double()
        with torch.no_grad():
            for t in range(self.length):
                y = STEPS[self.step](field, times[t : t + 1], y, self.dt)
                out.append(y)
        return (torch.cat(out),)


def euler(field: Field, t: Tensor, y: Tensor, dt: float) -> Tensor:
    """`y + dt g(t, y)`."""
    return y + dt * field(t, y)


def rk4(field: Field, t: Tensor, y: Tensor, dt: float) -> Tensor:
    """Runge and Kutta's 3/8 rule, which is what torchdiffeq calls `rk4`."""
    k1 = field(t, y)
    k2 = field(t + dt / 3, y + dt * k1 / 3)
    k3 = field(t + dt * 2 / 3, y + dt * (k2 - k1 / 3))
    k4 = field(t + dt, y + dt * (k1 - k2 + k3))
    return y + dt / 8 * (k1 + 3 * (k2 + k3) + k4)


STEPS: dict[str, Callable[[Field, Tensor, Tensor, float], Tensor]] = {"euler": euler, "rk4": rk4}
