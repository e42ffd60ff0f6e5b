"""The catalogue: recurrences at the edge of stability, each ready to be solved.

- `sine`: the autoregressive GRU of `bench.edge.sine`, one problem per noise seed; Lyapunov exponent zero.
- `lorenz`: Lorenz-96 from ten starts on its attractor; chaotic.
- `mean_field`: the random network of `bench.common.problems` over the gain g, which turns chaotic between 1 and 1.5.
- `trained`: the networks of `bench.trained`, one problem per layer and direction; stable, and far from any simple
  guess.

The guess is always the simple one, zeros, the state before the first step; tolerances bound the residual.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import lds_iter as li
from bench.common import problems as literature
from bench.edge.lorenz import WIDTH, lorenz96, starts
from bench.edge.sine import HIDDEN, SineGRU
from lds_iter.nn.gru import GRURecurrence
from lds_iter.nn.lstm import LSTMRecurrence


@dataclass(frozen=True)
class EdgeProblem:
    """One recurrence, and how well it is to be solved.

    Attributes:
        name: what it is, with T and seed.
        f: the recurrence, `f(s, u)`.
        s0: the state before the first step, `(D,)`, or `(B, D)` for several problems solved as one batch.
        inputs: a pytree of tensors that lead with T.
        guess: where to start: a policy or states, as `li.solve` takes it.
        atol: the residual to reach, absolute.
        rtol: the same, relative to the states.
    """

    name: str
    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any
    guess: Any
    atol: float
    rtol: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        """Float32 or float64."""
        return self.s0.dtype

    def solve(self, method: li.LDSApproximation, max_iters: int | None = None) -> li.Solution:
        """Solve from the guess to the tolerance, without raising."""
        return li.solve(
            self.f,
            self.s0,
            self.inputs,
            method,
            guess=self.guess,
            rtol=self.rtol,
            atol=self.atol,
            max_iters=max_iters,
            throw=False,
        )

    def sequential(self) -> Tensor:
        """The trajectory, step by step, `(T, *batch, D)`."""
        return li.sequential(self.f, self.s0, self.inputs)


def together(problems: Sequence[EdgeProblem]) -> EdgeProblem:
    """Problems that share their recurrence and differ in start or inputs, one tensor each, as one batch.

    Sequences of a batch do not influence each other, so counts are those of solving one by one, in less time.
    """
    s0 = torch.stack([problem.s0 for problem in problems])
    return replace(problems[0], s0=s0, inputs=torch.stack([problem.inputs for problem in problems], 1))


def zeros(f: Any, s0: Tensor, inputs: Any, length: int) -> Tensor:  # noqa: ARG001
    """The guess of the papers: `s_t = 0`."""
    return torch.zeros_like(s0).expand(length, *s0.shape)


SINE_ATOL = {torch.float64: 1e-10, torch.float32: 2e-6}
"""Float32: states are of order 1 and read by weights of order 10, so their rounding alone makes residuals of 1e-6."""


def sine(length: int, seed: int, dtype: torch.dtype = torch.float64) -> EdgeProblem:
    """The sine wave, `length` steps long, driven by the noise of a seed (the same numbers in both dtypes)."""
    noise = torch.randn(length, 1, generator=torch.Generator().manual_seed(seed))
    return EdgeProblem(
        name=f"sine, T={length:,}, seed {seed}",
        f=SineGRU.trained(dtype),
        s0=torch.zeros(1 + HIDDEN, dtype=dtype),
        inputs=noise.to(dtype),
        guess=zeros,
        atol=SINE_ATOL[dtype],
    )


LORENZ_ATOL = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Float32: states reach 12, whose rounding is 1e-6."""


def lorenz(length: int, start: int, dtype: torch.dtype = torch.float64) -> EdgeProblem:
    """Lorenz-96 from one of ten starts; the source's sequences of 1,000 have 999 unknown states, the first is given."""
    s0 = starts(10)[start].to(dtype)
    return EdgeProblem(
        name=f"Lorenz-96, T={length:,}, start {start}",
        f=lorenz96,
        s0=s0,
        inputs=torch.zeros(length - 1, WIDTH, dtype=dtype),
        guess=zeros,
        atol=LORENZ_ATOL[dtype],
    )


def mean_field(gain: float, seed: int) -> EdgeProblem:
    """The mean-field RNN, D = 100, T = 1,000, float64, from the source's random guess and to its tolerance."""
    f, s0, inputs = literature.mean_field_rnn(gain, seed=seed)
    # |r| <= atol everywhere implies the source's mean merit, D atol^2 / 2 <= 1e-10.
    guess, atol = literature.uniform_guess(seed), (2e-10 / 100) ** 0.5
    return EdgeProblem(f"mean-field RNN, g={gain:g}, T=1,000, seed {seed}", f, s0, inputs, guess, atol)


TRAINED_ATOL = 1e-5
"""The absolute part of the default of `li.solve` in float32; states are of order 1, an LSTM's cells up to 100."""
TRAINED_RTOL = 1e-5
"""The relative part, which the cells of an LSTM need: at 100 their rounding alone is 1e-5."""


def trained(name: str, length: int, stretch: int = 0) -> Iterator[EdgeProblem]:
    """Every layer and direction of a trained network, reading what torch's layer below puts out.

    Args:
        name: of the network.
        length: T.
        stretch: which `length` steps of a longer input to read, counted from 0.
    """
    from bench.trained import LOADERS  # their packages may not be there, and the other problems need none

    network = LOADERS[name]((stretch + 1) * length)
    module, x = network.module, network.x[-length:]
    ways = (False, True)[: 2 if module.bidirectional else 1]
    for layer in range(module.num_layers):
        outputs = []
        for backward in ways:
            where = f"{name}, T={length:,}, layer {layer}{', backward' if backward else ''}"
            problem, read = _layer(where, module, layer, backward, x.flip(0) if backward else x)
            yield problem
            output = read(problem.sequential())
            outputs.append(output.flip(0) if backward else output)
        x = torch.cat(outputs, -1)


def _layer(
    name: str, module: nn.GRU | nn.LSTM, layer: int, backward: bool, x: Tensor
) -> tuple[EdgeProblem, Callable[[Tensor], Tensor]]:
    """One layer and direction as a problem, and how to read its output off its states."""
    if isinstance(module, nn.GRU):
        gru = GRURecurrence.from_module(module, layer, backward=backward)
        s0 = torch.zeros(module.hidden_size)
        return EdgeProblem(name, gru, s0, gru.inputs(x), zeros, TRAINED_ATOL, TRAINED_RTOL), lambda states: states
    lstm = LSTMRecurrence.from_module(module, layer, backward=backward)
    s0 = torch.zeros(2 * module.hidden_size)
    return EdgeProblem(name, lstm, s0, lstm.inputs(x), zeros, TRAINED_ATOL, TRAINED_RTOL), lambda states: lstm.unpack(
        states
    )[0]


@dataclass(frozen=True)
class Family:
    """Problems that differ in a seed alone, or in layer and direction.

    Attributes:
        name: for a table.
        members: yields the problems; the argument says how many seeds at most.
        published: what the sources report, by the first words of a method's name.
        wide: whether an iteration of a dense method takes seconds, so that fewer settings are tried.
    """

    name: str
    members: Callable[[int], Iterator[EdgeProblem]]
    published: dict[str, str]
    wide: bool = False


def _batched(build: Callable[[int], EdgeProblem], most: int, first: int, count: int) -> Iterator[EdgeProblem]:
    yield together([build(seed) for seed in range(first, first + min(count, most))])


def _each(build: Callable[[int], EdgeProblem], most: int, count: int) -> Iterator[EdgeProblem]:
    for seed in range(min(count, most)):
        yield build(seed)


def _every(name: str, length: int, count: int) -> Iterator[EdgeProblem]:
    yield from itertools.islice(trained(name, length), count)


def _stretches(name: str, length: int, count: int) -> Iterator[EdgeProblem]:
    """What no other row reads: stretches 1 to 10 of one long input."""
    for stretch in range(1, 1 + min(count, 10)):
        yield from trained(name, length, stretch)


def families() -> Iterator[Family]:
    """The catalogue, the quick ones first."""
    from bench.trained import CASES

    for length in 1_000, 10_000:
        for dtype in torch.float64, torch.float32:
            build = partial(sine, length, dtype=dtype)
            name = f"sine, T={length:,}, {str(dtype).removeprefix('torch.')}"
            yield Family(name, partial(_batched, build, 20, 1), SINE_PUBLISHED[length])
    for dtype in torch.float64, torch.float32:
        build = partial(lorenz, 1_000, dtype=dtype)
        name = f"Lorenz-96, T=1,000, {str(dtype).removeprefix('torch.')}"
        yield Family(name, partial(_batched, build, 10, 0), LORENZ_PUBLISHED)
    for gain, published in MEAN_FIELD_PUBLISHED.items():
        members = partial(_each, partial(mean_field, gain), 10)
        yield Family(f"mean-field RNN, g={gain:g}, T=1,000", members, published, wide=True)
    for name, length in CASES:
        yield Family(f"{name}, T={length:,}", partial(_every, name, length), {}, wide=True)
    for name, length in STRETCHED:
        yield Family(f"{name}, T={length:,}, ten stretches", partial(_stretches, name, length), {}, wide=True)


STRETCHED = ("g2p", 300), ("silero", 300), ("medaka", 1_000)
"""Trained networks have no noise seed; these are cheap enough to read ten other stretches of their inputs."""


SINE_PUBLISHED = {
    1_000: {"Newton": "365-386", "LevenbergMarquardt": "24 (ELK)", "Damped": "15 (k=.01)"},
    10_000: {
        "Newton": "4449",
        "QuasiNewton": "7383",
        "LevenbergMarquardt": "172 (ELK)",
        "Diagonal": "1566 (quasi-ELK)",
        "Damped": "160-195 (k=.02)",
    },
}
"""Their weights, not these: the same kind of network, trained to the same task."""
LORENZ_PUBLISHED = {"Newton": "105-115", "QuasiNewton": "190-215", "LevenbergMarquardt": "180-195 (ELK, 300)"}
MEAN_FIELD_PUBLISHED = {
    0.8: {"Newton": "4", "QuasiNewton": "63"},
    1.0: {"Newton": "7", "QuasiNewton": "939"},
    1.2: {"Newton": "32"},
    1.5: {"Newton": "186"},
    1.8: {"Newton": "658"},
}
