"""Measures the error of gradients against the loop, and counts adjoint iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import lds_iter as li

WIDTHS, LENGTHS, SEEDS = (4, 8, 16, 32, 64), (1_000, 10_000), (0, 1, 2)

GATE = 1e-6
"""Largest relative error at which ours counts as the gradient; residuals are 1e-10."""


@dataclass(frozen=True)
class Counted(li.LDSApproximation):
    """Another method, unchanged, that notes how often it is asked for an update."""

    method: li.LDSApproximation
    asked: list[int] = field(default_factory=list)

    def init(self, guess: Tensor) -> Any:
        return self.method.init(guess)

    def update(self, lin: li.Linearization, carry: Any) -> tuple[Tensor, Any]:
        self.asked.append(lin.residual.shape[0])
        return self.method.update(lin, carry)


@dataclass(frozen=True)
class Row:
    """One network; lists run over the seeds."""

    width: int
    length: int
    diagonal_error: list[float]
    error: list[float]
    iterations: list[int]
    adjoint_iterations: list[int]


def relative(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """`|found - exact| / |exact|`, over all tensors together."""
    a, b = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (found, exact))
    return float((a - b).norm() / b.norm())


def diagonal_adjoint(module: torch.nn.GRU, x: Tensor, states: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """The gradient of every parameter with `diag J` in place of `J^T` in the adjoint recurrence.

    Args:
        module: a single-layer GRU.
        x: `(T, D_in)`.
        states: the solution, `(T, D)`, detached.
        g: the gradient of the loss with respect to `states`.
    """
    f = li.nn.GRURecurrence.from_module(module)
    prev, u = torch.cat([torch.zeros_like(states[:1]), states[:-1]]), f.inputs(x)
    with torch.no_grad():
        diagonal = f.linearize(prev, u).diagonal()
        # Row t multiplies l_{t+1} by the derivative of step t + 1; the last row has no step after it.
        after = torch.cat([diagonal[1:], torch.zeros_like(diagonal[:1])])
        adjoint = li.linear_scan(li.Diagonal(after), g, reverse=True)
    return torch.autograd.grad(f(prev, u), tuple(module.parameters()), adjoint)


def measure(width: int, length: int, seed: int) -> tuple[float, float, int, int]:
    """Errors of the diagonal adjoint and of ours, and iterations of the solve and of the adjoint.

    Raises:
        AssertionError: when ours is not within `GATE` of backpropagation through the loop.
    """
    torch.manual_seed(seed)
    module = torch.nn.GRU(width, width, dtype=torch.float64)
    x, g = (torch.randn(length, width, dtype=torch.float64) for _ in range(2))
    parameters = tuple(module.parameters())
    exact = torch.autograd.grad((module(x)[0] * g).sum(), parameters)
    f, counted = li.nn.GRURecurrence.from_module(module), Counted(li.QuasiNewton())
    s0 = torch.zeros(width, dtype=torch.float64)
    solution = li.solve(f, s0, f.inputs(x), li.QuasiNewton(), adjoint=li.Implicit(counted))
    error = relative(torch.autograd.grad((solution.states * g).sum(), parameters), exact)
    assert error < GATE, f"the gradient of `Implicit` is {error:.1e} off, which is not below {GATE:g}"
    wrong = diagonal_adjoint(module, x, solution.states.detach(), g)
    return relative(wrong, exact), error, int(solution.iterations), len(counted.asked)
