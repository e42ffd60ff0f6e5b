"""Torch's own kernel for one layer and direction: what `Auto` goes to where parallel evaluation does not pay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.auto import Auto
from lds_iter.auto.arms import Outside
from lds_iter.auto.choosing import GAIN, best, options, settled
from lds_iter.auto.costs import Key
from lds_iter.auto.course import Course
from lds_iter.auto.driver import STEPWISE, Driver
from lds_iter.auto.estimates import least
from lds_iter.auto.looking import ask_for_sweeps, rows_of, time_rows
from lds_iter.decisions import Decision, duration
from lds_iter.nn._weights import NAMES
from lds_iter.solution import Result, Solution, no_estimate
from lds_iter.workspace import AbstractStrategy, Problem, Rules, Workspace

RETIMED = (2, 8, 32, 128)
"""Solves before which the kernel is timed again where a solve is known to work: its first run may have been slow."""

WARM, FEWEST, MOST, PART = 2, 6, 32, 64
"""Time steps of the runs that warm up, and of the one that is timed: as many as T holds this part, within limits."""

FLOOR = 0.25
"""A step is taken to cost at least this part of its share of the whole run: the difference of two is uncertain."""

FORWARD, TRAINING = "forward", "training"
"""What costs are kept apart by."""

BACKWARD, DIRECT = 3.0, 2.0
"""Forward and backward of a parallel solve in units of its forward: the adjoint is a second solve, and one product with
all derivatives of `f` comes on top. `docs/background/map.md` has 2.5 to 3.5. And where the recurrence solves its
adjoint directly, in compiled code; `python -m bench.auto` has 1.9 to 2.2."""

CHECKS = 8
"""Calls of `f` that a solve takes beside its iterations: inputs, checks of the arguments, and room to work in."""

SHORTEST, SHORTEST_IN_TRAINING = 200, 64
"""Up to so many time steps the kernel answers at once: the few iterations of a solve cost as much in overhead alone, a
few hundred operations, where a step of the kernel is one; with its backward pass, several."""


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

    def step(self, auto: Auto, x: Tensor, start: tuple[Tensor, ...], training: bool) -> float:
        """Seconds of a time step, with its share of the backward pass in training; timed when first asked for."""
        known = auto.costs.kernels.get(self._key(x, start, training))
        return self.time(auto, x, start, training) if known is None else known

    def time(self, auto: Auto, x: Tensor, start: tuple[Tensor, ...], training: bool) -> float:
        """The same, timed anew; the least counts."""
        key, steps = self._key(x, start, training), max(FEWEST, min(MOST, x.shape[0] // PART))
        seconds = self._measure(auto, x[:steps].detach(), start, training)
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
        return max((taken[1] - taken[2]) / (x.shape[0] - WARM), FLOOR * taken[1] / x.shape[0])


@dataclass(frozen=True)
class Against(AbstractStrategy):
    """`Auto`, with a kernel in place of steps: it ends with `Result.STOPPED` where the kernel is to take over.

    Attributes:
        auto: the strategy.
        kernel: torch's.
        x: its input, `(T, B, D_in)`.
        start: the states before the first step.
        training: whether its backward pass counts too.
    """

    auto: Auto
    kernel: Kernel
    x: Tensor
    start: tuple[Tensor, ...]
    training: bool

    def run(self, problem: Problem, guess: Tensor, rules: Rules) -> Workspace:
        """Solve, or stop."""
        return Driver(self.auto, problem, guess, rules, self._outside(problem.f)).run()

    def declines(self, problem: Problem, inputs: Callable[[int], Any], window: int | None) -> Solution | None:
        """Whether to leave it to the kernel without a solve, whose preparation alone would cost too much: a stop.

        Args:
            problem: without inputs.
            inputs: of its first rows, given how many.
            window: of the solve.
        """
        length, s0, training = problem.length, problem.s0, self.training
        rules = Rules(0.0, 0.0, length, min(length, window or length), False, ())
        costs = self.auto.costs.of(problem, TRAINING if training else FORWARD)
        course = Course(self.auto, problem, rules, Outside(0.0, ""), costs)
        if settled(course) is not None:
            if costs.solves in RETIMED:
                self.kernel.time(self.auto, self.x, self.start, training)
            return None
        if costs.call is None or self.auto.costs.idle:  # once a forward that decides: the least counts
            with torch.no_grad():
                time_rows(course, *_rows(s0, inputs, rows_of(course)))
        assert costs.call is not None
        most, hope = length * costs.call * (BACKWARD if training else 1.0), least(course)
        if costs.step is None and GAIN * most < hope:
            return _stop(s0, length, hope)
        course.outside = self._outside(problem.f)
        costs.step = course.outside.step
        course.earn(self.auto.costs.idle)
        self.auto.costs.idle = 0
        # In training a step of the kernel takes longer the more there are, so that a sample of them is a low estimate.
        if length * costs.step < (hope if costs.credit > 0 or training else hope / GAIN):
            return _stop(s0, length, hope)
        with torch.no_grad():
            ask_for_sweeps(course, *_rows(s0, inputs, 1))
        course.parallel += CHECKS * costs.call
        choice = best(options(course, None))
        return _stop(s0, length, hope) if choice.arm is None else None

    def _outside(self, f: Any) -> Outside:
        step = self.kernel.step(self.auto, self.x, self.start, self.training)
        if not self.training:
            return Outside(step, FORWARD)
        return Outside(step / (DIRECT if hasattr(f, "adjoint") else BACKWARD), TRAINING, True)

    def for_adjoint(self) -> AbstractStrategy:
        """The backward pass has no kernel of its own to go to."""
        return self.auto


def _rows(s0: Tensor, inputs: Callable[[int], Any], count: int) -> tuple[Tensor, Any]:
    """States and inputs of the first rows."""
    return s0.expand(count, *s0.shape).contiguous(), inputs(count)


def _stop(s0: Tensor, length: int, hope: float) -> Solution:
    """A solution that has not begun; `hope`: seconds that it should have taken."""
    why = f"a solve takes {duration(hope)} if all goes well, and trying would cost more than the budget"
    count = torch.zeros(s0.shape[:-1], dtype=torch.int64, device=s0.device)
    return Solution(
        states=s0.expand(length, *s0.shape),
        result=torch.full_like(count, int(Result.STOPPED)),
        iterations=count,
        residual=s0.new_full(count.shape, torch.nan),
        history=None,
        evaluations=count,
        resets=count,
        carry=None,
        decisions=(Decision(0, 0, STEPWISE, why),),
        _estimate=no_estimate,
    )


@dataclass
class Resting:
    """For how many forwards of a shape torch's kernel answers without further thought: 1, 2, 4 ... up to 64.

    The number does not grow while there is still something to find out.

    Attributes:
        shape: of the input, with whether gradients were on.
        calls: forwards to go.
        next: forwards after the next decision for the kernel.
    """

    shape: tuple[Any, ...]
    calls: int
    next: int

    @staticmethod
    def after(before: Resting | None, input: Any, solutions: list[Solution]) -> Resting | None:
        """After a forward that was decided: none, unless every layer and direction went to the kernel."""
        stopped = all(bool((solution.result == Result.STOPPED).any()) for solution in solutions)
        if not stopped or not isinstance(input, Tensor):
            return None
        shape = _shape(input)
        rest = before.next if before is not None and before.shape == shape else 1
        explored = any(bool((solution.evaluations > 0).any()) for solution in solutions)
        return Resting(shape, rest, rest if explored else min(2 * rest, 64))

    def goes_on(self, input: Tensor) -> bool:
        """Whether the kernel answers this one too; counts down."""
        if self.calls == 0 or _shape(input) != self.shape:
            return False
        self.calls -= 1
        return True


def _shape(input: Tensor) -> tuple[Any, ...]:
    return *input.shape, input.dtype, input.device, torch.is_grad_enabled()
