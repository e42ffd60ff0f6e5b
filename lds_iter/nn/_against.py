"""`Auto` with torch's kernel in place of steps: whether to solve a layer and direction, or leave it to the kernel."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lds_iter.auto import Auto
from lds_iter.auto.arms import Outside
from lds_iter.auto.choosing import GAIN, best, options, settled
from lds_iter.auto.course import Course
from lds_iter.auto.driver import Driver
from lds_iter.auto.estimates import forgets, least
from lds_iter.auto.head_start import promising
from lds_iter.auto.looking import ask_for_sweeps, look_at_rows, rows_of, time_operations, time_rows
from lds_iter.loop.state import AbstractStrategy, Problem, Rules, Workspace
from lds_iter.methods.base import LDSApproximation
from lds_iter.nn._kernel import OPERATIONS, Kernel
from lds_iter.nn._stopped import LARGE, UNTIMED, stopped, too_long
from lds_iter.nn._weights import layer_weights
from lds_iter.solution import Solution

RETIMED = (2, 8, 32, 128)
"""Solves before which the kernel is timed again where a solve is known to work: its first run may have been slow."""

FORWARD, TRAINING = "forward", "training"
"""What costs are kept apart by."""

BACKWARD, DIRECT = 3.0, 1.6
"""Forward and backward of a parallel solve in units of its forward: the adjoint is a second solve, and one product with
all derivatives of `f` comes on top. `docs/background/map.md` has 2.5 to 3.5. And where the recurrence solves its
adjoint directly, in compiled code: 1.2 to 1.65 for widths of 8 to 128."""

CHECKS = 8
"""Calls of `f` that a solve takes beside its iterations: inputs, checks of the arguments, and room to work in."""

WIDE = 1 << 14
"""Products of the numbers of all states of a time step with the width of one above which the arithmetic of as many
iterations as fresh networks take is more than what a kernel dispatches."""

LEAST = 2.0
"""What a step of torch's GRU or RNN takes at most on a small state, in units of the least that it could: beyond that
a solve cannot be faster, and up to there a few steps of the kernel are worth timing."""

TRAINED = 1.0
"""Size of recurrent weights (see `Kernel.size`) above which nothing is certain. Torch begins with 0.58; the trained
networks of `bench.trained` have 1.8 to 5.9, those of 8 units in `recipes.pretrained` 0.7."""


class First(enum.Enum):
    """What comes first where torch's kernel was not timed yet: a solve that is certain to be faster, even beside the
    least that the kernel could take; the kernel, which is timed by that; or timing a sample of its steps."""

    SOLVE = enum.auto()
    KERNEL = enum.auto()
    TIMING = enum.auto()


@dataclass(frozen=True)
class Against(AbstractStrategy):
    """`Auto`, with a kernel in place of steps: it ends with `Result.STOPPED` where the kernel is to take over.

    Attributes:
        auto: the strategy.
        kernel: torch's.
        x: its input, `(T, B, D_in)`.
        start: the states before the first step.
        training: whether its backward pass counts too.
        place: number of layer and direction.
    """

    auto: Auto
    kernel: Kernel
    x: Tensor
    start: tuple[Tensor, ...]
    training: bool
    place: int = 0

    def run(self, problem: Problem, guess: Tensor, rules: Rules) -> Workspace:
        """Solve, or stop."""
        return Driver(self.auto, problem, guess, rules, self._outside(problem)).run()

    def answer(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the kernel makes of it, timed where it was not yet, which costs nothing then."""
        answer = partial(self.kernel, self.x, self.start)
        if self.training or self._known() is not None:
            return answer()
        return timed([self], answer)

    def comes_first(self) -> bool:
        """Whether the kernel answers the first forward in any case: it cannot be outrun without having been timed, and
        is as fast then as ever. One of an accelerator warms up, which would be no measurement."""
        slow = self.training or self.x.device.type != "cpu" or self.kernel.least(1.0, False) > 0
        return not slow and self._known() is None

    def declines(self, problem: Problem, inputs: Callable[[int], Any], window: int | None) -> Solution | None:
        """Whether to leave it to the kernel without a solve, whose preparation alone would cost too much: a stop.

        Args:
            problem: without inputs.
            inputs: of its first rows, given how many.
            window: of the solve.
        """
        length = problem.length
        rules = Rules(0.0, 0.0, length, min(length, window or length), False, ())
        costs = self.auto.costs.of(problem, TRAINING if self.training else FORWARD)
        course = Course(self.auto, problem, rules, Outside(0.0, ""), costs)
        if settled(course) is not None:
            if costs.solves in RETIMED:
                self.kernel.time(self.auto, self.x, self.start, self.training)
            return None
        with torch.no_grad():
            first = First.TIMING if self._known() is not None else self._untimed(course, inputs)
            if first is First.TIMING:
                return self._timed(course, inputs)
        return None if first is First.SOLVE else stopped(problem, UNTIMED)

    def _untimed(self, course: Course, inputs: Callable[[int], Any]) -> First:
        """Before the kernel was timed."""
        costs, s0 = course.costs, course.problem.s0
        if self.kernel.least(1.0, self.training) == 0:
            return First.KERNEL if self.comes_first() else First.TIMING
        course.outside = self._outside(course.problem)
        if promising(course) is not None:
            return First.SOLVE
        if self.training:
            return First.TIMING
        if s0.numel() * s0.shape[-1] > WIDE or self._seems_trained():
            return First.KERNEL
        time_operations(course, s0)
        look_at_rows(course, *_rows(s0, inputs, rows_of(course)))
        course.outside = self._outside(course.problem)
        costs.step = course.outside.step
        if least(course) > LEAST * course.length * costs.step:
            return First.KERNEL
        ask_for_sweeps(course, *_rows(s0, inputs, 1))
        course.parallel += CHECKS * (costs.call or 0.0)
        return First.TIMING if best(options(course, None)).arm is None else First.SOLVE

    def _timed(self, course: Course, inputs: Callable[[int], Any]) -> Solution | None:
        """With the kernel timed, now or earlier: whether a solve should take less."""
        costs, problem, length = course.costs, course.problem, course.length
        if costs.call is None or self.auto.costs.idle:  # once a forward that decides: the least counts
            time_rows(course, *_rows(problem.s0, inputs, rows_of(course)))
        assert costs.call is not None
        most, hope = length * costs.call * (BACKWARD if self.training else 1.0), least(course)
        if self._known() is None and GAIN * most < hope:
            return stopped(problem, too_long(hope))
        self.kernel.step(self.auto, self.x, self.start, self.training)
        course.outside = self._outside(problem)
        costs.step = course.outside.step
        course.earn(self.auto.costs.idle)
        self.auto.costs.idle = 0
        unspent = costs.credit > 0
        # In training a step of the kernel takes longer the more there are, so that a sample of them is a low estimate.
        sure = unspent or self.training or forgets(costs)
        if length * costs.step < (hope if sure else hope / GAIN):
            return stopped(problem, too_long(hope))
        if not sure and self._seems_trained():
            return stopped(problem, LARGE)
        ask_for_sweeps(course, *_rows(problem.s0, inputs, 1))
        course.parallel += CHECKS * costs.call
        choice = best(options(course, None))
        return stopped(problem, too_long(hope)) if choice.arm is None else None

    def _seems_trained(self) -> bool:
        return self.kernel.size() > TRAINED

    def _known(self) -> float | None:
        return self.kernel.known(self.auto, self.x, self.start, self.training)

    def _outside(self, problem: Problem) -> Outside:
        """The kernel, with what a step of it takes, or the least that it could take before it was timed."""
        kind = TRAINING if self.training else FORWARD
        share = (DIRECT if hasattr(problem.f, "adjoint") else BACKWARD) if self.training else 1.0
        known, place = self._known(), (id(self.kernel.module), self.place)
        if known is not None:
            return Outside(known / share, kind, self.training, place=place)
        time = partial(self.kernel.time, self.auto, self.x, self.start, self.training)
        costs = self.auto.costs.of(problem, kind)
        step = self.kernel.least(costs.operation, self.training) + (costs.row or 0.0)
        return Outside(step / share, kind, self.training, lambda: time() / share, place)

    def for_adjoint(self) -> AbstractStrategy:
        """The backward pass has no kernel of its own to go to."""
        return self.auto


def untimed_kernels(
    module: torch.nn.RNNBase, method: LDSApproximation | AbstractStrategy, input: Any, states: tuple[Tensor, ...]
) -> list[Against]:
    """Every layer and direction of a module against its kernel, where all of them answer first, before a decision.

    Args:
        module: a layer of `torch.nn`.
        method: its own.
        input: its own.
        states: initial h, and c for an LSTM, `(layers * directions, B, D)`.
    """
    if not isinstance(method, Auto) or not isinstance(input, Tensor) or input.dtype.itemsize < 4:
        return []
    if isinstance(module, tuple(OPERATIONS)):
        return []
    # What a later layer reads is known by its shape alone, which is all that is needed.
    x = input.unsqueeze(1) if input.dim() == 2 else input.transpose(0, 1) if module.batch_first else input
    directions, found = 2 if module.bidirectional else 1, []
    for place in range(module.num_layers * directions):
        kernel = Kernel(module, layer_weights(module, place // directions, bool(place % directions)))
        start = tuple(state[place] for state in states)
        found.append(Against(method, kernel, x, start, kernel.training(x)))
        if place % directions == directions - 1:
            x = x.new_empty(1, 1, 1).expand(*x.shape[:2], directions * (module.proj_size or module.hidden_size))
    return found if all(one.comes_first() for one in found) else []


def timed(kernels: list[Against], answer: Callable[[], Any]) -> Any:
    """What some kernels answer to the whole input without a gradient, and their time taken in passing, each one's
    share by the size of its weights."""
    first = kernels[0]
    begin = first.auto.clock.now(first.x)
    output = answer()
    seconds = (first.auto.clock.now(first.x) - begin) / first.x.shape[0]
    sizes = [sum(weight.numel() for weight in one.kernel.weights.values()) for one in kernels]
    for one, size in zip(kernels, sizes, strict=True):
        one.kernel.note(one.auto, one.x, one.start, False, seconds * size / sum(sizes))
    return output


def _rows(s0: Tensor, inputs: Callable[[int], Any], count: int) -> tuple[Tensor, Any]:
    """States and inputs of the first rows."""
    return s0.expand(count, *s0.shape).contiguous(), inputs(count)
