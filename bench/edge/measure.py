"""Solve every problem with every candidate, and keep the counts; times are measured apart, one method after another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.edge.methods import Candidate, candidates
from bench.edge.problems import Family


@dataclass(frozen=True)
class Row:
    """One candidate on all problems of a family.

    Attributes:
        family: of the problems.
        method: the candidate's name.
        tuned: which of its settings was best, empty where there is nothing to tune.
        iterations: per problem; at least the limit where it did not converge.
        failed: how many did not converge within the limit.
        limit: of iterations, per problem.
        length: T.
        evaluations: of `f`, in units of T, per problem.
        resets: rows that were not finite, per problem.
        rejected: iterations that a trust region threw away, per problem; they count as iterations.
        error: the largest difference to `li.sequential`, relative to `max(1, |s|)`, per problem.
        published: what the sources report.
    """

    family: str
    method: str
    tuned: str
    iterations: list[int]
    failed: int
    limit: int
    length: int
    evaluations: list[float]
    resets: list[int]
    rejected: list[int]
    error: list[float]
    published: str


def measure(family: Family, seeds: int, limit: int, only: str = "") -> Iterator[Row]:
    """Every candidate whose name begins with `only` on a family's problems, at most `limit` iterations each."""
    problems = list(family.members(seeds))
    truths = [problem.sequential() for problem in problems]
    for candidate in candidates(family.wide):
        if candidate.name.startswith(only):
            tuned = _best(candidate, family, limit)
            solutions = [problem.solve(candidate.grid[tuned], limit) for problem in problems]
            yield _row(family, candidate.name, tuned, solutions, truths, limit)


def _best(candidate: Candidate, family: Family, limit: int) -> str:
    """The setting that takes the fewest iterations on the first problem of a family, the others not being looked at."""
    if len(candidate.grid) == 1:
        return next(iter(candidate.grid))
    problem, counts, best = next(iter(family.members(1))), {}, limit
    for name, method in candidate.grid.items():
        solution = problem.solve(method, best)
        counts[name] = int(solution.iterations) if solution.converged else best + 1
        best = min(best, counts[name])
    return min(counts, key=lambda name: counts[name])


def _row(
    family: Family, method: str, tuned: str, solutions: list[li.Solution], truths: list[Tensor], limit: int
) -> Row:
    length = solutions[0].states.shape[0]
    rejected = [getattr(solution.carry, "rejected", torch.zeros_like(solution.iterations)) for solution in solutions]
    return Row(
        family=family.name,
        method=method,
        tuned=tuned,
        iterations=_each([solution.iterations for solution in solutions]),
        failed=sum(int((solution.result != li.Result.SUCCESS).sum()) for solution in solutions),
        limit=min(limit, length),
        length=length,
        evaluations=_each([solution.evaluations / length for solution in solutions]),
        resets=_each([solution.resets for solution in solutions]),
        rejected=_each(rejected),
        error=_each([_error(solution.states, truth) for solution, truth in zip(solutions, truths, strict=True)]),
        published=next((text for key, text in family.published.items() if method.startswith(key)), ""),
    )


def _each(values: list[Tensor]) -> list[Any]:
    """Numbers per sequence, batch after batch."""
    return [number for value in values for number in value.flatten().tolist()]


def _error(states: Tensor, truth: Tensor) -> Tensor:
    return ((states - truth).abs() / truth.abs().clamp(min=1)).amax((0, -1))


@dataclass(frozen=True)
class Timing:
    """Milliseconds, the median of several rounds in which all methods took turns.

    Attributes:
        family: of the problem, which is the first of it.
        sequential: a loop over time with `li.sequential`, all T steps.
        per_iteration: of every method, its solve divided by its iterations.
        iterations: of those solves.
    """

    family: str
    sequential: float
    per_iteration: dict[str, float]
    iterations: dict[str, int]


def clock(family: Family, names: Collection[str], rounds: int, iterations: int) -> Timing:
    """Time one iteration of the named candidates, and the sequential loop, in turns.

    Every solve is cut off after `iterations`, so that a slow method costs no more time than a fast one.
    """
    problem = next(iter(family.members(1)))
    named = [candidate for candidate in candidates(family.wide) if candidate.name in names]
    methods = {candidate.name: next(iter(candidate.grid.values())) for candidate in named}
    spent: dict[str, list[float]] = {name: [] for name in methods}
    loops, counts = [], {}
    for _ in range(rounds):
        start = time.perf_counter()
        problem.sequential()
        loops.append(time.perf_counter() - start)
        for name, method in methods.items():
            start = time.perf_counter()
            solution = problem.solve(method, iterations)
            counts[name] = int(solution.iterations.max())
            spent[name].append((time.perf_counter() - start) / max(1, counts[name]))
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in spent.items()}
    return Timing(family.name, 1e3 * statistics.median(loops), milliseconds, counts)


def one_thread() -> None:
    """What every figure here is measured with: two threads on a busy machine cost more than they give."""
    torch.set_num_threads(1)
