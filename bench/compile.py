"""What compiling the iterations brings: ours against ours, `solve(f, ...)` and `solve(li.Compiled(f), ...)`.

`python -m bench.compile` writes `bench/results/<device>/compile.json` and the table of `docs/learn/compile.md`. Both
run by turns, after a correctness gate: they must agree with the Python loop over time and take equally many iterations.
The recurrences are what a user writes, in plain torch, without derivatives of their own: D products give the diagonal.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.machine import describe, results_folder
from bench.pages import between, markdown
from bench.timing import alternately, first_run

PAGE = Path("docs/learn/compile.md")
COMMAND = "python -m bench.compile"
ERROR = 5e-5
"""Largest difference to the loop over time at which a row is timed: float32, states of size 1, residuals to 1e-5."""


@dataclass(frozen=True)
class Row:
    """One case, as measured."""

    name: str
    method: str
    length: int
    width: int
    iterations: int
    error: float
    compile_s: float
    plain_ms: float
    compiled_ms: float
    rounds: int


def gru_cell(width: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A GRU cell written out in plain torch; `u`: pre-activations of the input, `(n, *batch, 3 D)`."""
    weight = torch.nn.GRUCell(width, width).weight_hh.detach()

    def f(h: Tensor, u: Tensor) -> Tensor:
        u_r, u_z, u_n = u.chunk(3, -1)
        w_r, w_z, w_n = (h @ weight.T).chunk(3, -1)
        r, z = torch.sigmoid(u_r + w_r), torch.sigmoid(u_z + w_z)
        n = torch.tanh(u_n + r * w_n)
        return (1 - z) * n + z * h

    return f


def pointwise(s: Tensor, u: Tensor) -> Tensor:
    """A forced, damped oscillation of every coordinate by itself."""
    u_a, u_b, _ = u.chunk(3, -1)
    return 0.9 * torch.sin(s + 0.5 * u_a) * torch.sigmoid(u_b) + 0.1 * torch.tanh(u_a * s)


CASES: dict[str, tuple[Callable[[int], Callable[[Tensor, Tensor], Tensor]], li.LDSApproximation]] = {
    "GRU cell, diagonal": (gru_cell, li.QuasiNewton()),
    "GRU cell, Newton": (gru_cell, li.Newton()),
    "pointwise, diagonal": (lambda width: pointwise, li.QuasiNewton()),  # noqa: ARG005
    "pointwise, Jacobi": (lambda width: pointwise, li.Jacobi()),  # noqa: ARG005
}


def measure(name: str, length: int, width: int, rounds: int) -> Row:
    """The row of one case, after its gate."""
    torch.manual_seed(0)
    make, method = CASES[name]
    f, s0, u = make(width), torch.zeros(1, width), torch.randn(length, 1, 3 * width)
    compiled = li.Compiled(f)
    tolerances: dict[str, Any] = {"rtol": 0, "atol": 1e-5}
    with torch.no_grad():
        expected = li.sequential(f, s0, u)
        runs = {
            "plain": lambda: li.solve(f, s0, u, method, **tolerances),
            "compiled": lambda: li.solve(compiled, s0, u, method, **tolerances),
        }
        start = time.perf_counter()
        runs["compiled"]()
        compile_s = time.perf_counter() - start
        found = {which: first_run(run) for which, run in runs.items()}
        errors = [float((one.result.states - expected).abs().max()) for one in found.values()]
        counts = [int(one.result.iterations.max()) for one in found.values()]
        if max(errors) > ERROR or counts[0] != counts[1]:
            raise RuntimeError(f"{name}: errors {errors}, iterations {counts}, plain and compiled.")
        times = alternately(runs, {which: one.seconds for which, one in found.items()}, rounds, long=30)
    plain, fast = times["plain"].ms, times["compiled"].ms
    return Row(name, repr(method), length, width, counts[0], max(errors), compile_s, plain, fast, rounds)


def table(rows: list[Row], machine: dict[str, Any]) -> str:
    """The section of the page."""
    head = ["Recurrence, method", "T", "D", "Iterations", "Plain, ms", "Compiled, ms", "Ratio", "Compiling, s", "Error"]
    lines = [
        [
            row.name, f"{row.length:,}", f"{row.width}", f"{row.iterations}", f"{row.plain_ms:.1f}",
            f"{row.compiled_ms:.1f}", f"{row.plain_ms / row.compiled_ms:.1f}", f"{row.compile_s:.0f}",
            f"{row.error:.0e}",
        ]
        for row in rows
    ]  # fmt: skip
    where = f"{machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}"
    return (
        markdown(head, lines)
        + f"\nMeasured by `{COMMAND}` on {where}: medians of {rows[0].rounds} rounds by turns, float32, residual 1e-5; "
        "the error is the larger one of both against the loop over time, and both take equally many iterations."
    )


def main() -> None:
    """Measure all cases, save them and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--length", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print the table, and write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(name, length, options.width, options.rounds) for name in CASES for length in options.length]
    section = table(rows, describe())
    print(section)
    if not options.dry:
        saved = {"machine": describe(), "rows": [asdict(row) for row in rows]}
        (results_folder() / "compile.json").write_text(json.dumps(saved, indent=1) + "\n")
        PAGE.write_text(between(PAGE.read_text(), COMMAND, section))


if __name__ == "__main__":
    main()
