"""A recurrent-depth transformer in parallel over depth and over tokens: `python -m recipes.recurrent_depth`."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from recipes.command_line import check_folder, fail, in_one_line
from recipes.devices import DeviceName, device_of
from recipes.pretrained.networks import AssetMissing
from recipes.recurrent_depth.compare import Measured, generation, measure_depth, ordinary, over_depth
from recipes.recurrent_depth.model import RecurrentDepth, about, load
from recipes.recurrent_depth.report import depth_table, generation_table, picture
from recipes.recurrent_depth.text import decode, encode, topics

app = typer.Typer(add_completion=False)

READ = 64
"""Characters of the held-out text that the networks over depth read."""
PICTURED_DEPTH = 32


class Networks(StrEnum):
    """What `--networks` takes."""

    own = "own"
    all = "all"


@app.command()
@in_one_line
def main(
    networks: Annotated[Networks, typer.Option(help="Only the recipe's own model, or MiniLM and ALBERT too.")] = (
        Networks.all
    ),
    depths: Annotated[str, typer.Option(help="Depths of the recipe's own model, comma-separated.")] = "8,16,32,64",
    prompt: Annotated[str, typer.Option(help="What to continue.")] = "A compound statement ",
    count: Annotated[int, typer.Option(min=1, help="Characters to generate.")] = 48,
    depth: Annotated[int, typer.Option(min=1, help="Steps of the core for each character, R.")] = 32,
    inner: Annotated[int, typer.Option(min=1, help="Steps between two looks at the coda, beside 1.")] = 4,
    flight: Annotated[str, typer.Option(help="Characters in flight at once, comma-separated.")] = "4,8,16",
    freeze: Annotated[str, typer.Option(help="Relative changes at which a character settles.")] = "0.003,0.1",
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("out"),
    threads: Annotated[int, typer.Option(min=1, help="Threads for torch.")] = 1,
    device: DeviceName = "cpu",
) -> None:
    """Depth and tokens of recurrent-depth and of ordinary transformers, in parallel, against one after the other."""
    torch.set_num_threads(threads)
    console = Console(width=None if Console().is_terminal else 140)
    steps, flights = _numbers(depths, "--depths", int), _numbers(flight, "--flight", int)
    freezes = _numbers(freeze, "--freeze", float)
    if not prompt:
        raise typer.BadParameter("must hold at least one character.", param_hint="--prompt")
    place = device_of(device)
    check_folder(out)
    model, facts = load().to(place), about()
    console.print(
        f"torch {torch.__version__}, {threads} thread(s); trained for {facts['steps']} steps on {facts['text']}"
    )
    console.print(f"held-out loss in nats per character: bigram {facts['bigram']}; at depth " + facts["losses"])
    measured = _depth(model, steps, networks, console)
    tokens = encode(prompt).to(place)
    lines = list(generation(model, tokens, count, depth, flights, freezes, inner))
    console.print(generation_table(f"Generation over (token, depth), R = {depth} steps a token", lines))
    plain = list(ordinary(model, tokens, count, depth))
    console.print(generation_table(f"The same as an ordinary model of depth {depth}: Jacobi decoding", plain))
    console.print(prompt + decode(lines[0].tokens), markup=False)
    chosen = [row for row in measured if row.depth == PICTURED_DEPTH or row.title.startswith("rxn")] or measured[:2]
    picture(chosen, out / "recurrent_depth.svg")
    print(out / "recurrent_depth.svg")


def _depth(model: RecurrentDepth, steps: list[int], networks: Networks, console: Console) -> list[Measured]:
    """Measure and print the table of depth."""
    place = model.head.weight.device
    read = encode(topics()[1][:READ]).to(place)
    rows = [measure_depth("this recipe's, one core", over_depth(model, read, depth)) for depth in steps]
    if networks is Networks.all:
        from recipes.recurrent_depth.pretrained import albert, minilm

        try:
            rows += [measure_depth(network.title, network.recurrence) for network in (minilm(place), albert(place))]
        except AssetMissing as error:
            fail(f"{error} Or: --networks own")
    console.print(depth_table(rows))
    return rows


def _numbers(text: str, option: str, kind: type) -> list:
    """Comma-separated positive numbers."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise typer.BadParameter(f"must be positive numbers with commas between, got {text!r}.", param_hint=option)
    return numbers


if __name__ == "__main__":
    app()
