"""accelerated-scan: diagonal scans in Triton and CUDA, `(batch, channel, T)`, without an initial state."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.peers.base import AbstractPeer, Prepared, load, needs_cuda, not_installed
from bench.peers.problems import ScanProblem


class AcceleratedScan(AbstractPeer[ScanProblem]):
    """Its Triton scan, which takes any length; the CUDA one takes powers of two. Time is last there already."""

    name = "accelerated-scan"
    package = "accelerated-scan"

    def available(self, problem: ScanProblem) -> str:
        return needs_cuda(problem.device) or not_installed("accelerated_scan", self.package)

    def prepare(self, problem: ScanProblem) -> Prepared:
        scan = load("accelerated_scan.scalar").scan
        a, b = (tensor.permute(1, 2, 0).contiguous() for tensor in (problem.a, problem.b))

        def read(found: Tensor) -> tuple[Tensor, ...]:
            return (found.permute(2, 0, 1).cpu(),)

        return Prepared(torch.no_grad()(lambda: scan(a, b)), read, compiles=True)
