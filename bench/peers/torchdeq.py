"""torchdeq's solvers on the whole trajectory: the fixed point of `s -> f(shift(s), u)`, without structure in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.peers.base import AbstractPeer, Prepared, load, not_installed, on_cpu
from bench.peers.problems import LIMIT, RESIDUAL, GRUProblem
from lds_iter.nn import GRURecurrence


@dataclass(frozen=True)
class TorchDEQ(AbstractPeer[GRUProblem]):
    """One of its solvers: `fixed_point_iter` (Jacobi's iteration), `anderson` or `broyden`.

    It stops on the Euclidean norm of the residual of a whole sequence, which does not say how large the largest one
    is: it gets the norm of a residual of a tenth of `RESIDUAL` in every number, with which its error passes the gate.
    Gradients are implicit (`ift=True`; its default is one step of backpropagation, which is 60 % off here).
    """

    solver: str
    package = "torchdeq"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"torchdeq, {self.solver}"

    def available(self, problem: GRUProblem) -> str:
        return not_installed("torchdeq")

    def prepare(self, problem: GRUProblem) -> Prepared:
        assert isinstance(problem.module, torch.nn.GRU)
        f = GRURecurrence.from_module(problem.module)
        parameters = list(problem.module.parameters())
        options = {"f_max_iter": LIMIT, "b_max_iter": LIMIT, "f_solver": self.solver, "b_solver": self.solver}
        tolerance = 0.1 * RESIDUAL * (problem.length * problem.width) ** 0.5
        modes = {"f_stop_mode": "abs", "b_stop_mode": "rel", "ift": True}
        deq = load("torchdeq").get_deq(**options, **modes, f_tol=tolerance, b_tol=1e-5)
        deq.train(problem.training)
        counts: list[Any] = [0]

        def states() -> Tensor:
            u = f.inputs(problem.x)

            def whole(s: Tensor) -> Tensor:  # its batch comes first
                s = s.transpose(0, 1)
                return f(torch.cat([torch.zeros_like(s[:1]), s[:-1]]), u).transpose(0, 1)

            found, info = deq(whole, torch.zeros_like(problem.x).transpose(0, 1))
            counts[0] = info["nstep"].max()  # its traces are padded to the limit
            return found[-1].transpose(0, 1)

        return Prepared(problem.evaluated(states, parameters), on_cpu, lambda: int(counts[0]))
