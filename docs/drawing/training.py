"""The losses of a GRU by torch and by `quasi`, of the run whose table stands in docs/recipes/gru.md."""

from __future__ import annotations

import math
import re
from pathlib import Path

from recipes.gru.glucose import load_glucose
from recipes.gru.report import Run, Step, picture

PAGE = Path(__file__).parent.parent / "recipes" / "gru.md"
STEP = re.compile(r"^\| (\d+) \| (\d\.\d{7}) \| (\d\.\d{7}) \|", re.MULTILINE)
SECONDS = re.compile(r"Seconds in training steps: ([\d.]+) and ([\d.]+)\.")


def gru_torch(path: Path) -> None:
    """Draw it from the table: losses by step, and the seconds of all steps together."""
    page = PAGE.read_text()
    spent = SECONDS.search(page)
    assert spent
    runs = [Run(name, {}, {}) for name in ("torch", "quasi")]
    for number, *losses in STEP.findall(page):
        for run, loss, seconds in zip(
            runs, losses, spent.groups(), strict=True
        ):
            run.steps[int(number) - 1] = Step(
                float(loss), float(seconds), (), math.nan, fell_back=False
            )
    picture(load_glucose(100, 1), runs, path)
