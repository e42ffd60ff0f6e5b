"""Trained networks through the drop-in layers: `python -m bench.trained [--only NAME] [--method NAME]`.

Loads every network of `bench.trained` into the layer of `li.nn` of the same kind: as it comes, with the fixed method of
its shape, and with the method that the guide recommends for trained networks. Runs it forward and backward, and
compares with torch's: outputs, final states, gradients of the input and of all weights. Counts and errors do not depend
on hardware. Writes `bench/results/trained.json` after each row and, from that alone, `docs/background/trained.md`.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

import lds_iter as li
from bench.common.machine import describe
from bench.common.pages import keep
from bench.trained import CASES, LOADERS, TrainedNetwork
from bench.trained.page import cells, page

ROOT = Path(__file__).parent.parent.parent
JSON, PAGE = ROOT / "bench" / "results" / "trained.json", ROOT / "docs" / "background" / "trained.md"

AS_IT_COMES = "none"
"""A layer without a method, as a user makes it: compiled steps, or torch's kernel."""

METHODS: dict[str, li.LDSApproximation | None] = {
    AS_IT_COMES: None,
    "default": None,
    "li.TrustRegion(li.Newton())": li.TrustRegion(li.Newton()),
}
"""What is typed as `method`, by its name in the table; "default" is the fixed method of the shape."""
TOO_WIDE = {("resemblyzer", 1_000)}
"""Jacobians of 512 x 512 numbers, a gigabyte for the rows of each of three layers and several tensors of that size at
once: the default alone."""


@dataclass(frozen=True)
class Outcome:
    """How a network went through the drop-in layer.

    Attributes:
        name: of the network.
        title: what it is.
        about: what it read.
        length: T.
        typed: the argument `method`, by its name in `METHODS`.
        method: what the layer solved with; without one the route, steps or kernel.
        fell_back: whether torch's kernel had to answer.
        iterations: of every solve, layer by layer and direction by direction, the last of which failed if any did.
        evaluations: of `f` in units of T, the same.
        residual: the largest that is left, the same.
        output: the largest difference to torch's output.
        final: the same of the final states, relative to `max(1, |s|)`: the cells of an LSTM count.
        gradient: the largest relative difference of a gradient, in the norm, over the input and all weights.
    """

    name: str
    title: str
    about: str
    length: int
    typed: str
    method: str
    fell_back: bool
    iterations: list[int]
    evaluations: list[float]
    residual: list[float]
    output: float
    final: float
    gradient: float


def parallel(module: nn.GRU | nn.LSTM) -> li.nn.GRU | li.nn.LSTM:
    """The drop-in layer with the same shape and weights, and default options otherwise."""
    kind = li.nn.LSTM if isinstance(module, nn.LSTM) else li.nn.GRU
    layer = kind(
        module.input_size, module.hidden_size, num_layers=module.num_layers, bidirectional=module.bidirectional
    )
    layer.load_state_dict(module.state_dict())
    return layer


def run(module: nn.GRU | nn.LSTM, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output, final states (an LSTM's two in one), and the gradients of the mean square output: input, then weights."""
    module.requires_grad_(True)
    x = x.unsqueeze(1).requires_grad_(True)
    output, final = module(x)
    gradients = torch.autograd.grad(output.square().mean(), [x, *module.parameters()])
    return output.detach(), torch.cat(final).detach() if isinstance(final, tuple) else final.detach(), list(gradients)


def compare(network: TrainedNetwork, length: int, typed: str = "default") -> Outcome:
    """Run a network through torch's layer and through the drop-in layer with a method of `METHODS`."""
    layer = parallel(network.module)
    layer.method = None if typed == AS_IT_COMES else METHODS[typed] or li.nn.fixed_method(layer)
    expected, expected_final, expected_gradients = run(network.module, network.x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", li.PerformanceWarning)
        output, final, gradients = run(layer, network.x)
    pairs = zip(gradients, expected_gradients, strict=True)
    assert layer.last_plan is not None
    return Outcome(
        name=network.name,
        title=network.title,
        about=network.about,
        length=length,
        typed=typed,
        method=str(layer.method) if layer.method else layer.last_plan.route.name.lower(),
        fell_back=any(issubclass(entry.category, li.PerformanceWarning) for entry in caught),
        iterations=[int(solution.iterations.max()) for solution in layer.last_solution],
        evaluations=[float(solution.evaluations.max()) / length for solution in layer.last_solution],
        residual=[float(solution.residual.max()) for solution in layer.last_solution],
        output=float((output - expected).abs().max()),
        final=float(((final - expected_final).abs() / expected_final.abs().clamp(min=1)).max()),
        gradient=max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs),
    )


def main(
    only: Annotated[str, typer.Option(help="networks whose name and length contain this")] = "",
    method: Annotated[str, typer.Option(help="methods whose name contains this; other rows keep their results")] = "",
) -> None:
    """Measure, print, and write the JSON file and the page."""
    torch.set_num_threads(1)
    console = Console()
    results: dict[str, Any] = json.loads(JSON.read_text()) if JSON.exists() else {"rows": {}}
    cases = [
        (name, length, typed)
        for name, length in CASES
        for typed in METHODS
        if (name, length) not in TOO_WIDE or not METHODS[typed]
    ]
    order = [" ".join(map(str, case)) for case in cases]
    for key, (name, length, typed) in zip(order, cases, strict=True):
        if only in f"{name} {length}" and method in typed:
            outcome = asdict(compare(LOADERS[name](length), length, typed))
            results["rows"][key] = outcome
            console.print(" | ".join(cells(outcome)), soft_wrap=True)
            results["rows"] = {key: results["rows"][key] for key in order if key in results["rows"]}
            results.update(describe())
            keep(results, JSON, PAGE, page(results))


if __name__ == "__main__":
    typer.run(main)
