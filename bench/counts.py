"""Iteration counts of the literature, reproduced: `python -m bench.counts [--full]`.

Counts do not depend on hardware, so they are what libraries can be compared by exactly. The sources stop by rules of
their own, on the movement of the states or on a sum of squares, where `li.solve` stops on the largest residual of the
iterate that it returns. Every row therefore has two counts of the same iteration: ours, and the one that the source's
rule gives (see `Watched`).

Prints a table, writes `bench/results/counts.json` and, from that alone, `docs/background/counts.md`.
"""

from __future__ import annotations

import json
import platform
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import lds_iter as li
from bench import problems
from bench.problems import Problem

ROOT = Path(__file__).parent.parent
JSON, PAGE = ROOT / "bench" / "results" / "counts.json", ROOT / "docs" / "background" / "counts.md"

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


def span(counts: list[int]) -> str:
    """A few counts one by one, many as their range and median."""
    if len(set(counts)) == 1:
        return str(counts[0])
    if len(counts) < 10:
        return ", ".join(map(str, counts))
    return f"{min(counts)}-{max(counts)}, median {statistics.median(counts):g}"


def published(low: int | None, high: int | None, remark: str) -> str:
    if low is None or high is None:
        return remark
    return str(low) if low == high else f"{low}-{high}"


def cells(row: dict[str, Any]) -> list[str]:
    return [
        row["problem"],
        row["method"],
        span(row["iterations"]),
        span(row["by_source_rule"]),
        published(row["low"], row["high"], row["remark"]),
        f"{row['residual']:.1e}",
        f"{row['error']:.1e}",
        f"{row['evaluations_per_step']:.3g}",
        row["source"],
    ]


HEAD = ["problem", "method", "ours", "by the source's rule", "source", "residual", "error", "f per step", "from"]


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor()


PROSE = """# Iteration counts, ours and the literature's

How many updates a method needs does not depend on hardware, so it is the number by which a library can be checked
against the sources exactly. `python -m bench.counts{flag}` measured this page; `tests/test_counts.py` asserts its quick
rows. torch {torch}, Python {python}, {cpu}, {threads} thread; seeds are those of `bench/results/counts.json`.

## How to read it

*Ours* is `Solution.iterations`, the updates that led to the states returned, with `rtol=0` and the residual tolerance
`atol` of the row. *By the source's rule* is the same iteration, watched, and counted the way the source's figure was:

| problem | source stops when | counted as | our `atol` |
|---|---|---|---|
| GRU, flax initialisation | no number moves by more than 1e-4 | updates, the last small one included | 1e-5 |
| torch.nn.GRU | largest residual at most 1e-5 | updates needed, and one more | 1e-5 |
| S5 word problem | `sum r^2 / 2` at most 5e-4 | updates needed | 1e-5 |
| Langevin, Gaussian mixture | `sum r^2 / 2` at most 5e-4 | updates needed, and one more, at most T | 1.8e-4 |
| mean-field RNN | `sum r^2 / 2T` at most 1e-10 | updates needed | 1.4e-6 |
| Langevin, two wells | `sum r^2 / 2T` at most 1e-10 | updates needed, and one more | 1e-5 |

The "one more" is an off-by-one of the sources' programs, which test the residual of the states that an iteration
started from and count that iteration. It was taken off before some of the figures were written down, and not before
others; the third column says what agrees. For the last four problems our tolerance implies the source's, so ours can
only be larger, and is much larger where residuals fall slowly. For the GRUs residuals and movements are different
things: our 1e-5 stops the diagonal methods later than the source's rule does, and Newton, whose last move is there only
to be seen to be small, mostly an iteration earlier.
*f per step* is how often `f` was evaluated per time step, the verifying evaluation included. Several numbers in a cell
are several seeds. Residual and error (against `li.sequential`) are the largest over the seeds.
"""

FINDINGS = """
## What agrees, and what does not

- **Mean-field RNN.** The source's program draws with JAX; `bench/problems.py` draws the same numbers, and at seed 0
  every count up to g = 1.2 is the source's, 3, 4, 7 and 32 for Newton and 19, 63 and 939 for quasi-Newton. The figures
  are those of one seed: others differ by a factor of up to four from g = 1 on. Beyond, the network is chaotic, an
  iteration amplifies the rounding of the one before, and counts are no longer reproducible: at g = 1.5 the last bits of
  the weights (1e-15, our inverse error function against JAX's) moved ours from 195 to 200, where the source has 186.
  At g = 1.8 ours took 430 to the source's 658, perhaps because rows at rounding level are accepted for good here; and
  neither means much. That solution has a residual of 4e-15 and is 8 away from `li.sequential`, two trajectories that
  both solve the recurrence to rounding; `error_estimate()` says 4e29. With `W_ii = 0` the diagonal of the Jacobian is
  zero, so quasi-Newton is Jacobi there, and its last residuals fall so slowly at g = 1 that ours ends with the
  guarantee, at T.
- **GRU.** By the source's rule Newton takes its 4 or 5. The ranges of quasi-Newton and Jacobi are met but for single
  seeds, our draws being others: narrow networks vary most, a single unit (D = 1) having any memory. Picard takes
  450 to 900 of 1,000: "about T", far from useful.
- **torch.nn.GRU.** The source's 4-5 and 9-10 include the verifying iteration; 3-4 and 7-9 updates are needed.
- **S5 word problem.** Newton 1 and Jacobi T exactly, as they must be: `f` is linear, and permutations forget nothing.
  The 0.98 T of quasi-Newton is that of a *one-probe estimate* of the diagonal, which is what the source runs. The exact
  diagonal takes 0.8 T, and exactly as many as the longest chain of moved coordinates, which exact arithmetic predicts
  (four of five coordinates of a random permutation move). The iterates of Picard and of the one-probe estimate overflow
  on the way, and rows that are not finite fall back to the value of `f`; what is left is the frontier, a row an
  iteration, and now and then one more, as where the word is the identity (one of 120).
- **Langevin, two wells.** All 20 noise seeds, the source's own, within its 12 to 40.
- **Langevin, Gaussian mixture.** By the source's rule, its counts. Ours takes up to three more for Picard, because the
  largest residual must come down everywhere, where a sum of squares may hide one row.

## A small residual is not a small error

Langevin dynamics at a step of 1e-5 are next to the identity: they forget nothing, so residuals add up over time.
Stopped by the source's rule, at the first iterate whose `sum r^2 / 2` is at most 5e-4, the mixture is "converged" as
follows. `Solution.error_estimate()`, one more scan, tells the error that the residual does not.
"""


def page(results: dict[str, Any]) -> str:
    """The documentation page, from the content of the JSON file alone."""
    flag = " --full" if results["full"] else ""
    parts = [PROSE.format(flag=flag, **{key: results[key] for key in ("torch", "python", "cpu", "threads")})]
    parts.append("\n## The table\n\n" + _markdown(HEAD, [cells(row) for row in results["rows"]]))
    if not results["full"]:
        parts.append("\nThe chaotic rows, g = 1.5 and 1.8, take minutes and need `--full`.\n")
    parts.append(FINDINGS)
    head = ["method", "seed", "iterations", "merit", "residual", "true error", "`error_estimate()`"]
    numbers = ("merit", "residual", "error", "estimate")
    lines = [
        [entry["method"], str(entry["seed"]), str(entry["iterations"]), *[f"{entry[key]:.1e}" for key in numbers]]
        for entry in results["near_identity"]
    ]
    return "".join(parts) + "\n" + _markdown(head, lines)


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    return "".join("| " + " | ".join(line) + " |\n" for line in [head, ["---"] * len(head), *lines])


def main(full: bool = False) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    console, rows = Console(), []
    for case in cases(full):
        for row in measure(case):
            rows.append(asdict(row))
            console.print(" | ".join(cells(rows[-1])[:7]), soft_wrap=True)
    remark = list(near_identity())
    results = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu(),
        "threads": torch.get_num_threads(),
        "full": full,
        "rows": rows,
        "near_identity": [asdict(entry) for entry in remark],
    }
    table = Table(*HEAD)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    JSON.parent.mkdir(parents=True, exist_ok=True)
    JSON.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(results))


if __name__ == "__main__":
    typer.run(main)
