"""The page `docs/background/depth.md`, from `bench/results/depth.json` alone."""

from __future__ import annotations

from typing import Any

from bench.counts.page import span

PROSE = """# Very deep, narrow networks

Layers are a recurrence over depth, and for narrow layers Newton's method applies: the networks of DeepPCR (Danieli et
al., NeurIPS 2023), `s_t = tanh(W_t s_{{t-1}} + b_t)` (MLP) and `s_t = s_{{t-1}} + tanh(W_t s_{{t-1}} + b_t) / sqrt(T)`
(ResNet), weights N(0, 1/D), batch {batch}, float32, residual tolerance 1e-5. Measured by `python -m bench.depth`;
torch {torch}, Python {python}, {cpu}, {threads} thread. The layers are those of
`recipes/recurrent_depth/deep_stacks.py`, with their Jacobians in closed form.

*Backward* is the adjoint recurrence, which is linear: one iteration. *Error* is the largest of the last state against
the layers one after the other, *gradient* the relative error of all weights' gradient against backpropagation.
"""

VERDICT = """
Above 1 the layers one after the other are faster: on this CPU in {forward} of {rows} rows forward and in {training} of
{rows} in training. A loop over layers this narrow costs some 15 microseconds a layer; what it would take to win is
hardware that stands idle meanwhile.
"""

TRAINING = """
## A residual network of 1,024 layers in training

Width 16, on the digits of scikit-learn, Adam, {steps} steps, batch 64, the same batches: once by Newton over depth with
the implicit gradient, once layer by layer with backpropagation.

| step | loss, parallel | loss, layer by layer |
| --- | --- | --- |
{lines}
The largest difference of the two losses over all steps is {largest:.1e}.
"""

UNTIMED = "\nThese are counts only. Times need an idle machine: `python -m bench.depth`.\n"


def cells(row: dict[str, Any]) -> list[str]:
    counted = [row["kind"], str(row["D"]), str(row["T"]), span(row["forward"]), span(row["backward"])]
    errors = [f"{row['error']:.0e}", f"{row['gradient_error']:.0e}"]
    times = []
    for name in "forward_ms", "training_ms":
        if name in row:
            ours, loop = row[name]["ours"], row[name]["loop"]
            times.append(f"{ours:.1f} / {loop:.1f} = {ours / loop:.2f}")
    return [*counted, *errors, *times]


def page(results: dict[str, Any]) -> str:
    """The documentation page, from the content of the JSON file alone."""
    head = ["network", "D", "T", "iterations", "backward", "error", "gradient"]
    if results["rounds"]:
        head += ["forward, ms: ours / loop", "forward and backward, ms: ours / loop"]
    table = "".join("| " + " | ".join(line) + " |\n" for line in _lines(head, results["rows"]))
    facts = {key: results[key] for key in ("torch", "python", "cpu", "threads")}
    text = PROSE.format(batch=results["rows"][0]["batch"], **facts) + "\n" + table
    return text + (_verdict(results["rows"]) if results["rounds"] else UNTIMED) + _training(results["training"])


def _verdict(rows: list[dict[str, Any]]) -> str:
    lost = {name: sum(row[name]["ours"] > row[name]["loop"] for row in rows) for name in ("forward_ms", "training_ms")}
    return VERDICT.format(rows=len(rows), forward=lost["forward_ms"], training=lost["training_ms"])


def _lines(head: list[str], rows: list[dict[str, Any]]) -> list[list[str]]:
    return [head, ["---"] * len(head), *map(cells, rows)]


def _training(training: dict[str, list[float]]) -> str:
    ours, loop = training["parallel"], training["sequential"]
    shown = sorted({0, *range(9, len(ours), 10), len(ours) - 1})
    lines = "".join(f"| {step + 1} | {ours[step]:.5f} | {loop[step]:.5f} |\n" for step in shown)
    largest = max(abs(a - b) for a, b in zip(ours, loop, strict=True))
    return TRAINING.format(steps=len(ours), lines=lines, largest=largest)
