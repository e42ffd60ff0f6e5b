"""Counts that have no noise: updates of solves and of their gradients, bytes alive, bytes that kernels move.

All numbers are in float64, and tolerances lie between two updates that are far apart, so that rounding on another
processor changes no count. Compiled CPU kernels are off: memory is then that of the plain operations on any machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import lds_iter as li
from bench.common import problems
from bench.common.problems import Problem
from bench.common.storage import peak_bytes
from lds_iter.nn.gru import GRURecurrence

TOLERANCE = 1e-8
WIDTH, LENGTH = 8, 400
SWITCH = "LDS_ITER_CPU_KERNELS"

Counts = dict[str, int]
"""Rows by their names."""


@contextmanager
def plain() -> Iterator[None]:
    """Without compiled CPU kernels, on one thread."""
    before, threads = os.environ.get(SWITCH), torch.get_num_threads()
    os.environ[SWITCH] = "0"
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def gru(length: int = LENGTH, batch: int = 1) -> Problem:
    """A GRU as PyTorch initialises it, with inputs N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.GRU(WIDTH, WIDTH, dtype=torch.float64).requires_grad_(False)
    for parameter in module.parameters():
        parameter.uniform_(-(WIDTH**-0.5), WIDTH**-0.5, generator=generator)
    f = GRURecurrence.from_module(module)
    x = torch.randn(length, batch, WIDTH, generator=generator, dtype=torch.float64)
    return Problem(f, torch.zeros(batch, WIDTH, dtype=torch.float64), f.inputs(x))


def network(gain: float) -> Problem:
    """`s' = tanh(W s) + u / 2` as a plain function, with a gradient for W."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) * gain / WIDTH**0.5
    weight.requires_grad_()

    def f(s: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.tanh(s @ weight.T) + u / 2

    u = torch.randn(LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    return Problem(f, torch.zeros(WIDTH, dtype=torch.float64), u)


def solves() -> dict[str, tuple[Problem, li.LDSApproximation, dict[str, Any]]]:
    """What is solved, by name: a problem, a method, and options."""
    trust = li.TrustRegion(li.Newton())
    chaotic = problems.mean_field_rnn(1.2, width=30, length=300)
    calm = problems.mean_field_rnn(0.8, width=30, length=300)
    return {
        "GRU, Newton": (gru(), li.Newton(), {}),
        "GRU, Newton, window 50": (gru(), li.Newton(), {"window": 50}),
        "GRU, quasi-Newton": (gru(), li.QuasiNewton(), {}),
        "GRU, Jacobi": (gru(), li.Jacobi(), {}),
        "GRU, blocks of 4": (gru(), li.BlockNewton(4), {}),
        "network, Newton": (network(0.5), li.Newton(), {}),
        "network, quasi-Newton": (network(0.5), li.QuasiNewton(), {}),
        "word problem, Picard": (problems.word_problem(60), li.Picard(), {}),
        "word problem, Newton": (problems.word_problem(60), li.Newton(), {}),
        "mean field 0.8, Newton": (calm, li.Newton(), {}),
        "mean field 1.2, Newton": (chaotic, li.Newton(), {}),
        "mean field 1.2, trust region": (chaotic, trust, {}),
        "mean field 0.8, filter": (calm, li.LevenbergMarquardt(1e3), {}),
        "mean field 0.8, smoother": (calm, li.LevenbergMarquardt(1e3, form=li.Smoother()), {}),
        "two wells, Newton": (problems.two_well_langevin(2, 1000), li.Newton(), {}),
        "two wells, damped": (problems.two_well_langevin(2, 1000), li.Damped(li.Newton(), 0.05), {}),
    }


def iterations() -> Counts:
    """Updates of each solve, the most of a batch."""
    found = {}
    for name, (problem, method, options) in solves().items():
        f, s0, inputs = problem
        with torch.no_grad():
            solution = li.solve(f, s0, inputs, method, rtol=0, atol=TOLERANCE, **options)
        found[name] = int(solution.iterations.max())
    return found


def adjoints() -> Counts:
    """Updates of the backward pass of solves with a gradient."""
    found = {}
    for method in li.Newton(), li.QuasiNewton():
        problem = network(0.5)
        solution = li.solve(*problem, method, rtol=0, atol=TOLERANCE)
        solution.states.sum().backward()
        found[f"gradient of the network, {type(method).__name__}"] = int(solution.adjoints[0].iterations.max())
    return found


def memory() -> Counts:
    """Bytes alive at most while a solve runs, and while one runs and its gradient is computed."""

    def run(problem: Problem, method: li.LDSApproximation, **options: Any) -> int:
        with torch.no_grad():
            return peak_bytes(lambda: li.solve(*problem, method, rtol=0, atol=TOLERANCE, **options))[0]

    def train() -> None:
        li.solve(*network(0.5), li.Newton(), rtol=0, atol=TOLERANCE).states.sum().backward()

    return {
        "memory, GRU, Newton": run(gru(), li.Newton()),
        "memory, GRU, Newton, window 50": run(gru(), li.Newton(), window=50),
        "memory, GRU, quasi-Newton": run(gru(), li.QuasiNewton()),
        "memory, network, Jacobi": run(network(0.5), li.Jacobi()),
        "memory, network, Newton and its gradient": peak_bytes(train)[0],
    }


def moved() -> Counts:
    """Bytes that kernels read and write, in Triton's interpreter; nothing where there is none."""
    try:
        import triton.runtime.interpreter  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    from bench.kernels.bytes_moved import count, scans

    found = {}
    for name in "diagonal, float32", "diagonal, float64", "2x2 blocks":
        run: Callable[[], Any] = scans(64)[name][0]
        bytes_moved = count(run)
        found[f"scan on a GPU, {name}"] = bytes_moved.read + bytes_moved.written
    return found


def measure() -> Counts:
    """All rows."""
    with plain():
        return {**iterations(), **adjoints(), **memory(), **moved()}
