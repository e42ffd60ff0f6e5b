"""The page `docs/background/edge.md`, from `bench/results/edge.json` alone."""

from __future__ import annotations

import statistics
from typing import Any

HEAD = ["problem", "method", "iterations", "result", "f per step", "resets, rejected", "error", "source"]


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the table; counts, evaluations and errors as median and range over the problems of the family."""
    tuned = f", {row['tuned']}" if row["tuned"] else ""
    count = len(row["iterations"])
    solved = f"{count - row['failed']} of {count} solved"
    return [
        row["family"],
        row["method"] + tuned,
        _iterations(row),
        solved + (f", {row['failed']} not in {row['limit']}" if row["failed"] else ""),
        f"{statistics.median(row['evaluations']):.3g}",
        f"{sum(row['resets'])}, {sum(row['rejected'])}",
        f"{max(row['error']):.1e}" if row["failed"] < count else "",
        row["published"],
    ]


def _iterations(row: dict[str, Any]) -> str:
    """The median and the range; what was not solved took more than the limit."""
    numbers, limit = row["iterations"], row["limit"]
    if row["failed"] == len(numbers):
        return f"more than {limit}"
    low, middle = min(numbers), statistics.median(numbers)
    high = f"more than {limit}" if row["failed"] else max(numbers)
    return f"{low}" if low == high else f"{middle:g} ({low}-{high})"


PROSE = """# The edge of stability

Problems on which the papers' own tables show no parallel method winning against a loop over time, or on which Newton's
method does not converge from a simple guess. `python -m bench.edge` measures this page (rows with fewer problems or a
lower limit: `--seeds N --limit M`), `bench/edge/problems.py` has the problems, `bench/edge/methods.py` the methods,
`tests/test_edge.py` asserts the figures of `TrustRegion` on the sine. torch {torch}, Python {python}, {cpu},
{threads} thread.

- **Sine**: an autoregressive GRU, D = 4, that reads its own noisy output and generates a sine wave; trained by
  `python -m bench.edge.train_sine`. One problem per noise seed.
- **Lorenz-96**: five chaotic numbers on a circle, F = 8, Dormand-Prince steps of 0.01, ten starts.
- **Mean-field RNN**: 100 random units, chaotic from a gain of about 1.2 on.
- **g2p, medaka, silero, resemblyzer**: trained networks out of packages, every layer and direction a problem;
  [what they read](trained.md). They have no seed: *ten stretches* are problems of the same kind on ten other stretches
  of a longer input.

## Our sine is milder than the papers'

The weights are trained in this repository, for the papers' task at the papers' size. They sit at the same edge, with
Lyapunov exponents of 5e-5 to 4e-4 a step, but they are **not as hard**: a Jacobian has a norm of 2.7 on average
(`tests/test_edge.py` asserts both) where the papers' has about 9, and plain Newton takes about 225 iterations at
T = 10,000 where the papers report 4449. About sixty other trainings were tried in search of a harder one. So the
columns *iterations* and *source* are of two different networks: compare the order of the methods, not the counts.

## How to read the table

Residuals are to be at most 1e-10 in float64; in float32 2e-6 for the sine, 1e-5 for the others, the trained networks
also 1e-5 of the state, which are the defaults of `li.solve`. The guess is zeros, for the mean-field RNN the source's
random numbers. *Iterations* are the median and the range over the problems of a row; *source* is what the papers
report. A setting beside a method is the best of those tried, chosen on the first problem of the row, which is what a
user of that method has to do by hand; `TrustRegion` has none. *f per step* is how often `f` was evaluated per time step
(median). *Resets* are rows that were not finite and went back to `s0`, *rejected* the iterations of which the trust
region threw a part away; both summed. *Error* is the largest difference to `li.sequential`, relative to
`max(1, |s|)`, over all problems of the row, those that were not solved included; empty where none was. A chaotic
trajectory, such as Lorenz-96, amplifies the residual and the rounding of both programs alike. Methods that are not
listed for a problem were not run on it.

## What it shows

- **On the sine the trust region needs the fewest iterations, untuned**: a seventh of Newton's at T = 10,000 in float64,
  where the best of what is tuned by hand, Kalman's filter, takes four times as many. In float32 plain Newton solves 8
  of twenty seeds within 1,000 iterations, plain damping, tuned on the first of them, 9.
- **On Lorenz-96 it takes a third of Newton's iterations**, and half of those of the best damping tuned by hand: 45.5
  for a trajectory of 999 steps. With Kalman's filter inside it takes more than Newton. In float32 every method ends
  with an error of the size of the attractor: the residual is small, and the rounding of either program has been
  amplified until the trajectories part.
- **Diagonal methods take hundreds of iterations on the sine**, damped or not: the trust region saves them a tenth at
  T = 1,000 and little at T = 10,000, Kalman's diagonal filter, tuned, a sixth; elsewhere neither saves them any. They
  are at home on medaka, which `QuasiNewton` solves in 76 (32 to 113) at T = 1,000, undamped, where Newton does not.
- **The mean-field network beyond g = 1.2 is out of reach of all**: a hundred chaotic dimensions. At g = 1.5 and 1.8
  Newton, damping and Kalman's filter tuned by hand and the trust region take about the same hundreds of iterations for
  1,000 steps, the trust region 4 and 9 % more than Newton.
- **Trained networks are solved from zeros by the trust region**, all that it was tried on, in 8 to 65 iterations,
  untuned, ten other stretches of input included; with Kalman's filter inside it takes more, up to 121. No other method
  solves them all, and at T = 1,000 and more few solve any within the limit. Torch's own kernel is faster
  anyway at 128 and 256 units on a CPU.
"""

PAPERS = """
## The papers' table for the sine, and ours

The reason for this page: on an A100, none of the methods of the papers beat their sequential evaluation of this
problem at T = 10,000 (Gonzalez, Warrington, Smith and Linderman 2024; their timing code did not wait for the device, so
distrust the milliseconds rather than the iterations). Theirs with their weights and stopping rules; ours with our
weights, in float64 to a residual of 1e-10.

"""

PAPERS_HEAD = ["their method", "iterations", "ms each", "total, ms", "here", "iterations"]
# Published figures, and which row of ours stands beside each.
PAPERS_SINE = (
    ("DEER", "4449", "0.282", "1255", "Newton"),
    ("quasi-DEER", "7383", "0.087", "642", "QuasiNewton"),
    ("ELK, sigma^2 tuned", "172", "3.6", "619", "LevenbergMarquardt"),
    ("quasi-ELK, sigma^2 tuned", "1566", "0.141", "221", "Diagonal LevenbergMarquardt"),
    ("", "", "", "", "Damped(Newton)"),
    ("", "", "", "", "TrustRegion(Newton)"),
    ("", "", "", "", "TrustRegion(Kalman)"),
    ("sequential", "10,000 steps", "0.0096", "96.2", ""),
)
PAPERS_AFTER = """
Run again, the authors' code took 4380 to 4500 iterations by DEER, 8016 by quasi-DEER, 141 to 180 by ELK and 1350 to
1600 by quasi-ELK; with plain damping, `A = (1 - k) J`, their network is solved in 160 to 195 (k = 0.02). This
repository does not hold their weights, so nothing here says what `TrustRegion` would take on them.
"""

TIMES = """
## What an iteration costs

Milliseconds per iteration for one problem of a family, methods and sequential loop in turns, the median of three rounds
of ten iterations (three for the wide networks), and what the whole solve would take by the median of the iterations
above (`python -m bench.edge --time`). The loop over time is this library's, in Python: a compiled scan on a CPU takes a
hundredth of it and beats everything here, and torch's own kernels for GRU and LSTM are faster than it too.

"""


def page(results: dict[str, Any]) -> str:
    """The documentation page, from the content of the JSON file alone."""
    parts = [PROSE.format(**{key: results[key] for key in ("torch", "python", "cpu", "threads")})]
    parts.append("\n## Iterations\n\n" + _markdown(HEAD, [cells(row) for row in results["rows"]]))
    parts.append(PAPERS + _markdown(PAPERS_HEAD, _papers(results)) + PAPERS_AFTER)
    if results["times"]:
        parts.append(
            TIMES + _markdown(TIME_HEAD, [line for entry in results["times"] for line in _times(entry, results)])
        )
    return "".join(parts)


def _papers(results: dict[str, Any]) -> list[list[str]]:
    """The published rows of the long sine beside those measured here."""
    ours = {row["method"]: _iterations(row) for row in results["rows"] if row["family"] == "sine, T=10,000, float64"}
    return [[*published, ours.get(published[-1], "")] for published in PAPERS_SINE]


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
