"""A whole `torch.nn.GRU` in parallel over time, by any method, and a comparison with the module itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import lds_iter as li
from lds_iter.auto import wall_clock
from lds_iter.nn import GRURecurrence
from recipes.pretrained.networks import Network


@dataclass(frozen=True)
class Candidate:
    """A way to evaluate a network: a method, and how far ahead it may look (T when `window` is None)."""

    method: li.LDSApproximation
    window: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        key: of the method, as the command line names it.
        name: of the method, as the table names it.
        iterations: of the solves, one per layer and direction, in order of evaluation.
        evaluations: of `f` per time step, the mean over the solves; step-by-step evaluation takes 1.
        seconds: for the whole network, see `measure`.
        error: largest difference from the output of `torch.nn.GRU`.
        result: the worst result code of the solves.
        solution: of the first layer and direction.
    """

    key: str
    name: str
    iterations: list[int]
    evaluations: float
    seconds: float
    error: float
    result: li.Result
    solution: li.Solution


def parallel_gru(
    gru: nn.GRU, x: Tensor, candidate: Candidate, max_iters: int, *, record: bool = False
) -> tuple[Tensor, list[li.Solution]]:
    """What `gru(x)[0]` returns, every layer and direction by one `li.solve`; the backward ones on the flipped sequence.

    Args:
        gru: any number of layers, one direction or two, without dropout.
        x: `(T, D_in)`.
        candidate: how to solve.
        max_iters: the limit for each solve; what did not converge is passed on as it is.
        record: keep the histories.

    Returns:
        The output `(T, D)` or `(T, 2 D)`, and the solutions, layer by layer, forward first.
    """
    solutions: list[li.Solution] = []
    for layer in range(gru.num_layers):
        directions = []
        for backward in (False, True)[: 2 if gru.bidirectional else 1]:
            recurrence = GRURecurrence.from_module(gru, layer, backward=backward)
            inputs = recurrence.inputs(x.flip(0) if backward else x)
            solution = li.solve(
                recurrence,
                x.new_zeros(gru.hidden_size),
                inputs,
                candidate.method,
                max_iters=max_iters,
                window=candidate.window,
                record=record,
                throw=False,
            )
            solutions.append(solution)
            directions.append(solution.states.flip(0) if backward else solution.states)
        x = torch.cat(directions, dim=-1)
    return x, solutions


def reference(network: Network) -> tuple[Tensor, float]:
    """The output of `torch.nn.GRU` and its time in seconds, the best of three runs after the first."""
    output, _ = network.gru(network.x)
    return output, min(_seconds(network.x, lambda: network.gru(network.x)) for _ in range(3))


def measure(network: Network, key: str, name: str, candidate: Candidate, max_iters: int, expected: Tensor) -> Row:
    """Run one candidate, record it, and compare it with `expected`, the output of the module.

    The first run keeps the histories. Where it stays under half a second, the time is the best of two more runs without
    them; where it does not, its own time counts, with what keeping them costs: one more reduction per iteration.
    """
    kept: list[tuple[Tensor, list[li.Solution]]] = []
    x = network.x
    seconds = _seconds(x, lambda: kept.append(parallel_gru(network.gru, x, candidate, max_iters, record=True)))
    output, solutions = kept[0]
    if seconds < 0.5:
        again = [_seconds(x, lambda: parallel_gru(network.gru, x, candidate, max_iters)) for _ in range(2)]
        seconds = min(again)
    length = len(x)
    return Row(
        key=key,
        name=name,
        iterations=[int(solution.iterations) for solution in solutions],
        evaluations=sum(int(solution.evaluations) for solution in solutions) / length / len(solutions),
        seconds=seconds,
        error=float((output - expected).abs().max()),
        result=li.Result(max(int(solution.result) for solution in solutions)),
        solution=solutions[0],
    )


def _seconds(like: Tensor, run: Callable[[], object]) -> float:
    """Until the device of a tensor is done."""
    start = wall_clock(like)
    run()
    return wall_clock(like) - start
