"""The page `docs/background/counts.md`, from `bench/results/counts.json` alone."""

from __future__ import annotations

import statistics
from typing import Any


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

- **Mean-field RNN.** The source's program draws with JAX; `bench/common/problems.py` draws the same numbers, and at
  seed 0 every count up to g = 1.2 is the source's, 3, 4, 7 and 32 for Newton and 19, 63 and 939 for quasi-Newton. The
  figures are those of one seed: others differ by a factor of up to four from g = 1 on. Beyond, the network is chaotic,
  an iteration amplifies the rounding of the one before, and counts are no longer reproducible: at g = 1.5 scans that
  sum in another order moved ours from 200 to 192, where the source has 186, and at g = 1.8 from 430 to 415, where it
  has 658, perhaps because rows at rounding level are accepted for good here; and neither means much. That solution is
  within tolerance and 8 away from `li.sequential`: two trajectories that both solve the recurrence. With `W_ii = 0` the
  diagonal of the Jacobian is zero, so quasi-Newton is Jacobi there, and its last residuals fall so slowly at g = 1 that
  ours ends with the guarantee, at T.
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
