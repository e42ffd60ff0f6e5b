"""flashrnn: step loops of recurrent networks fused into one CUDA kernel. Its GRU is torch's, gates in another order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.peers.base import AbstractPeer, Prepared, load, needs_cuda, not_installed, on_cpu
from bench.peers.problems import GRUProblem


@dataclass(frozen=True)
class FlashRNN(AbstractPeer[GRUProblem]):
    """Its GRU with one head, in float32.

    Args:
        backend: "cuda"; "vanilla" is its own reference in torch, on which the order of the gates is tested.
    """

    backend: str = "cuda"
    name = "flashrnn"
    package = "flashrnn"

    def available(self, problem: GRUProblem) -> str:
        return needs_cuda(problem.device) or not_installed("flashrnn")

    def prepare(self, problem: GRUProblem) -> Prepared:
        flashrnn, module = load("flashrnn").flashrnn, problem.module
        weight_ih, weight_hh, bias_ih, bias_hh = module.parameters()

        def states() -> Tensor:
            batch, width = problem.batch, problem.width
            u = (problem.x @ weight_ih.T).transpose(0, 1)
            r, z, n = (weight.reshape(1, width, width) for weight in weight_hh.chunk(3))
            (b_r, b_z, b_n), (h_r, h_z, h_n) = bias_ih.chunk(3), bias_hh.chunk(3)
            bias = torch.stack([h_n, b_r + h_r, b_z + h_z, b_n]).unsqueeze(1)
            found, _ = flashrnn(
                u.reshape(batch, -1, 3, 1, width).contiguous(),
                torch.stack([n, r, z]),
                bias,
                function="gru",
                backend=self.backend,
                dtype="float32",
            )
            return found[0, :, :, 0].transpose(0, 1)

        return Prepared(problem.evaluated(states, list(module.parameters())), on_cpu, compiles=True)
