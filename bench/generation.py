"""Ways to generate from a recurrent-depth model: `python -m bench.generation [--rounds N] [--prompts N]`.

The recipe's trained model, held-out prompts, every way of `lds_iter.depth` against the loop: the same tokens or not,
steps one after the other, and work. Counts do not depend on the machine, but for the wavefront's, which do a little;
times (`--rounds`) want an idle one. Writes `bench/results/generation.json` and, from that alone,
`docs/background/generation.md`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import lds_iter as li
from bench.machine import describe
from bench.pages import keep, markdown
from lds_iter.depth import Freeze, Generated
from recipes.recurrent_depth.model import RecurrentDepth, load
from recipes.recurrent_depth.text import encode, topics

ROOT = Path(__file__).parent.parent
JSON, PAGE = ROOT / "bench" / "results" / "generation.json", ROOT / "docs" / "background" / "generation.md"
COUNT, DEPTH, LENGTH, APART = 48, 32, 24, 400
"""Characters to generate, steps of the core R, characters of a prompt, characters between the starts of two prompts."""

Way = Callable[[RecurrentDepth, Tensor], Generated]
WAYS: dict[str, Way] = {
    "verified": lambda m, p: li.depth.verified(m, p, COUNT, DEPTH),
    "verified, inner 4": lambda m, p: li.depth.verified(m, p, COUNT, DEPTH, rule=Freeze(inner=4)),
    "newest states, 0.003": lambda m, p: li.depth.newest_states(m, p, COUNT, DEPTH),
    "newest states, 0.003, inner 4": lambda m, p: li.depth.newest_states(m, p, COUNT, DEPTH, rule=Freeze(inner=4)),
    "newest states, 0.1": lambda m, p: li.depth.newest_states(m, p, COUNT, DEPTH, rule=Freeze(0.1)),
    "wavefront, 16 in flight": lambda m, p: li.depth.wavefront(m, p, COUNT, DEPTH),
}
FEW = {"wavefront, 16 in flight": 2}
"""Prompts of a way that takes long."""


def row(name: str, model: RecurrentDepth, prompts: list[Tensor], exact: list[Generated], rounds: int) -> dict[str, Any]:
    """One way on its prompts against the loop, and times where `rounds` is not 0."""
    used = prompts[: FEW.get(name, len(prompts))]
    pairs = [(WAYS[name](model, prompt), loop) for prompt, loop in zip(used, exact, strict=False)]
    found: dict[str, Any] = {
        "way": name,
        "prompts": len(used),
        "agree": [li.depth.agreement(ours.tokens, loop.tokens) for ours, loop in pairs],
        "steps": [ours.work.step for ours, _ in pairs],
        "fewer_calls": [loop.work.one_after_the_other / ours.work.one_after_the_other for ours, loop in pairs],
        "work": [ours.work.token_steps / loop.work.token_steps for ours, loop in pairs],
    }
    if rounds:
        loop = loop_of(model, prompts[0])
        found["tokens_per_second"] = {
            "ours": _speed(lambda: WAYS[name](model, prompts[0]), rounds),
            "loop": _speed(lambda: loop_of(model, prompts[0]), rounds),
            "same": bool(torch.equal(WAYS[name](model, prompts[0]).tokens, loop.tokens)),
        }
    return found


def loop_of(model: RecurrentDepth, prompt: Tensor) -> Generated:
    """The loop that all ways are measured against."""
    return li.depth.one_by_one(model, prompt, COUNT, DEPTH)


def _speed(run: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return COUNT / statistics.median(seconds)


PROSE = """# Generating from a recurrent-depth model

The model of [the recipe](../recipes/recurrent_depth.md), {prompts} held-out prompts of {length} characters, {count}
characters each, R = {depth} steps of the core for each character, greedy. Measured by `python -m bench.generation`;
torch {torch}, Python {python}, {cpu}, {threads} thread.

*Same text* is how many of the prompts got the text of the loop to the last character, and the fewest characters that
agreed. *Steps* are calls of the core one after the other, {loop} in the loop; *fewer calls* counts those of prelude and
coda too. *Work* is characters through the core, in units of the loop's. Prompts are read alike by all ways and not
counted.
"""


def page(results: dict[str, Any]) -> str:
    """The documentation page, from the content of the JSON file alone."""
    head = ["way", "prompts", "same text", "steps", "fewer calls", "work"]
    timed = results["rounds"] > 0
    facts = {key: results[key] for key in ("torch", "python", "cpu", "threads", "prompts", "count", "depth", "length")}
    text = PROSE.format(**facts, loop=results["count"] * results["depth"])
    lines = [_cells(row, results["count"], timed) for row in results["rows"]]
    if timed:
        head.append("characters/s: ours / loop")
    return text + "\n" + markdown(head, lines) + ("" if timed else "\nCounts only: times need an idle machine.\n")


def _cells(row: dict[str, Any], count: int, timed: bool) -> list[str]:
    same = sum(agree == count for agree in row["agree"])
    cells = [row["way"], str(row["prompts"]), f"{same} of {row['prompts']}, least {min(row['agree'])}"]
    cells += [f"{min(row['steps'])} to {max(row['steps'])}"]
    cells += [f"{min(row[name]):.1f} to {max(row[name]):.1f}" for name in ("fewer_calls", "work")]
    if timed:
        speed = row["tokens_per_second"]
        cells.append(f"{speed['ours']:.0f} / {speed['loop']:.0f}" + ("" if speed["same"] else " (other text)"))
    return cells


def main(
    rounds: Annotated[int, typer.Option(min=0, help="Timed runs of each way; 0 counts only.")] = 5,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 20,
) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    model, text = load(), topics()[1]
    read = [encode(text[APART * number :][:LENGTH]) for number in range(prompts)]
    exact = [loop_of(model, prompt) for prompt in read]
    rows = []
    for name in WAYS:
        rows.append(row(name, model, read, exact, rounds))
        print(json.dumps(rows[-1]), flush=True)
    sizes = {"prompts": prompts, "count": COUNT, "depth": DEPTH, "length": LENGTH}
    results = {**describe(), "lds_iter": li.__version__, "rounds": rounds, **sizes, "rows": rows}
    keep(results, JSON, PAGE, page(results))
    print(PAGE)


if __name__ == "__main__":
    typer.run(main)
