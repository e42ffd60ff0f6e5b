"""What `bench.auto` runs: every kind of recurrence of the repository, from stable to chaotic, from small to large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common import problems
from bench.edge.problems import EdgeProblem, lorenz, sine
from bench.trained import LOADERS
from lds_iter.nn.gru import GRURecurrence
from recipes.predictability.flows import FLOWS, observer, rollout
from recipes.predictability.flows import guess as flow_guess
from recipes.pretrained.networks import load_sleep

Guess = Callable[..., Tensor] | Tensor


@dataclass(frozen=True)
class Recurrence:
    """For `li.solve`; `atol` and `rtol` None for the defaults."""

    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any
    guess: Guess = li.repeat_initial
    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True)
class Layer:
    """A module of `torch.nn` and its input `(T, B, D_in)`, forward or forward and backward."""

    module: torch.nn.RNNBase
    x: Tensor
    training: bool = False


@dataclass(frozen=True)
class Case:
    """A problem to be made when its turn comes.

    Attributes:
        dense: whether methods with a full Jacobian are among the contenders; where not, one iteration of them takes
            longer than step-by-step evaluation does in all.
        held_out: nothing in `Auto` was chosen on it.
    """

    name: str
    make: Callable[[], Recurrence | Layer]
    dense: bool = True
    held_out: bool = False

    @property
    def raced(self) -> bool:
        """Whether `Auto` has something to decide on a CPU: layers and GRUs have compiled steps there."""
        return "layer" not in self.name and not self.name.startswith(("GRU", "sleepecg"))


def cases() -> Iterator[Case]:
    """All of them, the cheap ones first, and last those that nothing was chosen on."""
    yield from _recurrences()
    yield from _layers()
    for case in _held_out():
        yield replace(case, held_out=True)


def _recurrences() -> Iterator[Case]:
    for width, length in (2, 1_000), (8, 1_000), (8, 10_000), (32, 1_000), (32, 10_000), (128, 1_000), (128, 10_000):
        make = partial(_plain, partial(problems.default_gru, width, length))
        yield Case(f"GRU recurrence, fresh, D={width}, T={length:,}", make, width <= 32)
    for gain in 0.5, 0.8, 1.0, 1.2, 1.6:
        yield Case(
            f"mean-field RNN, g={gain}, D=32", partial(_plain, partial(problems.mean_field_rnn, gain, 32, 2_000))
        )
    yield Case(
        "mean-field RNN, g=0.8, D=100", partial(_plain, partial(problems.mean_field_rnn, 0.8, 100, 1_000)), False
    )
    for length in 1_000, 10_000:
        yield Case(f"sine GRU, T={length:,}", partial(_edge, partial(sine, length, 0)))
    yield Case("Lorenz-96, T=1,000", partial(_edge, partial(lorenz, 1_000, 0)))
    yield Case(
        "Langevin, two wells, 20 seeds, T=2,000", partial(_plain, partial(problems.two_well_langevin, 20, 2_000))
    )
    yield Case("Langevin, mixture, D=32, T=1,000", partial(_plain, problems.mixture_langevin))
    for name in "ABC", "Chua", "Rossler":
        yield Case(f"observer, {name}, T=10,000", partial(_flow, name))
    yield Case("S5 word problem, D=25, T=1,000", partial(_plain, partial(problems.word_problem, 1_000)))
    vector = torch.arange(1.0, 6).unsqueeze(-1)
    yield Case("S5 word problem, D=5, T=2,000", partial(_plain, partial(problems.word_problem, 2_000, start=vector)))
    yield Case("sleepecg, GRU(8), trained, T=1,200", partial(_sleep, 1_200))
    yield Case("medaka, GRU(128), trained, first layer, T=1,000", partial(_medaka, 1_000), False)


def _layers() -> Iterator[Case]:
    shapes = ((8, 100, 1), (8, 1_000, 1), (8, 10_000, 1), (32, 1_000, 1), (32, 10_000, 1), (32, 3_000, 8))
    for training in False, True:
        for width, length, batch in (*shapes, (64, 1_000, 32), (128, 3_000, 1)):
            name = f"layer GRU({width}), fresh, T={length:,}, batch {batch}" + (", training" if training else "")
            yield Case(name, partial(_fresh, width, length, batch, training), width <= 8)
    yield Case("layer GRU(8), sleepecg, T=1,200", partial(_sleep_layer, 1_200))
    for name, length in ("g2p", 1_000), ("medaka", 1_000), ("silero", 1_000), ("resemblyzer", 300):
        yield Case(f"layer, {name}, T={length:,}", partial(_trained, name, length), False)


def _held_out() -> Iterator[Case]:
    """Other widths, lengths, batches, seeds and cells."""
    for gain, width, length in (0.6, 16, 4_000), (0.9, 24, 3_000), (1.4, 12, 2_500):
        make = partial(problems.mean_field_rnn, gain, width, length, 5)
        yield Case(f"mean-field RNN, seed 5, g={gain}, D={width}, T={length:,}", partial(_plain, make))
    yield Case("sine GRU, seed 2, T=2,000", partial(_edge, partial(sine, 2_000, 2)))
    yield Case("Lorenz-96, seed 1, T=700", partial(_edge, partial(lorenz, 700, 1)))
    yield Case("observer, Thomas, T=6,000", partial(_flow, "Thomas", 6_000))
    yield Case("observer, ABC, T=2,500", partial(_flow, "ABC", 2_500))
    make = partial(problems.mixture_langevin, 16, 1_500, 1e-5, 3)
    yield Case("Langevin, mixture, seed 3, D=16, T=1,500", partial(_plain, make))
    yield Case("layer RNN(40), fresh, T=2,000, batch 2", partial(_fresh, 40, 2_000, 2, False, torch.nn.RNN), False)
    yield Case("layer LSTM(24), fresh, T=2,000, batch 4", partial(_fresh, 24, 2_000, 4, False, torch.nn.LSTM), False)


def _plain(make: Callable[[], problems.Problem]) -> Recurrence:
    return Recurrence(*make())


def _edge(make: Callable[[], EdgeProblem]) -> Recurrence:
    one = make()
    return Recurrence(one.f, one.s0, one.inputs, one.guess, one.rtol, one.atol)


def _flow(name: str, length: int = 10_000) -> Recurrence:
    problem = observer(FLOWS[name], rollout(FLOWS[name], length, 0.01), 0.01)
    return Recurrence(*problem, guess=flow_guess(length), rtol=0.0, atol=8e-6)


def _sleep(length: int) -> Recurrence:
    network = load_sleep(length)
    f = GRURecurrence.from_module(network.gru)
    return Recurrence(f, torch.zeros(network.gru.hidden_size), f.inputs(network.x))


def _medaka(length: int) -> Recurrence:
    network = LOADERS["medaka"](length)
    assert isinstance(network.module, torch.nn.GRU)
    f = GRURecurrence.from_module(network.module)
    return Recurrence(f, torch.zeros(128), f.inputs(network.x))


def _fresh(width: int, length: int, batch: int, training: bool, kind: type[torch.nn.RNNBase] = torch.nn.GRU) -> Layer:
    torch.manual_seed(0)
    return Layer(kind(width, width), torch.randn(length, batch, width), training)  # pyright: ignore[reportCallIssue]


def _sleep_layer(length: int) -> Layer:
    network = load_sleep(length)
    return Layer(network.gru, network.x.unsqueeze(1))


def _trained(name: str, length: int) -> Layer:
    network = LOADERS[name](length)
    return Layer(network.module, network.x.unsqueeze(1))
