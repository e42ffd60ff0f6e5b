"""A Python loop over the steps, eager: what a user of PyTorch writes when no layer of `torch.nn` fits."""

from __future__ import annotations

import torch

import lds_iter as li
from bench.peers.base import AbstractPeer, Prepared, on_cpu
from bench.peers.problems import GRUProblem
from lds_iter.nn import GRURecurrence


class StepLoop(AbstractPeer[GRUProblem]):
    """`li.sequential` over the GRU's step; the input's projections are made at once."""

    name = "step loop"
    package = "torch"

    def available(self, problem: GRUProblem) -> str:
        return "" if problem.length <= 100_000 else "minutes"

    def prepare(self, problem: GRUProblem) -> Prepared:
        assert isinstance(problem.module, torch.nn.GRU)
        f, s0 = GRURecurrence.from_module(problem.module), problem.x.new_zeros(problem.batch, problem.width)
        parameters = list(problem.module.parameters())
        return Prepared(problem.evaluated(lambda: li.sequential(f, s0, f.inputs(problem.x)), parameters), on_cpu)
