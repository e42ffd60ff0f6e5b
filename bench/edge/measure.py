"""Solve every problem with every candidate, and keep the counts; times are measured apart, one method after another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import lds_iter as li
from bench.edge.methods import Candidate, candidates
from bench.edge.problems import EdgeProblem, Family


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
        resets: rows of proposals that were not finite, per problem.
        error: the largest difference to `li.sequential`, per problem.
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
    error: list[float]
    published: str


def measure(family: Family, seeds: int, limit: int | None) -> Iterator[Row]:
    """Every candidate on every problem of a family; `limit` bounds the iterations, T when None."""
    problems = list(family.members(seeds))
    truths = [problem.sequential() for problem in problems]
    for candidate in candidates():
        tuned = _best(candidate, problems[0], limit)
        method = candidate.grid[tuned]
        yield _row(family, candidate, tuned, [problem.solve(method, limit) for problem in problems], truths, limit)


def _best(candidate: Candidate, problem: EdgeProblem, limit: int | None) -> str:
    """The setting that takes the fewest iterations on the first problem of a family, the others not being looked at."""
    counts: dict[str, int] = {}
    best = limit
    for name, method in candidate.grid.items():
        if len(candidate.grid) == 1:
            return name
        solution = problem.solve(method, best)
        counts[name] = int(solution.iterations) if solution.converged else _length(solution) + 1
        best = min(counts.values()) if best is None else min(best, *counts.values())
    return min(counts, key=lambda name: counts[name])


def _length(solution: li.Solution) -> int:
    return solution.states.shape[0]


def _row(
    family: Family,
    candidate: Candidate,
    tuned: str,
    solutions: list[li.Solution],
    truths: list[Tensor],
    limit: int | None,
) -> Row:
    length = _length(solutions[0])
    published = next((text for key, text in family.published.items() if candidate.name.startswith(key)), "")
    return Row(
        family=family.name,
        method=candidate.name,
        tuned=tuned,
        iterations=[int(solution.iterations) for solution in solutions],
        failed=sum(not solution.converged for solution in solutions),
        limit=min(limit or length, length),
        length=length,
        evaluations=[float(solution.evaluations) / length for solution in solutions],
        resets=[int(solution.resets) for solution in solutions],
        error=[float((solution.states - truth).abs().max()) for solution, truth in zip(solutions, truths, strict=True)],
        published=published,
    )


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


def clock(family: Family, rounds: int, iterations: int) -> Timing:
    """Time one iteration of every candidate, and the sequential loop, in turns.

    Every solve is cut off after `iterations`, so that a slow method costs no more time than a fast one.
    """
    problem = next(iter(family.members(1)))
    methods = {candidate.name: next(iter(candidate.grid.values())) for candidate in candidates()}
    spent: dict[str, list[float]] = {name: [] for name in methods}
    loops, counts = [], {}
    for _ in range(rounds):
        start = time.perf_counter()
        problem.sequential()
        loops.append(time.perf_counter() - start)
        for name, method in methods.items():
            start = time.perf_counter()
            solution = problem.solve(method, iterations)
            counts[name] = int(solution.iterations)
            spent[name].append((time.perf_counter() - start) / max(1, counts[name]))
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in spent.items()}
    return Timing(family.name, 1e3 * statistics.median(loops), milliseconds, counts)


def one_thread() -> None:
    """What every figure here is measured with: two threads on a busy machine cost more than they give."""
    torch.set_num_threads(1)
