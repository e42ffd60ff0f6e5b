"""Newton on heads of a delta rule whose state is a vector: declared as `LowRank`, and in full matrices.

s_t = a_t s_{t-1} - beta_t k_t tanh(k_t . s_{t-1}) + u_t        J_t = a_t I - beta_t (1 - tanh^2) k_t k_t^T
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.timing import alternately, first_run

LENGTH, WIDTH, HEADS = 4096, 64, 8
SEQUENCES = (1, 16)
DENSE_GIB = 3.0
"""Full matrices are not made where they would be larger: the row says how large they would be."""

GATE = 1e-4
"""Largest error beside the loop, in units of the largest state; the solve stops at 1e-5."""

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""`a`, `beta`, `k` and `u` of all rows: `(T, *batch, 1)` twice and `(T, *batch, D)` twice."""


@dataclass(frozen=True)
class DeltaHead:
    """The recurrence of one head; `declared` says whether its Jacobian comes as `LowRank` or in full."""

    declared: bool

    def __call__(self, s: Tensor, inputs: Inputs) -> Tensor:
        return self.linearize(s, inputs).value

    def linearize(self, s: Tensor, inputs: Inputs) -> li.StructuredDerivatives:
        a, beta, k, u = inputs
        along = torch.tanh((k * s).sum(-1, keepdim=True))
        value = a * s - beta * k * along + u
        transition = li.LowRank(a.expand_as(s), k.unsqueeze(-1), (beta * (along**2 - 1) * k).unsqueeze(-1))
        return li.StructuredDerivatives(value, transition if self.declared else transition.matrices())


def step(s: Tensor, inputs: Inputs) -> Tensor:
    """The same as a plain function, for the loop."""
    a, beta, k, u = inputs
    return a * s - beta * k * torch.tanh((k * s).sum(-1, keepdim=True)) + u


def problem(sequences: int, length: int = LENGTH) -> tuple[Tensor, Inputs]:
    """`s0` and inputs of a batch of sequences with `HEADS` heads each, float32."""
    generator, batch = torch.Generator().manual_seed(0), (sequences, HEADS)

    def draw(width: int) -> Tensor:
        return torch.randn(length, *batch, width, generator=generator)

    k = torch.nn.functional.normalize(draw(WIDTH), dim=-1)
    return torch.zeros(*batch, WIDTH), (torch.sigmoid(draw(1) + 3), torch.sigmoid(draw(1)), k, 0.3 * draw(WIDTH))


def rows(rounds: int, length: int = LENGTH, sequences: tuple[int, ...] = SEQUENCES) -> Iterator[dict[str, Any]]:
    """A row for each batch and structure: iterations, error beside the loop, milliseconds and memory.

    Raises:
        AssertionError: when a solve is not within `GATE` of the loop.
    """
    for count in sequences:
        s0, inputs = problem(count, length)
        gib = 4 * length * s0.numel() * WIDTH / 2**30
        runs: dict[str, Any] = {"the loop": functools.partial(li.sequential, step, s0, inputs)}
        for name, declared in (("LowRank", True), ("Dense", False)):
            if declared or gib <= DENSE_GIB:
                runs[name] = functools.partial(li.solve, DeltaHead(declared), s0, inputs, li.Newton())
        with torch.no_grad():
            li.solve(DeltaHead(True), s0, problem(count, 2)[1], li.Newton())  # compiles the scan
            first = {name: first_run(run) for name, run in runs.items()}
            times = alternately(runs, {name: one.seconds for name, one in first.items()}, rounds, long=60)
        loop = first["the loop"].result
        for name in ("the loop", "LowRank", "Dense"):
            row: dict[str, Any] = {"sequences": count, "structure": name, "matrices_gib": gib}
            if name in runs:
                result = first[name].result
                states = result if name == "the loop" else result.states
                error = float((states - loop).abs().max() / loop.abs().max())
                assert error < GATE, f"{name} is {error:.1e} off the loop, which is not below {GATE:g}"
                row |= {"ms": times[name].ms, "peak_mib": first[name].peak_mib, "error": error}
                row["iterations"] = None if name == "the loop" else int(result.iterations.max())
            yield row
