"""torchdiffeq's `odeint`: a loop over the steps of the same map, or `dopri5`, which chooses steps of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.peers.base import AbstractPeer, Prepared, load, not_installed, on_cpu
from bench.peers.problems import ODEProblem, Outcome


@dataclass(frozen=True)
class TorchDiffEq(AbstractPeer[ODEProblem]):
    """`odeint(field, y0, times)`; by the problem's own fixed step."""

    package = "torchdiffeq"
    name = "torchdiffeq, same steps"

    def available(self, problem: ODEProblem) -> str:
        return not_installed("torchdiffeq")

    def prepare(self, problem: ODEProblem) -> Prepared:
        return _prepared(problem, problem.step, {})


@dataclass(frozen=True)
class Dopri5(AbstractPeer[ODEProblem]):
    """Adaptive steps, interpolated to the same times: another answer to the same equation, at `tolerance`."""

    tolerance: float = 1e-6
    package = "torchdiffeq"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"torchdiffeq, dopri5 at {self.tolerance:g}"

    def available(self, problem: ODEProblem) -> str:
        if problem.step != "rk4":
            return "does not compute the map of Euler's method"
        return not_installed("torchdiffeq")

    def prepare(self, problem: ODEProblem) -> Prepared:
        return _prepared(problem, "dopri5", {"rtol": self.tolerance, "atol": self.tolerance})


def _prepared(problem: ODEProblem, method: str, tolerances: dict[str, float]) -> Prepared:
    odeint = load("torchdiffeq").odeint

    def field(t: Tensor, y: Tensor) -> Tensor:
        return problem.field(t.reshape(1), y.unsqueeze(0)).squeeze(0)

    def run() -> Outcome:
        with torch.no_grad():
            return (odeint(field, problem.y0, problem.times, method=method, **tolerances)[1:],)

    return Prepared(run, on_cpu)
