"""What one iteration costs over what it must cost: `python -m bench.roofline`.

The floor of an iteration is what its bytes take at the bandwidth of a copy, its products at the rate of a product of
the same shape, or its sigmoids and tanhs at their own rate, whichever is longest (`bench.common.traffic` counts them).
Rates are measured on the device at hand, before the iterations. An iteration is timed as the difference of solves that
are cut off after a few and after more iterations, so that checks and set-up cancel; the states of both are those of the
same method on the same GRU as everywhere, and the longer one must come closer to `torch.nn.GRU` than the shorter one.
Writes `bench/results/<device>/roofline.json` and a section of `docs/background/roofline.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.common.machine import describe, device_at_hand, full_precision, results_folder
from bench.common.pages import keep_of_device
from bench.roofline.measure import CASES, Case, measure, rates
from bench.roofline.page import section

COMMAND = "python -m bench.roofline"
PAGE = Path("docs/background/roofline.md")


def main(
    length: Annotated[int | None, typer.Option(help="At most so many steps: for trying it out.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of everything that is timed.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Write there, not into the repository.")] = None,
) -> None:
    """Measure rates and iterations, print and keep them, and write the page."""
    full_precision()
    device, rows = device_at_hand(), []
    numbers = 1 << 26 if length is None else 1 << 22
    found = rates(device, rounds, numbers)
    for case in CASES:
        steps = case.length if length is None else min(length, case.length)
        short = Case(case.method, case.structure, case.width, steps, case.batch, case.few, case.more)
        rows.append(measure(short, found, device, rounds))
        print(rows[-1], flush=True)
    results = {
        "lds_iter": describe(), "rates": vars(found), "copied_mb": 8e-6 * numbers, "rounds": rounds, "rows": rows
    }  # fmt: skip
    keep_of_device(results, "roofline", PAGE, COMMAND, section, folder=results_folder(), out=out)


if __name__ == "__main__":
    typer.run(main)
