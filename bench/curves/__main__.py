"""Time over T, up to a million steps: `python -m bench.curves`.

`torch.nn.GRU` and `LSTM`, our layers by their default methods, and JAX's compiled loop where JAX is installed, forward
and in training, over T for a few widths and batches. Everything is checked against torch's layer before it is timed
(`bench.peers.measure`). A cell that would exceed the time that is left or the memory is marked and not run; torch's
training over a million steps is such a one, for its graph alone takes gigabytes. Writes
`bench/results/<device>/curves.json`, `docs/pictures/curves.svg` and a section of `docs/background/map.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.common.machine import describe, device_at_hand, full_precision, results_folder
from bench.common.pages import between, keep

if TYPE_CHECKING:
    pass
from bench.curves.measure import LENGTHS, problems, survey
from bench.curves.page import picture, section

COMMAND = "python -m bench.curves"
PAGE, PICTURE = Path("docs/background/map.md"), Path("docs/pictures/curves.svg")


def main(
    budget: Annotated[float, typer.Option(help="Seconds for all cells together.")] = 240.0,
    memory: Annotated[float, typer.Option(help="GiB for one cell.")] = 6.0,
    longest: Annotated[int, typer.Option(help="Leave out longer series.")] = LENGTHS[-1],
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write there, not into the repository.")] = None,
) -> None:
    """Measure the curves, draw them, and write the page."""
    full_precision()
    tables = survey(problems(longest, device_at_hand()), budget, memory, rounds)
    results = {"lds_iter": describe(), "budget": budget, "memory": memory, "rounds": rounds, "tables": tables}
    folder = results_folder() if out is None else out
    text = between(PAGE.read_text(), COMMAND, section(results))
    keep(results, folder / "curves.json", PAGE if out is None else out / "map.md", text)
    picture(tables, PICTURE if out is None else out / "curves.svg")


if __name__ == "__main__":
    typer.run(main)
