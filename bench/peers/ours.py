"""`lds_iter`, as a contender."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

import lds_iter as li
from bench.peers.base import AbstractPeer, Prepared, on_cpu
from bench.peers.problems import LIMIT, RESIDUAL, GRUProblem, ODEProblem, Outcome, ScanProblem


@dataclass(frozen=True)
class OurGRU(AbstractPeer[GRUProblem]):
    """`li.nn`'s layer by a method, or by its default when None."""

    method: li.LDSApproximation | None = field(default_factory=li.QuasiNewton)
    package = "lds-iter"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "lds_iter" if self.method is None else f"lds_iter, {type(self.method).__name__}()"

    def available(self, problem: GRUProblem) -> str:
        if isinstance(self.method, li.Newton) and problem.width > 32:
            return f"Jacobians of {problem.width} x {problem.width} for every step"
        return ""

    def prepare(self, problem: GRUProblem) -> Prepared:
        method = li.nn.fixed_method(problem.module) if self.method is None else self.method
        options: dict[str, Any] = {"method": method, "rtol": 0, "atol": RESIDUAL, "max_iters": LIMIT}
        kind: Any = li.nn.LSTM if problem.layer is torch.nn.LSTM else li.nn.GRU
        layer = kind(problem.width, problem.width, **options).to(problem.device)
        layer.load_state_dict(problem.module.state_dict())
        evaluate = problem.evaluated(lambda: layer(problem.x)[0], list(layer.parameters()))

        def run() -> Outcome:
            with warnings.catch_warnings():  # a layer that falls back to torch's kernel is no contender
                warnings.simplefilter("error", li.PerformanceWarning)
                return evaluate()

        return Prepared(run, on_cpu, lambda: int(layer.last_solution[0].iterations.max()))


class OurScan(AbstractPeer[ScanProblem]):
    """`li.linear_scan`."""

    name = "lds_iter.linear_scan"
    package = "lds-iter"

    def available(self, problem: ScanProblem) -> str:
        return ""

    def prepare(self, problem: ScanProblem) -> Prepared:
        a, b = problem.a, problem.b
        return Prepared(lambda: (li.linear_scan(li.Diagonal(a), b),), on_cpu)


class OurODE(AbstractPeer[ODEProblem]):
    """`li.solve` by Newton's method over all steps of the same map."""

    name = "lds_iter, Newton()"
    package = "lds-iter"

    def available(self, problem: ODEProblem) -> str:
        return ""

    def prepare(self, problem: ODEProblem) -> Prepared:
        solutions: list[li.Solution] = []

        def run() -> Outcome:
            solution = li.solve(problem.advance, problem.y0, problem.times[:-1], li.Newton(), rtol=0, atol=1e-6)
            solutions[:] = [solution]
            return (solution.states,)

        return Prepared(torch.no_grad()(run), on_cpu, lambda: int(solutions[0].iterations.max()))
