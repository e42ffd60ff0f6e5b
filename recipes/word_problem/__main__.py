"""The word problem of S5 or A5, learned on words of 10,000 letters: `python -m recipes.word_problem [--group A5]`.

Each letter moves five things about; a model is to say after every letter where all of them are. It learns what the
letters do, from random numbers, on words that become longer until they have 10,000 letters, all of which are solved at
once. A matrix for each letter does it, in one exact Newton iteration a word; a diagonal for each letter, as state-space
models have, does not. Draws accuracy by the place in the word.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

import lds_iter as li
from lds_iter.auto import wall_clock
from recipes.canvas import label, pyplot, save
from recipes.command_line import check_choice, check_folder, in_one_line
from recipes.devices import DeviceName, device_of
from recipes.word_problem.groups import GROUPS, elements
from recipes.word_problem.models import ByMatrix, DiagonalModel, MatrixModel, WordModel
from recipes.word_problem.training import accuracy_by_place, train, words_of

RATES = {"matrix": 0.1, "diagonal": 0.01}
"""Of Adam; the better one of 0.1, 0.03 and 0.01 for each."""

app = typer.Typer(add_completion=False)


@app.command()
@in_one_line
def main(
    group: Annotated[str, typer.Option(help=f"one of {', '.join(GROUPS)}")] = "S5",
    length: Annotated[int, typer.Option(min=2, help="letters of the longest words")] = 10_000,
    letters: Annotated[int, typer.Option(min=2, help="of a batch")] = 2_000,
    patience: Annotated[int, typer.Option(min=1, help="steps of training at a length before giving up")] = 1000,
    device: DeviceName = "cpu",
    out: Annotated[Path, typer.Option(help="folder of the picture")] = Path("out/word_problem"),
) -> None:
    """Train both models, test them on new words, count iterations, draw accuracy by place."""
    check_choice("--group", group, GROUPS)
    place = device_of(device)
    check_folder(out)
    console, curves = Console(), {}
    models: dict[str, WordModel] = {}
    for name, kind in ("matrix", MatrixModel), ("diagonal", DiagonalModel):
        torch.manual_seed(0)
        models[name] = kind(len(elements(group))).to(place)
        like = next(models[name].parameters())
        begin = wall_clock(like)
        stages = list(train(models[name], group, length, letters=letters, patience=patience, rate=RATES[name]))
        steps = sum(stage.steps for stage in stages)
        console.print(
            f"{name}: up to {stages[-1].length:,} letters in {steps} steps, {wall_clock(like) - begin:.1f} s; loss "
            f"{stages[-1].loss:.3f}, right {stages[-1].accuracy:.3f}"
        )
        curves[name] = accuracy_by_place(models[name], group, length, 8).cpu()
        console.print(
            f"{name}: on new words of {length:,} letters {float(curves[name].mean()):.3f} of all places right, at the "
            f"last {float(curves[name][-1]):.3f}"
        )
    for method, count in iterations(models["matrix"], group, length).items():
        console.print(f"iterations of {method}: {count:,}")
    console.print(f"picture: {picture(curves, out)}")


def iterations(model: WordModel, group: str, length: int) -> dict[str, int]:
    """Iterations of Newton and of its diagonal on one word, with the matrices that were learned."""
    words = words_of(group, length, 1, torch.Generator("cpu").manual_seed(2), model.device)
    assert isinstance(model, MatrixModel)
    with torch.no_grad():
        a = model.scores.softmax(-1)[words]
        start = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)[:1]
        found = {}
        for method in li.Newton(), li.QuasiNewton():
            found[repr(method)] = int(li.solve(ByMatrix(), start, a, method).iterations.max())
    return found


def picture(curves: dict[str, Tensor], out: Path) -> Path:
    """Accuracy by the place in the word, averaged over a tenth of the places up to there."""
    plt = pyplot()

    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, curve in curves.items():
        places = sorted({round(10 ** (k / 8)) for k in range(1 + int(8 * math.log10(len(curve))))})
        ax.semilogx(places, [float(curve[place - place // 10 - 1 : place].mean()) for place in places], label=name)
    ax.set(xlabel="letters read", ylabel="words with all things placed right", ylim=(-0.02, 1.02))
    label(ax)
    return save(figure, out / "word_problem.svg")


if __name__ == "__main__":
    torch.set_num_threads(1)
    app()
