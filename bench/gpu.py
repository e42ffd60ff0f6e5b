"""The figures that need a GPU: `python -m bench.gpu`, on a machine with a CUDA device.

- GRUs over T, D and batch against cuDNN, float32 without TF32.
- DEER's published table: a GRU with D = 1 and batch 2 against a loop over the steps (Lim et al., "Parallelizing
  non-linear sequential models over the sequence length", ICLR 2024, on a V100).
- The sine-generating GRU at the edge of stability against its loop; no published method is faster than that.
- A training step of the size of EigenWorms.

Every row is checked before it is timed (`bench.peers.measure`). Without a CUDA device the command says so and stops;
`--plan` writes which figures await one. Writes `bench/results/<device>/gpu.json` and a section of
`docs/background/gpu.md`.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import lds_iter as li
from bench.edge.problems import EdgeProblem, sine
from bench.gpu_page import COMMAND, plan, section
from bench.machine import describe, full_precision, results_folder
from bench.pages import between, keep_of_device
from bench.peers.base import AbstractPeer, Prepared, on_cpu
from bench.peers.flashrnn import FlashRNN
from bench.peers.measure import measure
from bench.peers.ours import OurGRU
from bench.peers.problems import GRUProblem, Outcome
from bench.peers.step_loop import StepLoop
from bench.peers.torch_gru import TorchGRU

PAGE = Path("docs/background/gpu.md")


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


def main(
    longest: Annotated[int, typer.Option(help="Series are cut to so many steps.")] = 1_000_000,
    budget: Annotated[float, typer.Option(help="Seconds after which no further row begins.")] = 900.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 5,
    write_plan: Annotated[bool, typer.Option("--plan", help="Only write which figures await a GPU.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write there, not into the repository.")] = None,
) -> None:
    """Measure on the CUDA device, keep the figures, and write the page."""
    page = PAGE if out is None else out / "gpu.md"
    if write_plan:
        waiting = [
            {
                "title": group.title,
                "note": group.note,
                "left": [describe_problem(problem) for problem in group.problems],
            }
            for group in groups("cuda", longest)
        ]
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(between(PAGE.read_text(), COMMAND, plan(waiting)))
        return
    if not torch.cuda.is_available():
        print("bench.gpu needs a CUDA device, and torch finds none here. `--plan` writes which figures await one.")
        raise typer.Exit(2)
    full_precision()
    found = survey(groups("cuda", longest), budget, rounds)
    results = {"lds_iter": describe(), "rounds": rounds, "groups": found}
    keep_of_device(results, "gpu", PAGE, COMMAND, section, folder=results_folder(), out=out)


if __name__ == "__main__":
    typer.run(main)
