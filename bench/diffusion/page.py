"""The page `docs/background/diffusion.md`, from `bench/results/diffusion.json` alone."""

from __future__ import annotations

import statistics
from typing import Any

BARS = (1e-2, 1e-3)
METHODS = (
    "ParaDiGMS", "ParaDiGMS, window 100", "ParaTAA", "SRDS", "Picard", "Structured", "Secant", "Secant, thinned",
    "Secant, default",
)  # fmt: skip

Best = tuple[float, float] | None
"""Mean rounds and evaluations per step over the seeds; None where a seed did not reach the bar."""

PROSE = """# Diffusion: rounds and work

How many sequential calls of the network (rounds) and how many evaluations it takes to draw what a scheduler draws step
by step. Counts do not depend on hardware. `python -m bench.diffusion` measured this page: torch {torch}, Python
{python}, {threads} thread; all runs are in `bench/results/diffusion.json`.

The network is the recipe's own, trained on scikit-learn's digits; the schedulers are diffusers' `DDIMParallelScheduler`
and `DDPMParallelScheduler`, without clipping, one sample at a time.
{samples}. The settings of the methods were chosen on
others: seeds 100 to 115 of 50 and 100 steps of DDIM, of other classes too.

*ParaDiGMS* is the algorithm of diffusers' `StableDiffusionParadigmsPipeline` (`bench/diffusion/paradigms.py`), all
steps at once unless a window is given. Every method is run at several tolerances of its own, and of the runs whose
final sample lies within the error named, root mean square, the one with the fewest rounds counts. The tables have means
over the samples: **rounds** / evaluations per step. Drawing step by step takes as many rounds as steps, and one
evaluation per step.

*Secant* evaluates every step that has moved in every round; *thinned* interpolates between few of them in the first
rounds; *default* is what `ParallelSampler` does: thinned, and a step that has moved by less than half the tolerance is
not evaluated again. Where noise is added nothing is thinned, and that line is left out. A dash: not run, or the error
was not reached. Picard and Structured are not run at 1000 steps of DDIM and from 100 steps of DDPM on: they would be
half of the whole time of the command.
"""


def best(rows: list[dict[str, Any]], scheduler: str, steps: int, method: str, bar: float) -> Best:
    """The cheapest run of each seed within the bar, averaged."""
    mine = [
        row
        for row in rows
        if (row["scheduler"], row["steps"], row["method"].partition(", order")[0]) == (scheduler, steps, method)
    ]
    chosen = []
    for seed in sorted({row["seed"] for row in mine}):
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
    """Rounds and work of `Secant` over ParaDiGMS's, where both reach the bar."""
    lines = ["| | Error | Steps | Method | Rounds | Work |", "|---|--:|--:|---|--:|--:|"]
    for scheduler in ("DDIM", "DDPM"):
        for bar in BARS:
            for count in (50, 100):
                theirs = best(rows, scheduler, count, "ParaDiGMS", bar)
                for method in METHODS[-3:]:
                    mine = best(rows, scheduler, count, method, bar)
                    if mine and theirs:
                        ratio = f"{mine[0] / theirs[0]:.2f} | {mine[1] / theirs[1]:.2f}"
                        lines.append(f"| {scheduler} | {bar:g} | {count} | {method} | {ratio} |")
    return "\n".join(lines)


def samples(rows: list[dict[str, Any]], scheduler: str) -> str:
    """How many samples were drawn with how many steps."""
    drawn = {(row["steps"], row["seed"]) for row in rows if row["scheduler"] == scheduler}
    counts = {count: sum(steps == count for steps, _ in drawn) for count in sorted({steps for steps, _ in drawn})}
    return f"{scheduler}: " + ", ".join(f"{number} of {count} steps" for count, number in counts.items())


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    rows = results["rows"]
    parts = [PROSE.format(**results, samples="; ".join(samples(rows, name) for name in ("DDIM", "DDPM")))]
    for scheduler in ("DDIM", "DDPM"):
        for bar in BARS:
            parts.append(f"## {scheduler}, error {bar:g}\n\n{table(rows, scheduler, bar)}\n")
    parts.append(
        "## Against ParaDiGMS\n\nRounds and work divided by ParaDiGMS's. The aim was at most 0.7 of its rounds at 50 "
        f"and 100 steps, with at most twice its work.\n\n{ratios(rows)}\n"
    )
    parts.append(f"{CLAIMS}{claims(rows)}\n")
    return "\n".join(parts)


def claims(rows: list[dict[str, Any]]) -> str:
    """What others report for DDIM, and what was measured here."""
    lines = ["| | Network | Steps | Rounds | Judged by |", "|---|---|--:|--:|---|", *REPORTED]
    for method in "ParaDiGMS", "Secant, default":
        for count in (50, 100):
            for bar in BARS:
                found = best(rows, "DDIM", count, method, bar)
                if found:
                    lines.append(f"| {method}, here | digits | {count} | {found[0]:.3g} | error {bar:g} |")
    return "\n".join(lines)


REPORTED = (
    "| ParaTAA, as reported | Stable Diffusion, DiT | 100 | 7 | the look of the images |",
    "| SRDS, as reported | Stable Diffusion | 25 | - | time: up to 1.7 times as fast |",
)

CLAIMS = """## Claims of others

ParaTAA: Tang et al., "Accelerating parallel sampling of diffusion models", ICML 2024. SRDS: Selvam et al.,
"Self-refining diffusion samplers", NeurIPS 2024; it reports times rather than rounds, and up to 4.3 times as fast on
longer trajectories. Both are on other, much larger networks, without an error against the sequential sample, so their
lines and ours say little about which is better.

"""
