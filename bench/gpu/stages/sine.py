"""The sine-generating GRU at the edge of stability, against its loop.

Published, on an A100 at T = 10,000: the loop 96.2 ms, quasi-ELK 221, ELK 619, quasi-DEER 642, DEER 1,255.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

import lds_iter as li
from bench.gpu.stages.base import Figures, Rows, Where
from bench.gpu.stages.networks import _line
from bench.peers.base import AbstractPeer, Prepared, on_cpu
from bench.peers.measure import measure
from bench.peers.problems import Outcome


@dataclass(frozen=True)
class SineProblem:
    """The sine wave, float64, from zeros, to a residual of 1e-10."""

    length: int
    seed: int = 1
    width: int = 4
    batch: int = 1
    device: str = "cuda"
    gate: float = 1e-6  # a residual of 1e-10, and products of Jacobians up to some thousands

    @cached_property
    def problem(self) -> Any:
        """A `bench.edge.problems.EdgeProblem`."""
        from bench.edge.problems import sine

        return sine(self.length, self.seed)

    def reference(self) -> Outcome:
        """The loop on the CPU."""
        with torch.no_grad():
            return (self.problem.sequential().cpu(),)

    def on(self, device: str) -> tuple[Any, torch.Tensor, Any]:
        """`f`, `s0` and inputs; a copy of the module, since `to` moves it."""
        edge = self.problem
        return copy.deepcopy(edge.f).to(device), edge.s0.to(device), edge.inputs.to(device)


@dataclass(frozen=True)
class SineLoop(AbstractPeer[SineProblem]):
    """The loop over the steps on a device of its own choice: a CPU takes a step faster than a GPU."""

    where: str
    package = "torch"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"step loop on the {self.where}"

    def available(self, problem: SineProblem) -> str:
        here = "cpu", torch.device(problem.device).type
        return "" if self.where in here else f"this run is on the {problem.device}"

    def prepare(self, problem: SineProblem) -> Prepared:
        f, s0, inputs = problem.on(self.where)
        return Prepared(torch.no_grad()(lambda: (li.sequential(f, s0, inputs),)), on_cpu)


@dataclass(frozen=True)
class OurSine(AbstractPeer[SineProblem]):
    """`TrustRegion(Newton())`, or another method."""

    method: li.LDSApproximation
    label: str
    package = "lds-iter"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"lds_iter, {self.label}"

    def available(self, problem: SineProblem) -> str:
        return ""

    def prepare(self, problem: SineProblem) -> Prepared:
        solutions, edge = [], problem.problem
        f, s0, inputs = problem.on(problem.device)

        def run() -> Outcome:
            options: dict[str, Any] = {"guess": edge.guess, "rtol": edge.rtol, "atol": edge.atol}
            solutions[:] = [li.solve(f, s0, inputs, self.method, **options)]
            return (solutions[0].states,)

        return Prepared(torch.no_grad()(run), on_cpu, lambda: int(solutions[0].iterations.max()))


CONTENDERS = (
    OurSine(li.TrustRegion(li.Newton()), "TrustRegion(Newton())"),
    OurSine(li.Damped(li.Newton(), 0.02), "Damped(Newton(), 0.02)"),
    SineLoop("cuda"),
    SineLoop("cpu"),
)


def rows(where: Where) -> Rows:
    """At the published length, and at a shorter one."""
    return {f"T = {length:,}": partial(_measured, where, length) for length in (10_000, 1_000)}


def _measured(where: Where, length: int) -> Figures:
    problem = SineProblem(where.size(length, 60), device=where.device)
    table = measure(problem, CONTENDERS, rounds=1 if where.tiny else 3, long=1.0)
    return {**table, "line": "; ".join(_line(row) for row in table["rows"])}
