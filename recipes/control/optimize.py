"""Forces that swing the pole up, and gains that hold it there, by gradients through all steps at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import lds_iter as li
from recipes.control.cart_pole import STRONGEST, ClosedLoop, OpenLoop
from recipes.devices import CPU

HANGING = (0.0, math.pi, 0.0, 0.0)
"""The pole hangs down at rest."""


@dataclass(frozen=True)
class Improvement:
    """A step of an optimization.

    Attributes:
        cost: before it, a number on the device, so that nothing waits for it before it is read.
        controls: after it: the `w` of all forces, or the gains.
        states: that the cost is of, `(T, 4)`.
        iterations: of the solve, likewise; 0 when sequential.
    """

    cost: Tensor
    controls: Tensor
    states: Tensor
    iterations: Tensor | int


def swing_cost(states: Tensor, w: Tensor) -> Tensor:
    """Upright and at rest in the middle, the more the later; and little force.

    Args:
        states: `(T, 4)`.
        w: of the forces, `(T)`.
    """
    place, angle, speed, turn = states.unbind(-1)
    late = torch.linspace(0, 1, len(states), dtype=states.dtype, device=states.device).pow(4)
    bad = 1 - angle.cos() + 0.1 * place.square() + 0.05 * late * (speed.square() + turn.square())
    return (late * bad).mean() / late.mean() + 1e-3 * torch.tanh(w).square().mean() + 0.01 * place.square().mean()


def swing_up(
    times: int, length: int, dt: float, *, parallel: bool = True, seed: int = 0, device: torch.device = CPU
) -> Iterator[Improvement]:
    """Improve the forces of all steps by Adam, from a start near none.

    Args:
        times: improvements.
        length: steps of the simulator, T.
        dt: seconds.
        parallel: all steps of the simulator at once; otherwise one after the other.
        seed: of the start.
        device: where to compute.
    """
    simulator, s0 = OpenLoop(dt), torch.tensor(HANGING, dtype=torch.float64, device=device)
    chance = torch.Generator("cpu").manual_seed(seed)
    w = (0.1 * torch.randn(length, generator=chance, dtype=torch.float64, device="cpu")).to(device).requires_grad_()
    adam, guess = torch.optim.Adam([w], 0.05), s0.expand(length, 4)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, times)
    for _ in range(times):
        adam.zero_grad()
        states, count = _simulated(simulator, s0, w, guess, parallel=parallel)
        cost = swing_cost(states, w)
        cost.backward()
        adam.step()
        fall.step()
        guess = states.detach()
        yield Improvement(cost.detach(), w.detach().clone(), guess, count)


def hold(
    times: int, length: int, dt: float, *, parallel: bool = True, seed: int = 0, device: torch.device = CPU
) -> Iterator[Improvement]:
    """Improve the gains of a feedback that holds the pole upright against random pushes, by Adam.

    Args:
        times, length, dt, parallel, seed, device: as `swing_up` has them; the seed is that of the pushes.
    """
    chance = torch.Generator("cpu").manual_seed(seed)
    pushes = (2 * torch.randn(length, generator=chance, dtype=torch.float64, device="cpu")).to(device)
    s0 = torch.tensor([0, 0.1, 0, 0], dtype=torch.float64, device=device)
    weights = torch.tensor([1.0, 10.0, 0.1, 0.1], dtype=torch.float64, device=device)
    gains = torch.tensor([-0.1, -4.0, -0.2, -0.8], dtype=torch.float64, device=device, requires_grad=True)
    adam, guess = torch.optim.Adam([gains], 0.02), s0.expand(length, 4)
    for _ in range(times):
        adam.zero_grad()
        controller = ClosedLoop(gains, dt)
        states, count = _simulated(controller, s0, pushes, guess, parallel=parallel)
        cost = (states.square() * weights).sum(-1).mean()
        cost = cost + 1e-3 * controller.force(states).square().mean() / STRONGEST
        cost.backward()
        adam.step()
        guess = states.detach()
        yield Improvement(cost.detach(), gains.detach().clone(), guess, count)


def _simulated(
    simulator: OpenLoop | ClosedLoop, s0: Tensor, inputs: Tensor, guess: Tensor, *, parallel: bool
) -> tuple[Tensor, Tensor | int]:
    """The states, and iterations."""
    if not parallel:
        return li.sequential(simulator, s0, inputs), 0
    solution = li.solve(simulator, s0, inputs, guess=guess, rtol=1e-9, atol=1e-9)
    return solution.states, solution.iterations
