"""`torch._higher_order_ops.associative_scan`: a prototype of torch's, private. Its gradients are checked apart."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.peers.base import AbstractPeer, Prepared, load, not_installed, on_cpu
from bench.peers.problems import Outcome, ScanProblem

MODULE = "torch._higher_order_ops.associative_scan"


def compose(earlier: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Affine maps `x -> a x + b`, one after the other."""
    return later[0] * earlier[0], later[0] * earlier[1] + later[1]


def scan(a: Tensor, b: Tensor) -> Tensor:
    """All `x_t`; "generic" is the only mode on a CPU, "pointwise" the faster one on a GPU."""
    mode = "pointwise" if a.is_cuda else "generic"
    return load(MODULE).associative_scan(compose, (a, b), dim=0, combine_mode=mode)[1]


class TorchScan(AbstractPeer[ScanProblem]):
    """Eager on a CPU; on a GPU the mode "pointwise" compiles itself."""

    name = "torch associative_scan"
    package = "torch"

    def available(self, problem: ScanProblem) -> str:
        return not_installed(MODULE, "torch>=2.9")

    def prepare(self, problem: ScanProblem) -> Prepared:
        def run() -> Outcome:
            with torch.no_grad():
                return (scan(problem.a, problem.b),)

        return Prepared(run, on_cpu, compiles=problem.b.is_cuda)
