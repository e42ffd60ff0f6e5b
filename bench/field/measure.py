"""Counts the iterations of every case of the field's recipes beside the loop, and takes times apart from that."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import lds_iter as li
from bench.common.problems import Problem
from bench.common.timing import alternately, first_run
from bench.field.cases import PARTS, Case


@dataclass(frozen=True)
class Row:
    """One line of the table of counts.

    Attributes:
        iterations: the largest count of the batch; None where it gave up, after `most`.
        error: the largest difference to the states of the loop.
    """

    part: str
    problem: str
    steps: int
    method: str
    iterations: int | None
    most: int
    error: float
    published: str


@dataclass(frozen=True)
class Time:
    """One line of the table of times, forward, milliseconds: of a solve and of the loop, measured in turns."""

    part: str
    problem: str
    steps: int
    method: str
    iterations: int
    error: float
    ms: float
    loop_ms: float


def measure(part: str) -> Iterator[Row]:
    """A row for every case and method of a recipe, as it is done."""
    for case in PARTS[part]():
        problem = case.build()
        truth = _loop(problem)
        for name, method, window in named(case):
            solution = _solve(case, problem, method, window)
            yield Row(
                case.part, case.name, len(truth), name,
                int(solution.iterations.max()) if solution.converged else None, case.most,
                float((solution.states - truth).abs().max()), case.published,
            )  # fmt: skip


def times(part: str, rounds: int = 3) -> Iterator[Time]:
    """A row for every case and method that converges, timed in turns with the loop."""
    for case in PARTS[part]():
        problem = case.build()
        few = Problem(problem.f, problem.s0, pytree.tree_map(lambda leaf: leaf[:8], problem.inputs))
        runs: dict[str, Any] = {"": functools.partial(_loop, problem)}
        _loop(few)  # compilers and caches
        for name, method, window in named(case):
            _solve(case, few, method, window)
            runs[name] = functools.partial(_solve, case, problem, method, window)
        first = {name: first_run(run) for name, run in runs.items()}
        kept = {name: runs[name] for name in runs if not name or first[name].result.converged}
        taken = alternately(kept, {name: first[name].seconds for name in kept}, rounds, long=2)
        truth = first[""].result
        for name in kept:
            if name:
                solution = first[name].result
                yield Time(
                    case.part, case.name, len(truth), name, int(solution.iterations.max()),
                    float((solution.states - truth).abs().max()), taken[name].ms, taken[""].ms,
                )  # fmt: skip


def named(case: Case) -> Iterator[tuple[str, Any, int | None]]:
    """The methods of a case: name, method, window."""
    for number, (method, window) in enumerate(case.methods):
        usual = repr(method) + ("" if window is None else f", window {window}")
        yield case.names[number] if case.names else usual, method, window


@torch.no_grad()
def _loop(problem: Problem) -> Tensor:
    return li.sequential(*problem)


@torch.no_grad()
def _solve(case: Case, problem: Problem, method: Any, window: int | None) -> li.Solution:
    return li.solve(
        *problem, method, guess=case.guess, window=window, rtol=case.tolerance, atol=case.tolerance,
        max_iters=case.most, throw=False,
    )  # fmt: skip
