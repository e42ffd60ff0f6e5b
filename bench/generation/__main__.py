"""Ways to generate from a recurrent-depth model: `python -m bench.generation [--rounds N] [--prompts N] [--resume]`.

The recipe's trained model, held-out prompts, every way of `lds_iter.depth` against the loop: the same tokens or not,
steps one after the other, and work. Counts do not depend on the machine, but for the wavefront's, which do a little;
times (`--rounds`) want an idle one. Writes `bench/results/generation.json` and, from that alone,
`docs/background/generation.md`, after every row; `--resume` goes on with the rows that are missing there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import lds_iter as li
from bench.common.machine import describe
from bench.common.pages import keep
from bench.generation.measure import APART, BATCHES, COUNT, DEPTH, LENGTH, WAYS, loop_of, row
from bench.generation.page import page
from recipes.recurrent_depth.model import load
from recipes.recurrent_depth.text import encode, topics

ROOT = Path(__file__).parents[2]
JSON, PAGE = ROOT / "bench" / "results" / "generation.json", ROOT / "docs" / "background" / "generation.md"


def main(
    rounds: Annotated[int, typer.Option(min=0, help="Timed runs of each way; 0 counts only.")] = 5,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 20,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows of an earlier run of these sizes.")] = False,
) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    model, text = load(), topics()[1]
    read = [encode(text[APART * number :][:LENGTH]) for number in range(prompts)]
    sizes = {"rounds": rounds, "prompts": prompts, "count": COUNT, "depth": DEPTH, "length": LENGTH}
    rows = kept_rows(JSON, sizes) if resume else []
    missing = [name for name in (*WAYS, *BATCHES) if name not in {row["way"] for row in rows}]
    exact = [loop_of(model, prompt) for prompt in read] if missing else []
    for name in missing:
        rows.append(row(name, model, read, exact, rounds))
        print(json.dumps(rows[-1]), flush=True)
        results = {**describe(), "lds_iter": li.__version__, **sizes, "rows": rows}
        keep(results, JSON, PAGE, page(results))
    print(PAGE)


def kept_rows(file: Path, sizes: dict[str, int]) -> list[dict[str, Any]]:
    """The rows of an earlier run, where it was one of the same sizes."""
    before = json.loads(file.read_text()) if file.exists() else {}
    return before["rows"] if all(before.get(name) == size for name, size in sizes.items()) else []


if __name__ == "__main__":
    typer.run(main)
