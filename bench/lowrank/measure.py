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
from lds_iter.linear.low_rank import low_rank_scan

LENGTH, WIDTH, HEADS = 4096, 64, 8
SEQUENCES = (1, 16)
DENSE_GIB = 3.0
"""Where full matrices of the whole batch would be larger, `Dense` solves one sequence after the other."""

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
        along = torch.tanh(torch.linalg.vecdot(k, s).unsqueeze(-1))
        value = torch.addcmul(torch.addcmul(u, a, s), k, -beta * along)
        transition = li.LowRank(a.expand_as(s), k.unsqueeze(-1), (k * (beta * (along**2 - 1))).unsqueeze(-1))
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
        at_once = count if gib <= DENSE_GIB else 1
        dense = "Dense" if at_once == count else "Dense, a sequence at a time"
        runs: dict[str, Any] = {
            "the loop": functools.partial(li.sequential, step, s0, inputs),
            "LowRank": functools.partial(_solved, True, s0, inputs, count),
            dense: functools.partial(_solved, False, s0, inputs, at_once),
        }
        with torch.no_grad():
            li.solve(DeltaHead(True), s0, problem(count, 2)[1], li.Newton())  # compiles the scan
            first = {name: first_run(run) for name, run in runs.items()}
            times = alternately(runs, {name: one.seconds for name, one in first.items()}, rounds, long=5)
        loop = first["the loop"].result
        for name in runs:
            states, iterations = (loop, None) if name == "the loop" else first[name].result
            error = float((states - loop).abs().max() / loop.abs().max())
            assert error < GATE, f"{name} is {error:.1e} off the loop, which is not below {GATE:g}"
            yield {
                "sequences": count, "structure": name, "iterations": iterations, "error": error, "ms": times[name].ms,
                "peak_mib": first[name].peak_mib, "matrices_gib": gib,
            }  # fmt: skip


def _solved(declared: bool, s0: Tensor, inputs: Inputs, at_once: int) -> tuple[Tensor, int]:
    """States of all sequences, solved so many at a time, and the largest count."""
    f, states, iterations = DeltaHead(declared), inputs[3].new_empty(inputs[3].shape), 0
    for some in range(0, len(s0), at_once):
        part = slice(some, some + at_once)
        found = li.solve(f, s0[part], tuple(leaf[:, part] for leaf in inputs), li.Newton())
        states[:, part], iterations = found.states, max(iterations, int(found.iterations.max()))
    return states, iterations


def scan_rows(rounds: int, length: int = LENGTH) -> Iterator[dict[str, Any]]:
    """Milliseconds of one scan for one sequence: compiled for a CPU, and by torch's operations as on other devices."""
    _, inputs = problem(1, length)
    with torch.no_grad():
        low = DeltaHead(True).linearize(inputs[3], inputs).transition
        assert isinstance(low, li.LowRank)
        full, b = low.matrices(), inputs[3]
        runs: dict[str, Any] = {
            "LowRank, compiled": functools.partial(li.linear_scan, low, b),
            "Dense, compiled": functools.partial(li.linear_scan, full, b),
            "LowRank, torch": functools.partial(_in_place, low_rank_scan, low, b),
            "Dense, torch": functools.partial(_in_place, li.reference_scan, full, b),
        }
        first = {name: first_run(run) for name, run in runs.items()}
        times = alternately(runs, {name: one.seconds for name, one in first.items()}, rounds, long=5)
    truth = first["Dense, torch"].result
    for name in runs:
        error = float((first[name].result - truth).abs().max() / truth.abs().max())
        assert error < GATE, f"{name} is {error:.1e} off the reference, which is not below {GATE:g}"
        yield {"scan": name, "ms": times[name].ms, "peak_mib": first[name].peak_mib, "error": error}


def _in_place(scan: Any, transition: Any, b: Tensor) -> Tensor:
    x = b.clone()
    scan(transition, x)
    return x
