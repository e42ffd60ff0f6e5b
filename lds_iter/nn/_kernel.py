"""Torch's own kernel for one layer and direction: what `Auto` goes to where parallel evaluation does not pay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.auto import Auto
from lds_iter.auto.costs import Key
from lds_iter.nn._weights import NAMES

WARM, FEWEST, MOST, PART = 2, 6, 32, 64
"""Time steps of the runs that warm up, and of the one that is timed: as many as T holds this part, within limits."""

GROWTH = {torch.nn.GRU: 1.25}
"""A step in training on a CPU, forward and backward, in units of one of the few that are timed: what a whole sequence
keeps for its backward pass leaves the caches. Measured at 1.2 to 1.3 for T = 1,000 and widths of 8 to 128, and at 2.3
for T = 10,000; for the other kernels at 1.0 to 1.1."""

FLOOR = 0.25
"""A step is taken to cost at least this part of its share of the whole run: the difference of two is uncertain."""

OPERATIONS = {torch.nn.GRU: 6.5, torch.nn.RNN: 2.0}
OPERATIONS_IN_TRAINING = {torch.nn.GRU: 40.0, torch.nn.RNN: 20.0}
"""What a step of the kernel dispatches on a CPU at least, in operations of torch on a few numbers, forward alone and
with its backward pass; measured at 7 and 2.6, 57 and 30. One kernel for all steps, as oneDNN's for an LSTM and those of
accelerators, has no such least."""

BANDWIDTH = 1e11
"""Bytes a second: no core reads its weights faster, as it does in every step."""


@dataclass(frozen=True)
class Kernel:
    """One layer and direction: `kind` and `nonlinearity` as torch names them, weights by their names."""

    module: torch.nn.RNNBase
    weights: dict[str, Tensor]

    def __call__(self, x: Tensor, start: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output `(T, B, D)` and the final states `(B, D)`, as torch computes them."""
        biases = "bias_ih" in self.weights
        weights = [self.weights[name] for name in NAMES if name in self.weights]
        first = tuple(state.unsqueeze(0).contiguous() for state in start)
        rest = (weights, biases, 1, 0.0, self.module.training, False, False)
        if isinstance(self.module, torch.nn.LSTM):
            output, h, c = torch.lstm(x, first, *rest)
            return output, (h[0], c[0])
        output, h = self._plain()(x, first[0], *rest)
        return output, (h[0],)

    def _plain(self) -> Callable[..., Any]:
        if isinstance(self.module, torch.nn.GRU):
            return torch.gru
        return torch.rnn_tanh if getattr(self.module, "nonlinearity", "tanh") == "tanh" else torch.rnn_relu

    def least(self, operation: float, training: bool) -> float:
        """Seconds that a step takes at least, when an operation of torch takes so many; 0 where nothing is known."""
        weight = self.weights["weight_hh"]
        table = OPERATIONS_IN_TRAINING if training else OPERATIONS
        count = next((count for kind, count in table.items() if isinstance(self.module, kind)), 0.0)
        if count == 0.0 or weight.device.type != "cpu":
            return 0.0
        return count * operation + weight.numel() * weight.element_size() / BANDWIDTH

    def size(self) -> float:
        """Of the recurrent weights: the root mean square by which they enlarge a state of random numbers."""
        weight = self.weights["weight_hh"]
        return float(weight.detach().square().mean()) ** 0.5 * math.sqrt(weight.shape[1])

    def known(self, auto: Auto, x: Tensor, start: tuple[Tensor, ...], training: bool) -> float | None:
        """Seconds of a time step, with its share of the backward pass in training; None before it was timed."""
        return auto.costs.kernels.get(self._key(x, start, training))

    def step(self, auto: Auto, x: Tensor, start: tuple[Tensor, ...], training: bool) -> float:
        """The same, timed when first asked for."""
        known = self.known(auto, x, start, training)
        return self.time(auto, x, start, training) if known is None else known

    def time(self, auto: Auto, x: Tensor, start: tuple[Tensor, ...], training: bool) -> float:
        """The same, timed anew; the least counts."""
        steps = max(FEWEST, min(MOST, x.shape[0] // PART))
        return self.note(auto, x, start, training, self._measure(auto, x[:steps].detach(), start, training))

    def note(self, auto: Auto, x: Tensor, start: tuple[Tensor, ...], training: bool, seconds: float) -> float:
        """Keep what a time step took, if it is the least."""
        key = self._key(x, start, training)
        auto.costs.kernels[key] = min(seconds, auto.costs.kernels.get(key, math.inf))
        return auto.costs.kernels[key]

    def _key(self, x: Tensor, start: tuple[Tensor, ...], training: bool) -> Key:
        kind = (type(self.module).__name__, x.shape[1:], start[0].shape, str(x.dtype), x.device.type, training)
        return (*kind, torch.get_num_threads())

    def training(self, x: Tensor) -> bool:
        """Whether a gradient will be wanted."""
        return torch.is_grad_enabled() and (x.requires_grad or any(w.requires_grad for w in self.weights.values()))

    def _measure(self, auto: Auto, x: Tensor, start: tuple[Tensor, ...], training: bool) -> float:
        start = tuple(state.detach() for state in start)
        leaves = [weight for weight in self.weights.values() if weight.requires_grad]
        taken = []
        for part in x[:WARM], x, x[:WARM]:  # the first run warms up; the last tells what a call costs beside its steps
            begin = auto.clock.now(x)
            with torch.set_grad_enabled(training):
                output, _ = self(part, start)
                if training and leaves:
                    torch.autograd.grad(output.sum(), leaves)
            taken.append(auto.clock.now(x) - begin)
        step = max((taken[1] - taken[2]) / (x.shape[0] - WARM), FLOOR * taken[1] / x.shape[0])
        growing = training and x.device.type == "cpu"
        return step * next((by for kind, by in GROWTH.items() if growing and isinstance(self.module, kind)), 1.0)
