"""What a user gains: `torch.nn.GRU` against `lds_iter.nn.GRU` as it comes, on trained networks."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn

import lds_iter as li
from lds_iter.auto import wall_clock
from recipes.pretrained.networks import Network
from recipes.pretrained.wording import duration

ROUNDS, SECONDS = 5, 3.0
"""Runs of each, in turns, of which the medians count; no new round begins after so many seconds."""


@dataclass(frozen=True)
class Gain:
    """One network at one length, evaluated or trained.

    Attributes:
        network: which.
        training: whether the gradients of all parameters belong to it.
        theirs: seconds of `torch.nn.GRU`, the median.
        ours: seconds of `lds_iter.nn.GRU`.
        error: largest difference of the outputs, or of the gradients in units of the largest one.
    """

    network: Network
    training: bool
    theirs: float
    ours: float
    error: float


def gain(network: Network, *, training: bool) -> Gain:
    """Run both layers on the same weights and input, in turns.

    Args:
        network: the trained layer and what it reads.
        training: also compute the gradients of the mean square output.
    """
    theirs = copy.deepcopy(network.gru).requires_grad_(training)
    ours = li.nn.parallelize(copy.deepcopy(theirs))
    run = _train if training else _evaluate
    expected, found = run(theirs, network.x), run(ours, network.x)
    seconds: dict[nn.Module, list[float]] = {theirs: [], ours: []}
    start = time.perf_counter()
    while not seconds[ours] or (len(seconds[ours]) < ROUNDS and time.perf_counter() - start < SECONDS):
        for layer, times in seconds.items():
            times.append(_seconds(network.x, lambda layer=layer: run(layer, network.x)))
    error = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    scale = max(float(a.abs().max()) for a in expected) if training else 1.0
    medians = [statistics.median(times) for times in seconds.values()]
    return Gain(network, training, medians[0], medians[1], error / scale)


def gains_table(gains: list[Gain]) -> Table:
    """The first screen."""
    view = Table(
        title="[bold]torch.nn.GRU, and lds_iter.nn.GRU in its place[/bold]\ntrained weights, real input, no setting",
        caption="training: forward and backward; difference: of outputs, or of gradients in units of the largest one",
        title_justify="left",
        caption_justify="left",
    )
    view.add_column("network", no_wrap=True)
    for heading in ("T", "", "torch.nn", "lds_iter.nn", "speed-up", "difference"):
        view.add_column(heading, justify="right", no_wrap=True)
    for one in gains:
        view.add_row(
            one.network.title.split(",")[0].replace("two bidirectional layers of", "2 x 2"),
            f"{len(one.network.x):,}",
            "training" if one.training else "forward",
            duration(one.theirs),
            duration(one.ours),
            f"[bold]{one.theirs / one.ours:.1f}[/bold]",
            f"{one.error:.0e}",
        )
    return view


def _evaluate(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [layer(x)[0]]


def _train(layer: nn.Module, x: Tensor) -> list[Tensor]:
    layer.zero_grad(set_to_none=True)
    layer(x)[0].square().mean().backward()
    return [weight.grad for weight in layer.parameters() if weight.grad is not None]


def _seconds(like: Tensor, run: Callable[[], object]) -> float:
    """Until the device of a tensor is done."""
    start = wall_clock(like)
    run()
    return wall_clock(like) - start
