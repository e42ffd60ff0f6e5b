"""Times compiled solves, eager ones and loops in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.timing import alternately, first_run

ERROR = 5e-5
"""Largest difference to the loop over time at which a row is timed: float32, states of size 1, residuals to 1e-5."""


GRADIENT_ERROR = 1e-3
"""Largest relative difference, in norm, to the gradient through that loop: the residual of the adjoint is 1e-5 of the
largest incoming gradient, and it is of states that differ by `ERROR`."""

FORWARD, TRAINING = "forward", "forward, backward"


Step = Callable[[Tensor, Tensor], Tensor]
Make = Callable[[int], tuple[Step, tuple[Tensor, ...]]]
"""From a width to a recurrence and its weights."""


@dataclass(frozen=True)
class Row:
    """One case, as measured."""

    name: str
    method: str
    passes: str
    length: int
    width: int
    iterations: int
    error: float
    compile_s: float
    plain_ms: float
    compiled_ms: float
    rounds: int


@dataclass(frozen=True)
class Setting:
    """A recurrence and its inputs, with the answer of the loop over time.

    Attributes:
        f, s0, u: as `solve` takes them; `u` with a gradient.
        weights: of `f`, with gradients.
        g: the gradients of the states.
        states: expected.
        gradients: expected, of `u` and `weights`.
    """

    f: Step
    s0: Tensor
    u: Tensor
    weights: tuple[Tensor, ...]
    g: Tensor
    states: Tensor
    gradients: tuple[Tensor, ...]

    @staticmethod
    def of(make: Make, length: int, width: int) -> Setting:
        torch.manual_seed(0)
        f, weights = make(width)
        s0, u, g = torch.zeros(1, width), torch.randn(length, 1, 3 * width), torch.randn(length, 1, width)
        states = li.sequential(f, s0, u.requires_grad_())
        gradients = torch.autograd.grad(states, (u, *weights), g)
        return Setting(f, s0, u, weights, g, states.detach(), gradients)

    def run(self, f: Step, method: li.LDSApproximation, passes: str) -> tuple[Any, tuple[Tensor, ...]]:
        """A solution, and its gradients where they are wanted."""
        with torch.set_grad_enabled(passes == TRAINING):
            solution = li.solve(f, self.s0, self.u, method, rtol=0, atol=1e-5)
        if passes == FORWARD:
            return solution, ()
        return solution, torch.autograd.grad(solution.states, (self.u, *self.weights), self.g)

    def error(self, states: Tensor, gradients: tuple[Tensor, ...]) -> float:
        """The largest difference of the states to those of the loop.

        Raises:
            RuntimeError: when that or the error of a gradient is larger than it may be.
        """
        error = float((states - self.states).abs().max())
        relative = [float((a - b).norm() / b.norm()) for a, b in zip(gradients, self.gradients, strict=False)]
        if error > ERROR or max(relative, default=0) > GRADIENT_ERROR:
            raise RuntimeError(f"An error of {error} in the states, of {relative} in the gradients.")
        return error


def gru_cell(width: int) -> tuple[Step, tuple[Tensor, ...]]:
    """A GRU cell written out in plain torch, and its weight; `u`: pre-activations of the input, `(n, *batch, 3 D)`."""
    weight = torch.nn.GRUCell(width, width).weight_hh

    def f(h: Tensor, u: Tensor) -> Tensor:
        u_r, u_z, u_n = u.chunk(3, -1)
        w_r, w_z, w_n = (h @ weight.T).chunk(3, -1)
        r, z = torch.sigmoid(u_r + w_r), torch.sigmoid(u_z + w_z)
        n = torch.tanh(u_n + r * w_n)
        return (1 - z) * n + z * h

    return f, (weight,)


def pointwise(width: int) -> tuple[Step, tuple[Tensor, ...]]:  # noqa: ARG001
    """A forced, damped oscillation of every coordinate by itself."""

    def f(s: Tensor, u: Tensor) -> Tensor:
        u_a, u_b, _ = u.chunk(3, -1)
        return 0.9 * torch.sin(s + 0.5 * u_a) * torch.sigmoid(u_b) + 0.1 * torch.tanh(u_a * s)

    return f, ()


CASES: dict[str, tuple[Make, dict[str, li.LDSApproximation]]] = {
    "GRU cell": (gru_cell, {"diagonal": li.QuasiNewton(), "Newton": li.Newton()}),
    "pointwise": (pointwise, {"diagonal": li.QuasiNewton(), "Jacobi": li.Jacobi()}),
}


def measure(
    name: str, setting: Setting, method: li.LDSApproximation, passes: str, compiled: li.Compiled, rounds: int
) -> Row:
    """The row of one case, after its gate; what it compiles is added to `compiled`."""
    runs = {
        "plain": lambda: setting.run(setting.f, method, passes),
        "compiled": lambda: setting.run(compiled, method, passes),
    }
    start = time.perf_counter()
    runs["compiled"]()
    compile_s = time.perf_counter() - start
    found = {which: first_run(run) for which, run in runs.items()}
    solutions = [one.result for one in found.values()]
    error = max(setting.error(solution.states.detach(), gradients) for solution, gradients in solutions)
    counts = [int(solution.iterations.max()) for solution, _ in solutions]
    if counts[0] != counts[1]:
        raise RuntimeError(f"{name}: iterations {counts}, plain and compiled.")
    times = alternately(runs, {which: one.seconds for which, one in found.items()}, rounds, long=30)
    plain, fast = times["plain"].ms, times["compiled"].ms
    length, _, width = setting.states.shape
    return Row(name, repr(method), passes, length, width, counts[0], error, compile_s, plain, fast, rounds)


def measured(lengths: list[int], width: int, rounds: int) -> Iterator[Row]:
    """All rows; without the gradient by Jacobi's method, whose adjoint takes as many iterations again."""
    for recurrence, (make, methods) in CASES.items():
        settings = [Setting.of(make, length, width) for length in lengths]
        for which, method in methods.items():
            fast = [li.Compiled(setting.f) for setting in settings]
            for passes in (FORWARD, TRAINING)[: 1 if method == li.Jacobi() else 2]:
                for setting, compiled in zip(settings, fast, strict=True):
                    yield measure(f"{recurrence}, {which}", setting, method, passes, compiled, rounds)
