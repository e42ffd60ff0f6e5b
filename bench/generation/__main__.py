"""Ways to generate from a recurrent-depth model: `python -m bench.generation [--rounds N] [--prompts N]`.

The recipe's trained model, held-out prompts, every way of `lds_iter.depth` against the loop: the same tokens or not,
steps one after the other, and work. Counts do not depend on the machine, but for the wavefront's, which do a little;
times (`--rounds`) want an idle one. Writes `bench/results/generation.json` and, from that alone,
`docs/background/generation.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

import lds_iter as li
from bench.common.machine import describe
from bench.common.pages import keep
from bench.generation.measure import APART, COUNT, DEPTH, LENGTH, WAYS, loop_of, row
from bench.generation.page import page
from recipes.recurrent_depth.model import load
from recipes.recurrent_depth.text import encode, topics

ROOT = Path(__file__).parents[2]
JSON, PAGE = ROOT / "bench" / "results" / "generation.json", ROOT / "docs" / "background" / "generation.md"


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
