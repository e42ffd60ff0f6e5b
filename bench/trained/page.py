"""The page `docs/background/trained.md`, from `bench/results/trained.json` alone."""

from __future__ import annotations

from typing import Any

HEAD = ["network", "T", "`method`", "solved by", "iterations", "f per step", "output", "final states", "gradients"]


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    iterations = ", ".join(map(str, row["iterations"])) + (", over budget" if row["fell_back"] else "")
    solved, rounds = row["typed"] != "none", row["evaluations"]
    by = "torch's kernel" if row["fell_back"] or row["method"] == "kernel" else "compiled steps"
    return [
        f"{row['name']}: {row['title']}",
        f"{row['length']:,}",
        f"fixed, `{row['method']}`" if row["typed"] == "default" else f"`{row['typed']}`" if solved else "none",
        by if row["fell_back"] or not solved else "this method",
        iterations if solved else "-",
        f"{sum(rounds) / len(rounds):.3g}" if solved else "1",
        f"{row['output']:.1e}",
        f"{row['final']:.1e}",
        f"{row['gradient']:.1e}",
    ]


PROSE = """# Trained networks through the drop-in layers

Networks at initialisation forget fast and are easy; trained ones are not. These are real ones, loaded into
`li.nn.GRU` and `li.nn.LSTM` with their `state_dict`: a single sequence, float32, from zeros, all options of the
constructor left alone except `method`: none, a method, or *fixed*, which is `li.nn.fixed_method(layer)`.
`python -m bench.trained` measures this page; `tests/nn/test_trained.py` asserts its errors.
torch {torch}, Python {python}, {cpu}, {threads} thread.

A layer answers with torch's own kernel, and a `PerformanceWarning`, where a solve exceeds its budget of 100 iterations;
errors there are zero because both sides are torch's. *Iterations* are given for each layer and direction in turn, up to
the one that failed. *f per step* counts evaluations of `f` per time step, averaged over the solves. Errors are against
`torch.nn`: the largest difference of outputs and of final states, the latter relative to `max(1, |s|)`, since the cells
of an LSTM count to a hundred, and the largest relative difference, in the norm, of the gradients of the mean square
output with respect to the input and every weight.

Without a method a layer takes its steps in compiled code, or by torch's kernel where that is faster (a short LSTM).
That is the fastest way on a CPU, which has enough to do at every single step of networks 128 to 256 units wide.
[When to type which](../learn/networks.md#trained-networks).

"""


def page(results: dict[str, Any]) -> str:
    """The documentation page, from the content of the JSON file alone."""
    rows = list(results["rows"].values())
    parts = [PROSE.format(**{key: results[key] for key in ("torch", "python", "cpu", "threads")})]
    parts += ["| " + " | ".join(line) + " |\n" for line in [HEAD, ["---"] * len(HEAD), *(cells(row) for row in rows)]]
    parts.append("\n## What they read\n\n")
    abouts = {row["name"]: row["about"] for row in rows}
    parts += [f"- **{name}**: {about}.\n" for name, about in abouts.items()]
    return "".join(parts) + READ


READ = """
Weights come from the packages of `requirements-assets.txt` and are never copied; medaka's are under a research licence.
medaka ships no alignment, so its reads are simulated (`bench/trained/pileup.py`): from 40 reads a column with errors of
the order of nanopore's, normalised as the package does, its network restores the simulated genome, which
`tests/test_trained.py` checks. The conversation is the sample that pyannote.audio ships, half a minute long, played
again where T asks for more; that silero's layer hears what it should is checked against the package's own model.
"""
