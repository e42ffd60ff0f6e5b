"""A Python loop over the steps of a GRU, compiled by `torch.compile` in chunks, so that compile time is bounded.

The loop over the chunks stays in Python; a graph of the whole loop would take `T / CHUNK` times as long to compile.
"""

from __future__ import annotations

import shutil

import torch
from torch import Tensor
from torch.nn import functional

from bench.peers.base import AbstractPeer, Prepared, on_cpu
from bench.peers.problems import GRUProblem

CHUNK = 8
"""Steps in a graph."""


def steps(h: Tensor, u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`CHUNK` steps of a GRU: `h` `(batch, D)`, pre-activations `u` `(n, batch, 3 D)`, to states `(n, batch, D)`."""
    states = []
    for row in u.unbind(0):
        xr, xz, xn = row.chunk(3, -1)
        hr, hz, hn = functional.linear(h, weight, bias).chunk(3, -1)
        z, n = (xz + hz).sigmoid(), torch.tanh(xn + (xr + hr).sigmoid() * hn)
        h = n + z * (h - n)
        states.append(h)
    return torch.stack(states)


class CompiledLoop(AbstractPeer[GRUProblem]):
    """`torch.compile` by its default backend."""

    name = f"torch.compile, {CHUNK} steps a graph"
    package = "torch"

    def available(self, problem: GRUProblem) -> str:
        if torch.device(problem.device).type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
            return "torch.compile needs a C++ compiler on a CPU"
        return ""

    def prepare(self, problem: GRUProblem) -> Prepared:
        compiled = torch.compile(steps, fullgraph=True, dynamic=False)
        weight_ih, weight_hh, bias_ih, bias_hh = parameters = list(problem.module.parameters())

        def states() -> Tensor:
            u = functional.linear(problem.x, weight_ih, bias_ih)
            h, found = u.new_zeros(u.shape[1], problem.width), []
            for chunk in u.split(CHUNK):
                step = compiled if len(chunk) == CHUNK else steps
                found.append(step(h, chunk, weight_hh, bias_hh))
                h = found[-1][-1]
            return torch.cat(found)

        return Prepared(problem.evaluated(states, parameters), on_cpu, compiles=True)
