"""What compiling the iterations brings: ours against ours, `solve(f, ...)` and `solve(li.Compiled(f), ...)`.

`python -m bench.compile` writes `bench/results/<device>/compile.json` and the table of `docs/background/compile.md`.
Both run by turns, after a correctness gate: they must agree with the Python loop over time and take equally many
iterations.
The recurrences are what a user writes, in plain torch, without derivatives of their own: D products give the diagonal.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from bench.common.machine import describe, results_folder
from bench.common.pages import between
from bench.compile.measure import measured
from bench.compile.page import COMMAND, table
from recipes.files import write

PAGE = Path("docs/background/compile.md")


def main() -> None:
    """Measure all cases, save them and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--length", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print the table, and write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = list(measured(options.length, options.width, options.rounds))
    section = table(rows, describe())
    print(section)
    if not options.dry:
        saved = {"machine": describe(), "rows": [asdict(row) for row in rows]}
        write(results_folder() / "compile.json", json.dumps(saved, indent=1) + "\n")
        write(PAGE, between(PAGE.read_text(), COMMAND, section))


if __name__ == "__main__":
    main()
