"""Counts the iterations of every case, and compares them with the published figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common import problems
from bench.common.problems import Problem

DEER = "machine-discovery/deer, lindermanlab/elk"
UNIFYING = "lindermanlab/parallelizing_with_lds"
PREDICTABILITY = "lindermanlab/predictability_enables_parallelization"
GRU = "measured before this library, torch.nn.GRU"

NEWTON, QUASI, PICARD, JACOBI = li.Newton(), li.QuasiNewton(), li.Picard(), li.Jacobi()
ONE_PROBE = li.QuasiNewton(li.Hutchinson())


@dataclass(frozen=True)
class Rule:
    """When a source stops: when a quantity of an iteration is at most `tolerance`.

    Attributes:
        quantity: a field of `Log`.
        verifying: 1 where the source's figure includes the iteration that found the rule fulfilled by what it started
            from, 0 where the figure is the number of updates needed.
    """

    quantity: str
    tolerance: float
    verifying: int

    def needed(self, log: Log) -> Tensor:
        """Updates until the rule holds, `(*batch)`; the length of the log where it does not within it."""
        passed = torch.stack(getattr(log, self.quantity)) <= self.tolerance
        return torch.where(passed.any(0), passed.to(torch.int64).argmax(0), passed.shape[0])


@dataclass
class Log:
    """What each iteration started from and did, per sequence, `(*batch)` each.

    Attributes:
        movement: `max |d|`, how far any number of the states moved.
        largest: `max |r|`, the largest residual before the move.
        merit: `sum r^2 / 2` over times and coordinates, before the move.
        mean_merit: `merit / T`.
    """

    movement: list[Tensor] = field(default_factory=list)
    largest: list[Tensor] = field(default_factory=list)
    merit: list[Tensor] = field(default_factory=list)
    mean_merit: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Watched(li.LDSApproximation):
    """Another method, unchanged, with a log of its residuals and updates. The log is the only thing it keeps."""

    method: li.LDSApproximation
    log: Log = field(default_factory=Log)

    def init(self, guess: Tensor) -> Any:
        return self.method.init(guess)

    def update(self, lin: li.Linearization, carry: Any) -> tuple[Tensor, Any]:
        largest = lin.residual.abs().amax((0, -1))
        merit = lin.residual.double().square().sum((0, -1)) / 2
        self.log.largest.append(largest)
        self.log.merit.append(merit)
        self.log.mean_merit.append(merit / lin.residual.shape[0])
        d, carry = self.method.update(lin, carry)
        self.log.movement.append(d.abs().amax((0, -1)))
        return d, carry


@dataclass(frozen=True)
class Expected:
    """What a source reports for one method.

    Attributes:
        low, high: the range of its counts; None where it gives no numbers.
        remark: what it says where it gives none.
    """

    method: li.LDSApproximation
    low: int | None = None
    high: int | None = None
    remark: str = ""


@dataclass(frozen=True)
class Case:
    """One problem with the methods to run on it.

    Attributes:
        build: the problem of a seed.
        atol: our stopping rule, `max |r| <= atol`, with `rtol = 0`.
        rule: the source's.
        guess: the guess policy of a seed.
    """

    name: str
    build: Callable[[int], Problem]
    expected: tuple[Expected, ...]
    atol: float
    rule: Rule
    source: str
    guess: Callable[[int], Callable[..., Tensor]] = lambda seed: li.repeat_initial  # noqa: ARG005
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """One line of the table; lists run over seeds and batch mates."""

    problem: str
    method: str
    iterations: list[int]
    by_source_rule: list[int]
    low: int | None
    high: int | None
    remark: str
    length: int
    residual: float
    error: float
    estimate: float
    evaluations_per_step: float
    resets: int
    atol: float
    rule: str
    seeds: list[int]
    source: str


def label(method: li.LDSApproximation) -> str:
    if isinstance(method, li.QuasiNewton) and isinstance(method.diagonal, li.Hutchinson):
        return "quasi-Newton, 1 probe"
    return {"QuasiNewton": "quasi-Newton"}.get(type(method).__name__, type(method).__name__)


def gru_cases() -> Iterator[Case]:
    for length in 1_000, 10_000:
        for width in 1, 2, 4, 8, 16, 32, 64:
            quasi = {1: Expected(QUASI, 4, 5), 2: Expected(QUASI)}.get(width, Expected(QUASI, 10, 12))
            picard = (Expected(PICARD, remark="about T"),) if length == 1_000 else ()
            yield Case(
                f"GRU, flax initialisation, D={width}, T={length:,}",
                lambda seed, width=width, length=length: problems.orthogonal_gru(width, length, seed),
                (Expected(NEWTON, 4, 5), quasi, Expected(JACOBI, 23, 38), *picard),
                atol=1e-5,
                rule=Rule("movement", 1e-4, 1),
                source=DEER,
            )
    for width, length in [(width, 10_000) for width in (4, 8, 16, 32, 64)] + [(w, 100_000) for w in (4, 8, 16)]:
        yield Case(
            f"torch.nn.GRU, D={width}, T={length:,}",
            lambda seed, width=width, length=length: problems.default_gru(width, length, seed),
            (Expected(NEWTON, 4, 5), Expected(QUASI, 9, 10)),
            atol=1e-5,
            rule=Rule("largest", 1e-5, 1),
            source=GRU,
            seeds=(0, 1, 2) if length == 10_000 else (0,),
        )


def word_cases() -> Iterator[Case]:
    start = torch.arange(1.0, 6.0).unsqueeze(-1)
    for columns, first in (1, start), (5, None):
        yield Case(
            f"S5 word problem, D={5 * columns}, T=1,000",
            lambda seed, first=first: problems.word_problem(1_000, seed, first),
            (
                Expected(NEWTON, 1, 1),
                Expected(QUASI),
                Expected(ONE_PROBE, 970, 990),
                Expected(PICARD, 980, 995),
                Expected(JACOBI, 1000, 1000),
            ),
            atol=1e-5,
            rule=Rule("merit", 5e-4, 0),
            source=UNIFYING,
            guess=problems.normal_guess,
            seeds=(0, 1, 2) if columns == 1 else (0,),
        )


def mean_field_cases(full: bool) -> Iterator[Case]:
    """The figures are of seed 0. Other seeds show the spread, which the edge of chaos makes wide."""
    counts = {0.5: (3, 19), 0.8: (4, 63), 1.0: (7, 939), 1.2: (32, None), 1.5: (186, None), 1.8: (658, None)}
    for gain, (newton, quasi) in counts.items():
        if gain > 1.2 and not full:
            continue
        figures = (Expected(NEWTON, newton, newton), *([Expected(QUASI, quasi, quasi)] if quasi else []))
        silent = tuple(Expected(figure.method) for figure in figures)
        for seeds, expected in ((0,), figures), ((1, 2), silent if gain <= 1.2 else ()):
            yield Case(
                f"mean-field RNN, g={gain}, D=100, T=1,000, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
                lambda seed, gain=gain: problems.mean_field_rnn(gain, seed=seed),
                expected,
                # |r| <= atol everywhere implies a mean merit of D atol^2 / 2 = 1e-10 at most.
                atol=(2e-10 / 100) ** 0.5,
                rule=Rule("mean_merit", 1e-10, 0),
                source=PREDICTABILITY,
                guess=problems.uniform_guess,
                seeds=seeds,
            )


def langevin_cases() -> Iterator[Case]:
    yield Case(
        "Langevin, Gaussian mixture, D=32, T=1,000",
        lambda seed: problems.mixture_langevin(seed=seed),
        (
            Expected(NEWTON, 3, 3),
            Expected(QUASI),
            Expected(ONE_PROBE, 3, 3),
            Expected(PICARD, 3, 5),
            Expected(JACOBI, 1000, 1000),
        ),
        atol=(2 * 5e-4 / (32 * 1_000)) ** 0.5,  # implies the source's sum of squares, as above
        rule=Rule("merit", 5e-4, 1),
        source=UNIFYING,
        guess=problems.normal_guess,
    )
    yield Case(
        "Langevin, two wells, D=2, T=10,000, 20 noise seeds",
        lambda seed: problems.two_well_langevin(),  # noqa: ARG005
        (Expected(NEWTON, 12, 40),),
        atol=(2e-10 / 2) ** 0.5,
        rule=Rule("mean_merit", 1e-10, 1),
        source=PREDICTABILITY,
        guess=lambda seed: problems.two_well_guess,  # noqa: ARG005
        seeds=(0,),
    )


def cases(full: bool = False) -> Iterator[Case]:
    """Every problem of the table; `full` adds the chaotic ones, which take minutes."""
    yield from gru_cases()
    yield from word_cases()
    yield from mean_field_cases(full)
    yield from langevin_cases()


def measure(case: Case) -> Iterator[Row]:
    """Run every method of a case on every seed: one solve to `atol`, and a watched one a little beyond it."""
    built = [(seed, case.build(seed)) for seed in case.seeds]
    truths = [li.sequential(*problem) for _, problem in built]
    for expected in case.expected:
        ours, theirs, found = [], [], []
        for (seed, problem), truth in zip(built, truths, strict=True):
            guess = case.guess(seed)
            solution = li.solve(*problem, expected.method, guess=guess, rtol=0, atol=case.atol)
            limit = min(int(solution.iterations.max()) + 3, truth.shape[0])
            ours += solution.iterations.flatten().tolist()
            needed = watch(problem, expected.method, guess, case, limit)
            theirs += (needed + case.rule.verifying).clamp(max=truth.shape[0]).flatten().tolist()
            found.append((solution, truth))
        yield Row(
            problem=case.name,
            method=label(expected.method),
            iterations=ours,
            by_source_rule=theirs,
            low=expected.low,
            high=expected.high,
            remark=expected.remark,
            length=truths[0].shape[0],
            residual=max(float(solution.residual.max()) for solution, _ in found),
            error=max(float((solution.states - truth).abs().max()) for solution, truth in found),
            estimate=max(float(solution.error_estimate().abs().max()) for solution, _ in found),
            evaluations_per_step=statistics.mean(
                float(solution.evaluations.double().mean()) / truth.shape[0] for solution, truth in found
            ),
            resets=sum(int(solution.resets.sum()) for solution, _ in found),
            atol=case.atol,
            rule=f"{case.rule.quantity} <= {case.rule.tolerance:g}",
            seeds=list(case.seeds),
            source=case.source,
        )


def watch(
    problem: Problem, method: li.LDSApproximation, guess: Callable[..., Tensor], case: Case, limit: int
) -> Tensor:
    """Updates until the source's rule holds, `(*batch)`, looking at the first `limit` of them."""
    watched = Watched(method)
    li.solve(*problem, watched, guess=guess, rtol=0, atol=case.atol / 100, max_iters=limit, throw=False)
    return case.rule.needed(watched.log)


@dataclass(frozen=True)
class NearIdentity:
    """How far a trajectory is off when the source's rule calls it solved."""

    method: str
    seed: int
    iterations: int
    merit: float
    residual: float
    error: float
    estimate: float


def near_identity(seeds: tuple[int, ...] = (0, 1, 2)) -> Iterator[NearIdentity]:
    """Langevin on the mixture, stopped at the first iterate of merit 5e-4, as the source does."""
    for method in NEWTON, ONE_PROBE, PICARD:
        for seed in seeds:
            problem, guess = problems.mixture_langevin(seed=seed), problems.normal_guess(seed)
            watched = Watched(method)
            li.solve(*problem, watched, guess=guess, rtol=0, atol=0, max_iters=10, throw=False)
            count = int(Rule("merit", 5e-4, 0).needed(watched.log))
            solution = li.solve(*problem, method, guess=guess, rtol=0, atol=0, max_iters=count, throw=False)
            yield NearIdentity(
                method=label(method),
                seed=seed,
                iterations=count,
                merit=float(watched.log.merit[count]),
                residual=float(solution.residual),
                error=float((solution.states - li.sequential(*problem)).abs().max()),
                estimate=float(solution.error_estimate().abs().max()),
            )
