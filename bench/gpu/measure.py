"""The groups of problems for a GPU, and one run of a group."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

import lds_iter as li
from bench.edge.problems import EdgeProblem, sine
from bench.peers.base import AbstractPeer, Prepared, on_cpu
from bench.peers.flashrnn import FlashRNN
from bench.peers.measure import measure
from bench.peers.ours import OurGRU
from bench.peers.problems import GRUProblem, Outcome
from bench.peers.step_loop import StepLoop
from bench.peers.torch_gru import TorchGRU


@dataclass(frozen=True)
class SineProblem:
    """The sine wave, float64, from zeros, to a residual of 1e-10."""

    length: int
    seed: int = 1
    width: int = 4
    batch: int = 1
    device: str = "cuda"
    gate: float = 1e-6  # a residual of 1e-10, and products of Jacobians up to some thousands

    @cached_property
    def problem(self) -> EdgeProblem:
        return sine(self.length, self.seed)

    def reference(self) -> Outcome:
        """The loop on the CPU."""
        with torch.no_grad():
            return (self.problem.sequential().cpu(),)


@dataclass(frozen=True)
class SineLoop(AbstractPeer[SineProblem]):
    """The loop over the steps on a device of its own choice: a CPU takes a step faster than a GPU."""

    where: str
    package = "torch"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"step loop on the {self.where}"

    def available(self, problem: SineProblem) -> str:
        return (
            "" if self.where in ("cpu", torch.device(problem.device).type) else f"this run is on the {problem.device}"
        )

    def prepare(self, problem: SineProblem) -> Prepared:
        edge = sine(problem.length, problem.seed)  # a module of its own, since `to` moves it
        f: Any = edge.f
        f, s0, inputs = f.to(self.where), edge.s0.to(self.where), edge.inputs.to(self.where)
        return Prepared(torch.no_grad()(lambda: (li.sequential(f, s0, inputs),)), on_cpu)


class OurSine(AbstractPeer[SineProblem]):
    """`TrustRegion(Newton())`."""

    name = "lds_iter, TrustRegion(Newton())"
    package = "lds-iter"

    def available(self, problem: SineProblem) -> str:
        return ""

    def prepare(self, problem: SineProblem) -> Prepared:
        edge, solutions = sine(problem.length, problem.seed), []
        f: Any = edge.f
        f, s0, inputs = f.to(problem.device), edge.s0.to(problem.device), edge.inputs.to(problem.device)

        def run() -> Outcome:
            options: dict[str, Any] = {"guess": edge.guess, "rtol": edge.rtol, "atol": edge.atol}
            solutions[:] = [li.solve(f, s0, inputs, li.TrustRegion(li.Newton()), **options)]
            return (solutions[0].states,)

        return Prepared(torch.no_grad()(run), on_cpu, lambda: int(solutions[0].iterations.max()))


@dataclass(frozen=True)
class Group:
    """Rows that belong together.

    Attributes:
        title: a heading.
        note: what is published, or what is asked.
        problems: on the device.
        peers: ours first.
    """

    title: str
    note: str
    problems: Sequence[Any]
    peers: Sequence[AbstractPeer[Any]]


def groups(device: str, longest: int) -> list[Group]:
    """Everything that is measured, series cut to `longest` steps."""
    grid = itertools.product((1_000, 10_000, 100_000, 1_000_000), (1, 2, 8, 32, 64), (1, 2, 16))
    ours = [OurGRU(li.QuasiNewton()), OurGRU(li.Newton())]
    newton = [OurGRU(li.Newton()), TorchGRU(), StepLoop()]
    deer = [GRUProblem(length, 1, 2, device=device) for length in (10_000, 100_000)]
    training = [GRUProblem(17_984, 32, batch, True, device) for batch in (1, 8)]
    whole = [
        Group(
            "A GRU against cuDNN",
            "",
            [GRUProblem(*key, device=device) for key in grid],
            [*ours, TorchGRU(), FlashRNN()],
        ),
        Group(
            "DEER's table",
            "Published, V100, over a loop in JAX: 138 at T = 10,000 and 1,122 at T = 100,000.",
            deer,
            newton,
        ),
        Group(
            "The edge of stability",
            "Published, A100, T = 10,000: the loop 96.2 ms, quasi-ELK 221, ELK 619, quasi-DEER 642, DEER 1,255.",
            [SineProblem(length, device=device) for length in (1_000, 10_000)],
            [OurSine(), SineLoop("cuda"), SineLoop("cpu")],
        ),
        Group("A training step of the size of EigenWorms", "Forward and backward.", training, [*ours, TorchGRU()]),
    ]
    return [dataclasses.replace(group, problems=_cut(group.problems, longest)) for group in whole]


def _cut(problems: Sequence[Any], longest: int) -> list[Any]:
    """Series cut to `longest` steps, each problem once."""
    cut = [dataclasses.replace(problem, length=min(problem.length, longest)) for problem in problems]
    return list({repr(problem): problem for problem in cut}.values())


def survey(chosen: Sequence[Group], budget: float, rounds: int) -> list[dict[str, Any]]:
    """Measure the groups; problems that the seconds of the budget leave no time for are named."""
    begin, kept = time.perf_counter(), []
    for group in chosen:
        tables, left = [], []
        for problem in group.problems:
            if time.perf_counter() - begin > budget:
                left.append(describe_problem(problem))
                continue
            tables.append(measure(problem, group.peers, rounds=rounds))
            print(group.title, tables[-1], flush=True)
        kept.append({"title": group.title, "note": group.note, "tables": tables, "left": left})
    return kept


def describe_problem(problem: Any) -> dict[str, Any]:
    """What the page needs to name a problem that has not been measured."""
    return {"problem": type(problem).__name__, **{key: getattr(problem, key) for key in ("length", "width", "batch")},
            "training": getattr(problem, "training", False), "gate": problem.gate}  # fmt: skip
