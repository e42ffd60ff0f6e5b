"""The page `docs/background/diffusion.md`, from `bench/results/diffusion.json` alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from bench.common.pages import markdown

PAGE = Path(__file__).parents[2] / "docs" / "background" / "diffusion.md"

BARS = (1e-2, 1e-3)
AIM = 0.6
"""Of ParaDiGMS's rounds, at most."""
METHODS = (
    "ParaDiGMS", "ParaDiGMS, window 100", "ParaTAA", "SRDS", "Picard", "Newton", "Structured", "Secant",
    "Secant, thinned", "Secant, default",
)  # fmt: skip

Best = tuple[float, float] | None
"""Mean rounds and evaluations per step over the seeds; None where a seed was not run, or did not reach the bar."""

PROSE = """# Diffusion: rounds and work

How many sequential calls of the network (rounds) and how many evaluations it takes to draw what a scheduler draws step
by step. Counts do not depend on hardware. `python -m bench.diffusion` measured this page: torch {torch}, Python
{python}, {threads} thread; all runs are in `bench/results/diffusion.json`.

The network is the recipe's own, trained on scikit-learn's digits; the schedulers are diffusers' `DDIMParallelScheduler`
and `DDPMParallelScheduler`, without clipping, one sample at a time.
{samples}. Their seeds are {seeds}; the settings of
the methods were chosen on others, below 300.

*ParaDiGMS* is the algorithm of diffusers' `StableDiffusionParadigmsPipeline` (`bench/diffusion/paradigms.py`), all
steps at once unless a window is given. Every method is run at several tolerances of its own, and of the runs whose
final sample lies within the error named, root mean square, the one with the fewest rounds counts. The tables have means
over the samples: **rounds** / evaluations per step. Drawing step by step takes as many rounds as steps, and one
evaluation per step.

*ParaTAA* (Tang et al., ICML 2024; `bench/diffusion/parataa.py`) has the best of the orders 8, 20 and T, and *SRDS*
(Selvam et al., NeurIPS 2024; `bench/diffusion/srds.py`) the rounds of its pipelined form. Both are stopped by an
oracle, in the round in which the sample is within the error; the others stop by their own tolerance. SRDS is for DDIM.

*Secant* evaluates every step that has moved in every round; *thinned* interpolates between few of them in the first
rounds; *default* is what `ParallelSampler` does: thinned, and a step that has moved by less than half the tolerance (a
fifth up to 20 steps, a twentieth where noise is added) is not evaluated again. Where noise is added nothing is thinned,
and that line is left out. A dash: not run for all samples, or the error was not reached. Picard and Structured are not
run at 1000 steps of DDIM and from 100 steps of DDPM on: they would be half of the whole time of the command. ParaTAA
and SRDS are not run at 1000 steps.

*Newton* has the network's whole derivative, by 64 evaluations more for every step and round, which no model of full
size could afford. It says how many rounds a better slope would still save. It is run up to 50 steps.
"""


def best(rows: list[dict[str, Any]], scheduler: str, steps: int, method: str, bar: float) -> Best:
    """The cheapest run of each seed within the bar, averaged."""
    drawn = [row for row in rows if (row["scheduler"], row["steps"]) == (scheduler, steps)]
    mine = [row for row in drawn if row["method"].partition(", order")[0] == method]
    chosen = []
    for seed in sorted({row["seed"] for row in drawn}):
        within = [row for row in mine if row["seed"] == seed and row["error"] <= bar]
        if not within:
            return None
        chosen.append(min((row["rounds"], row["evaluations"] / steps) for row in within))
    if not chosen:
        return None
    return statistics.mean(rounds for rounds, _ in chosen), statistics.mean(work for _, work in chosen)


def cell(found: Best) -> str:
    return "-" if found is None else f"**{found[0]:.3g}** / {found[1]:.2f}"


def table(rows: list[dict[str, Any]], scheduler: str, bar: float) -> str:
    """Methods against numbers of steps."""
    counts = sorted({row["steps"] for row in rows if row["scheduler"] == scheduler})
    lines = [
        "| Method | " + " | ".join(f"{count} steps" for count in counts) + " |",
        "|---|" + "--:|" * len(counts),
    ]
    for method in METHODS:
        found = [cell(best(rows, scheduler, count, method, bar)) for count in counts]
        if any(entry != "-" for entry in found):
            lines.append(f"| {method} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def ratios(rows: list[dict[str, Any]]) -> str:
    """Rounds and work of `Secant` over ParaDiGMS's, where both reach the bar, and rounds of Newton's method."""
    lines = ["| | Error | Steps | Rounds | Work | Newton's rounds |", "|---|--:|--:|--:|--:|--:|"]
    reached = 0
    for scheduler in ("DDIM", "DDPM"):
        for bar in BARS:
            for count in (20, 50, 100, 250):
                theirs = best(rows, scheduler, count, "ParaDiGMS", bar)
                mine = best(rows, scheduler, count, METHODS[-1], bar)
                if mine and theirs:
                    rounds, work = mine[0] / theirs[0], mine[1] / theirs[1]
                    reached += rounds <= AIM and work < 1
                    newton = best(rows, scheduler, count, "Newton", bar)
                    least = f"{newton[0] / theirs[0]:.2f}" if newton else "-"
                    lines.append(f"| {scheduler} | {bar:g} | {count} | {rounds:.2f} | {work:.2f} | {least} |")
    return "\n".join([f"It is reached in {reached} of {len(lines) - 2} lines.\n", *lines])


def samples(rows: list[dict[str, Any]], scheduler: str) -> str:
    """How many samples were drawn with how many steps."""
    drawn = {(row["steps"], row["seed"]) for row in rows if row["scheduler"] == scheduler}
    counts = {count: sum(steps == count for steps, _ in drawn) for count in sorted({steps for steps, _ in drawn})}
    return f"{scheduler}: " + ", ".join(f"{number} of {count} steps" for count, number in counts.items())


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    rows = results["rows"]
    seeds = [row["seed"] for row in rows]
    drawn = "; ".join(samples(rows, name) for name in ("DDIM", "DDPM"))
    parts = [PROSE.format(**results, samples=drawn, seeds=f"{min(seeds)} to {max(seeds)}")]
    for scheduler in ("DDIM", "DDPM"):
        for bar in BARS:
            parts.append(f"## {scheduler}, error {bar:g}\n\n{table(rows, scheduler, bar)}\n")
    parts.append(
        f"## Against ParaDiGMS\n\nRounds and work divided by ParaDiGMS's. The aim is at most {AIM:g} of its rounds, "
        f"with less work. {ratios(rows)}\n\nWhere Newton's method, which has the whole derivative of the network, does "
        "not reach the aim, no estimate of that derivative will.\n"
    )
    marks = f"<!-- begin: {TOLERANCE_COMMAND} -->\n<!-- end: {TOLERANCE_COMMAND} -->\n"
    before = PAGE.read_text() if PAGE.exists() else ""
    begin, end = marks.splitlines()
    if begin in before:
        marks = begin + before.split(begin)[1].split(end)[0] + end + "\n"
    return "\n".join([*parts, marks])


TOLERANCE_COMMAND = "bench.diffusion_tolerance"


def tolerance_section(results: dict[str, Any]) -> str:
    """Whether runs keep their tolerance, a line for each scheduler."""
    rows = results["rows"]
    head = ["Scheduler", "rounds, guidance 1", "3", "7.5", "evaluations per step", "worst error"]
    lines = []
    for name in dict.fromkeys(row["scheduler"] for row in rows):
        mine = [row for row in rows if row["scheduler"] == name]
        ranges = [_range([row["rounds"] for row in mine if row["guidance"] == scale]) for scale in (1.0, 3.0, 7.5)]
        work = [row["work"] for row in mine]
        largest = max(row["error"] for row in mine)
        lines.append([name, *ranges, f"{min(work):.1f} to {max(work):.1f}", f"{largest:.1e}"])
    over = [row for row in rows if row["error"] > results["tolerance"]]
    missed = "; ".join(
        f"{row['scheduler']}, {row['steps']} steps, guidance {row['guidance']:g}: {row['error']:.1e}" for row in over
    )
    steps = ", ".join(str(count) for count in sorted({row["steps"] for row in rows}))
    worst = max(row["worst"] for row in rows)
    verdict = f"{len(rows) - len(over)} of {len(rows)} runs are within the tolerance. {missed}".strip()
    verdict += f"\nThe worst single sample of a batch is off by {worst:.1e}."
    return f"""## Tolerance kept

The defaults of `ParallelSampler`, `tol={results["tolerance"]:g}`, on the digits: four samples at a time, {steps} steps,
guidance 1, 3 and 7.5, seed {results["seed"]}, on which nothing was chosen. Errors are root mean squares of a batch
against the scheduler's own loop; rounds and work are the fewest and the most over the steps.
`python -m bench.diffusion_tolerance` measured it. {verdict}

{markdown(head, lines)}"""


def _range(counts: list[int]) -> str:
    return f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
