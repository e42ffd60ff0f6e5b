"""The page `docs/background/edge.md`, from `bench/results/edge.json` alone."""

from __future__ import annotations

import statistics
from typing import Any

HEAD = ["problem", "method", "iterations", "not solved", "f per step", "resets", "error", "source"]


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the table; counts, evaluations and errors as median and range over the problems of the family."""
    tuned = f", {row['tuned']}" if row["tuned"] else ""
    count = len(row["iterations"])
    return [
        row["family"],
        row["method"] + tuned,
        _spread([float(number) for number in row["iterations"]], "g"),
        f"{row['failed']} of {count}" + (f" in {row['limit']}" if row["failed"] else ""),
        f"{statistics.median(row['evaluations']):.3g}",
        str(sum(row["resets"])),
        f"{max(row['error']):.1e}",
        row["published"],
    ]


def _spread(numbers: list[float], style: str) -> str:
    low, middle, high = min(numbers), statistics.median(numbers), max(numbers)
    if low == high:
        return f"{low:{style}}"
    return f"{middle:{style}} ({low:{style}}-{high:{style}})"


PROSE = """# The edge of stability

Problems on which the papers' own tables show no parallel method winning against a loop over time, or on which Newton's
method does not converge from a simple guess. `python -m bench.edge{flag}` measures this page; `bench/edge/problems.py`
has the problems, `bench/edge/methods.py` the methods. torch {torch}, Python {python}, {cpu}, {threads} thread.

- **Sine**: an autoregressive GRU, D = 4, that reads its own noisy output and generates a sine wave; trained by
  `python -m bench.edge.train_sine`. One problem per noise seed.
- **Lorenz-96**: five chaotic numbers on a circle, F = 8, Dormand-Prince steps of 0.01, ten starts.
- **Mean-field RNN**: 100 random units, chaotic from a gain of about 1.2 on; three seeds.
- **g2p, medaka, silero, resemblyzer**: trained networks out of packages, every layer and direction a problem;
  [what they read](trained.md).

Residuals are to be at most 1e-10 in float64; in float32 2e-6 for the sine, 1e-5 for the others (the trained networks:
and 1e-5 of the state). The guess is zeros, for the mean-field RNN the source's random numbers. *Iterations* are the
median and the range over the problems of a row; *source* is what the papers report, for the sine with weights of their
own. A setting beside a method is the best of those tried, chosen on the first problem of the row, which is what a user
of that method has to do by hand. *f per step* is how often `f` was evaluated per time step (median), *resets* the rows
of proposals that were not finite (sum), *error* the largest difference to `li.sequential`.
"""

TIMES = """
## What an iteration costs

Milliseconds per iteration, methods and sequential loop in turns, the median of five rounds, and what the whole solve
would take by the iterations of the table above. The loop over time is this library's, in Python: a compiled scan on a
CPU takes a hundredth of it and beats everything here.

"""


def page(results: dict[str, Any]) -> str:
    """The documentation page, from the content of the JSON file alone."""
    full = any(len(row["iterations"]) > 10 for row in results["rows"])
    parts = [
        PROSE.format(flag=" --full" if full else "", **{k: results[k] for k in ("torch", "python", "cpu", "threads")})
    ]
    parts.append("\n## Iterations\n\n" + _markdown(HEAD, [cells(row) for row in results["rows"]]))
    if results["times"]:
        parts.append(
            TIMES + _markdown(TIME_HEAD, [line for entry in results["times"] for line in _times(entry, results)])
        )
    return "".join(parts)


TIME_HEAD = ["problem", "method", "ms an iteration", "iterations", "projected total, ms", "sequential, ms"]


def _times(entry: dict[str, Any], results: dict[str, Any]) -> list[list[str]]:
    """One line for each method of a family that was timed."""
    lines = []
    for row in results["rows"]:
        if row["family"] != entry["family"] or row["method"] not in entry["per_iteration"]:
            continue
        each, count = entry["per_iteration"][row["method"]], statistics.median(row["iterations"])
        total = "not solved" if row["failed"] else f"{each * count:.0f}"
        lines.append([row["family"], row["method"], f"{each:.2f}", f"{count:g}", total, f"{entry['sequential']:.0f}"])
    return lines


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    return "".join("| " + " | ".join(line) + " |\n" for line in [head, ["---"] * len(head), *lines])
