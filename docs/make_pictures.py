"""Draw the pictures of the guide for light and for dark: `python -m docs.make_pictures [--recipes] [NAME ...]`.

Without `--recipes` those that are drawn in a minute: from code, and from the results that benchmarks have left. With it
those of recipes, whose programs run for that, from seconds to an hour each. NAMEs are keys of `DRAWN` and `RECIPES`.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.curves import page as curves
from bench.map import page as maps
from bench.mesh import picture as mesh
from docs.drawing.curves import forms, window
from docs.drawing.lead import lead
from docs.drawing.maps import chaos, convergence
from docs.drawing.style import PICTURES, draw
from docs.drawing.training import gru_torch
from docs.drawing.trust import trust_region

RESULTS = Path(__file__).parent.parent / "bench" / "results"


def measured(name: str) -> Any:
    """What a benchmark has left, by the name of its file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


DRAWN = {
    "lead": partial(draw, "lead", lead),
    "convergence": partial(draw, "convergence", convergence),
    "chaos": partial(draw, "chaos", chaos),
    "window": partial(draw, "window", window),
    "forms": partial(draw, "forms", forms),
    "trust-region": partial(draw, "trust-region", trust_region),
    "map-forward": lambda: maps.picture(
        measured("cpu-2-threads/map"),
        PICTURES / "map-forward.svg",
        training=False,
    ),
    "map-training": lambda: maps.picture(
        measured("cpu-2-threads/map"),
        PICTURES / "map-training.svg",
        training=True,
    ),
    "curves": lambda: curves.picture(
        measured("cpu-2-threads/curves")["tables"], PICTURES / "curves.svg"
    ),
    "time-sharding": lambda: mesh.picture(
        measured("mesh"), PICTURES / "time-sharding.svg"
    ),
    "gru-torch": lambda: gru_torch(PICTURES / "gru-torch.svg"),
}

RECIPES = {
    "cells": "",
    "control": "",
    "diffusion": "",
    "gru": "--threads 1",
    "langevin": "",
    "neural_ode": "--compare 5",
    "optimizer": "",
    "predictability": "",
    "predictability-paper": "--part rnn --width 100 --length 1000 --gains 13 --seeds 2",
    "pretrained": "",
    "recurrent_depth": "",
    "teacher_forcing": "",
    "word_problem": "",
}
"""The arguments of `python -m recipes.NAME`, up to a hyphen in the name."""

RENAMED = {"quasi": "gru"}
"""What a recipe calls a picture, and what the guide calls it."""


def run_recipe(name: str) -> None:
    """Run a recipe in a folder of its own, and take its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            f"recipes.{name.split('-')[0]}",
            *RECIPES[name].split(),
            "--out",
            folder,
        ]
        subprocess.run(command, check=True)
        for path in [*Path(folder).glob("*.svg"), *Path(folder).glob("*.gif")]:
            stem, dark = (
                path.stem.removesuffix("-dark"),
                "-dark" * path.stem.endswith("-dark"),
            )
            kept = (
                f"{stem}_paper"
                if name.endswith("-paper")
                else RENAMED.get(stem, stem)
            )
            shutil.copy(path, PICTURES / f"{kept}{dark}{path.suffix}")


def main(arguments: list[str]) -> None:
    """Those named, or all."""
    table = RECIPES if "--recipes" in arguments else DRAWN
    names = [name for name in arguments if name != "--recipes"]
    unknown = sorted(set(names) - set(table))
    if unknown:
        raise SystemExit(
            f"There is no picture {', '.join(unknown)}. Draw some of: {', '.join(table)}."
        )
    torch.set_num_threads(1)
    PICTURES.mkdir(exist_ok=True)
    for name in names or table:
        print(name, flush=True)
        if table is RECIPES:
            run_recipe(name)
        else:
            DRAWN[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
