"""`Auto`: the strategy that chooses a method while it solves."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.auto.race import Race
from lds_iter.auto.solving import Solving
from lds_iter.auto.table import Table
from lds_iter.loop.state import AbstractStrategy, LoopOptions, LoopState, Observer, Problem
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.newton import Newton
from lds_iter.methods.picard import Picard
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.methods.trust_region import TrustRegion

CONTENDERS = Newton(), QuasiNewton(), Picard(), TrustRegion(Newton())
"""The default contenders in the order of trial: fewest iterations first, the one for unstable recurrences last."""


def wall_clock(like: Tensor) -> float:
    """Seconds since some fixed moment, after all queued work is done.

    Args:
        like: a tensor of the device whose work it is.
    """
    if like.device.type != "cpu":
        torch.accelerator.synchronize(like.device)
    return time.perf_counter()


@dataclass(frozen=True)
class Auto(AbstractStrategy):
    """Choose the method while solving: a race with deadlines.

    1. A recurrence with compiled steps is evaluated by them: nothing is faster on a CPU. Fewer than 120 rows are
       evaluated step by step too.
    2. The first solve of a kind (code of `f`, shapes, device) times a few sequential steps, and tries the contenders in
       their order, each in a short window first. What gets on is given all rows, what does not is given up at its
       deadline; accepted rows are kept, and the rest goes step by step. Later solves try those that are left.
    3. From then on the winner runs, as the fixed method would run. When it takes 1.3 times its record twice in a row,
       all contenders are new again.

    A solve loses at most `budget` of the time of step-by-step evaluation, and an iteration, on what shows no progress;
    on what shows progress and then fails, at most the time of the fastest way known.

    Results are as exact as with any method. Which one found them depends on measured times; `Solution.decisions` tells.
    Threads may share an object. Deep copies, and objects from a pickle, know nothing yet.

    Attributes:
        contenders: the methods, in the order in which they are tried, besides step-by-step evaluation.
        budget: share of the time of step-by-step evaluation that may be lost in one solve, in (0, 1].
        clock: gives seconds, as `wall_clock` does.

    Raises:
        TypeError, ValueError: for arguments that cannot work.

    Example:
        >>> auto = li.Auto((li.Newton(), li.Picard()))
        >>> li.solve(lambda s, u: 0.5 * s.tanh() + u, torch.zeros(2), torch.ones(500, 2), auto).converged
        True
    """

    contenders: tuple[LDSApproximation, ...] = CONTENDERS
    budget: float = 0.1
    clock: Callable[[Tensor], float] = wall_clock
    _base: tuple[str, Callable[[], Any] | None] = field(default=("step by step", None), init=False, compare=False)
    _table: Table = field(default_factory=Table, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        some = isinstance(self.contenders, tuple) and bool(self.contenders)
        if not some or not all(isinstance(method, LDSApproximation) for method in self.contenders):
            raise TypeError(
                f"`contenders` must be a tuple of methods, with at least one, got {self.contenders!r}. Type "
                "`li.Auto((li.Newton(), li.Picard()))`."
            )
        if isinstance(self.budget, bool) or not isinstance(self.budget, int | float) or not 0 < self.budget <= 1:
            raise ValueError(f"`budget` must lie in (0, 1], a share of the time step by step, got {self.budget!r}.")
        if not callable(self.clock):
            raise TypeError(f"`clock` must be a function of a tensor such as li.auto.wall_clock, got {self.clock!r}.")

    def run(self, problem: Problem, guess: Tensor, options: LoopOptions, observers: Sequence[Observer]) -> LoopState:
        """Solve a problem whose arguments have been checked, from a guess `(T, *batch, D)`."""
        solving = Solving(self.contenders, self.clock, problem, guess, options, observers, *self._base)
        return Race(solving, self.budget, self._table).run()

    def beside(self, name: str = "step by step", kernel: Callable[[], Any] | None = None) -> Auto:
        """The same strategy, which learns with this one, with a kernel in place of step-by-step evaluation.

        While contenders are still to be tried the kernel is called to be timed, and its answer is not looked at. Where
        it is to answer the results are `STOPPED`; so they are where `max_iters` has ended a sequence.

        Args:
            name: of the kernel in decisions; problems beside kernels of different names are of different kinds.
            kernel: evaluates the sequence, such as cuDNN's for a GRU.
        """
        strategy = copy.copy(self)
        object.__setattr__(strategy, "_base", (name, kernel))
        return strategy

    def for_adjoint(self) -> Auto:
        """The same without a kernel: the recurrence of a gradient is a kind of its own, which no kernel computes."""
        return self.beside()
