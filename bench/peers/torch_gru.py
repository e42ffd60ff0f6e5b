"""`torch.nn.GRU` or `LSTM`: torch's kernel on a CPU, cuDNN's on a GPU."""

from __future__ import annotations

from bench.peers.base import AbstractPeer, Prepared, on_cpu
from bench.peers.problems import GRUProblem


class TorchGRU(AbstractPeer[GRUProblem]):
    """The layer as it comes; also the reference."""

    name = "torch.nn"
    package = "torch"

    def available(self, problem: GRUProblem) -> str:
        return ""

    def prepare(self, problem: GRUProblem) -> Prepared:
        module = problem.module
        return Prepared(problem.evaluated(lambda: module(problem.x)[0], list(module.parameters())), on_cpu)
