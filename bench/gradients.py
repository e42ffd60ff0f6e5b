"""The adjoint by the diagonal alone, as in released quasi-DEER code, against ours: `python -m bench.gradients`.

A `torch.nn.GRU` with default initialisation, float64, N(0, 1) inputs, a loss of N(0, 1) weights on every state. The
reference is backpropagation through torch's own loop. Both gradients start from the same solution and differ only in
the adjoint: `l_t = diag(J_{t+1}) l_{t+1} + g_t`, one scan, or `Implicit`, which iterates to `J^T`. Errors are relative,
over the gradient of all parameters. Errors and counts depend on no clock. Writes `bench/results/gradients.json` and a
section of `docs/background/gradients.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import lds_iter as li
from bench.machine import describe
from bench.pages import between, keep, markdown

JSON = Path("bench/results/gradients.json")
PAGE = Path("docs/background/gradients.md")
COMMAND = "python -m bench.gradients"

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


def section(results: dict[str, Any]) -> str:
    """The table of the page."""
    head = ["D", "T", "error of the diagonal adjoint", "error of `Implicit()`", "iterations", "of the adjoint"]

    def span(numbers: list[int]) -> str:
        return str(numbers[0]) if len(set(numbers)) == 1 else f"{min(numbers)}-{max(numbers)}"

    lines = [
        [
            str(row["width"]),
            f"{row['length']:,}",
            f"{100 * min(row['diagonal_error']):.0f}-{100 * max(row['diagonal_error']):.0f} %",
            f"{max(row['error']):.0e}",
            span(row["iterations"]),
            span(row["adjoint_iterations"]),
        ]
        for row in results["rows"]
    ]
    return (
        f"torch {results['torch']}, Python {results['python']}; seeds {', '.join(map(str, results['seeds']))}, ranges "
        f"over them. Solve and adjoint by `QuasiNewton()`, rtol = atol = {results['tolerance']:g}.\n\n"
        + markdown(head, lines)
    )


def main(
    widths: Annotated[list[int], typer.Option("--width", help="D, may be repeated.")] = list(WIDTHS),  # noqa: B006
    lengths: Annotated[list[int], typer.Option("--length", help="T, may be repeated.")] = list(LENGTHS),  # noqa: B006
    write: Annotated[bool, typer.Option(help="Keep the figures and write the page.")] = True,
) -> None:
    """Measure every network, print the table, keep it."""
    torch.set_num_threads(1)
    rows = []
    for length in lengths:
        for width in widths:
            found = [list(column) for column in zip(*(measure(width, length, seed) for seed in SEEDS), strict=True)]
            rows.append(asdict(Row(width, length, *found)))  # pyright: ignore[reportArgumentType]
            print(f"D={width}, T={length}: {rows[-1]}", flush=True)
    results = {**describe(), "seeds": list(SEEDS), "tolerance": 1e-10, "gate": GATE, "rows": rows}
    print(section(results))
    if write:
        keep(results, JSON, PAGE, between(PAGE.read_text(), COMMAND, section(results)))


if __name__ == "__main__":
    typer.run(main)
