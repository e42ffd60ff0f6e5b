"""One trajectory over several processes: what an iteration sends and how long it takes: `python -m bench.mesh`.

Counts messages and bytes beside their formula, times iterations on 1, 2 and 4 ranks of this machine, fits a model of
the time and checks it on what it has not seen, and says with the figures of GPUs and links where it pays. Writes
`bench/results/mesh.json` and `docs/background/time-sharding.md`; its picture is of `python -m docs.make_pictures
time-sharding`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bench.common.machine import describe
from bench.common.pages import between, keep
from bench.mesh.measure import cases
from bench.mesh.page import COMMAND, section
from bench.mesh.study import counts, fit, timed, worked

PAGE = Path("docs/background/time-sharding.md")


def main(
    rounds: Annotated[int, typer.Option(help="Solves of each case, of five timed iterations each.")] = 9,
    most: Annotated[int, typer.Option(help="Numbers of all matrices of the longest case.")] = 2**22,
    out: Annotated[Path | None, typer.Option(help="The folder to write to, not the repository.")] = None,
) -> None:
    """Count, time, fit, keep, and write the page."""
    found = cases(most)
    rows, cores = timed(found, rounds), os.cpu_count() or 1
    work = worked(found)
    results = {
        "machine": describe(), "cores": cores, "counts": counts(), "work": work, "rows": rows,
        "fit": fit(rows, work, cores),
    }  # fmt: skip
    folder, page = (Path("bench/results"), PAGE) if out is None else (out, out / "time-sharding.md")
    keep(results, folder / "mesh.json", page, between(PAGE.read_text(), COMMAND, section(results)))
    print(section(results))


if __name__ == "__main__":
    typer.run(main)
