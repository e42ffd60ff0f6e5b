"""What a solve returns."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from torch import Tensor


@dataclass(frozen=True)
class Decision:
    """One decision of a strategy such as `Auto`; print it.

    Attributes:
        count: how many evaluations along the guess came before.
        row: how many rows of the slowest sequence were accepted by then.
        choice: what it went on with.
        why: the reason, in words, with the figures that it went by.
        projected: seconds that the choice was expected to take from there on; None where nothing was measured.
        sequential: seconds that step-by-step evaluation was expected to take from there on; None likewise.
    """

    count: int
    row: int
    choice: str
    why: str
    projected: float | None = None
    sequential: float | None = None

    def __str__(self) -> str:
        text = f"evaluation {self.count}, row {self.row}: {self.choice}, since {self.why}"
        if self.projected is None or self.sequential is None:
            return text
        return f"{text} (to go: {duration(self.projected)}; step by step {duration(self.sequential)})"


class Result(enum.IntEnum):
    """How the solve of one sequence ended."""

    RUNNING = -1
    """Not ended yet; never returned."""
    SUCCESS = 0
    """The residual is within tolerance at every time."""
    MAX_ITERS = 1
    """`max_iters` iterations were not enough."""
    NONFINITE = 2
    """`f` returned inf or NaN from a state that is exact: step-by-step evaluation would do the same."""
    STOPPED = 3
    """The `stop` rule of the solve ended it."""


@dataclass(frozen=True)
class Progress:
    """What a callback sees: one iterate, with its own residual. Every field is a copy.

    Reading a tensor of an accelerator waits for it.

    Attributes:
        count: evaluations of `f` along the guess before this one.
        iterations: updates that led to this iterate, per sequence, `(*batch)`.
        accepted: rows that will not move any more, per sequence, `(*batch)`.
        residual: the largest residual in the rows at hand, per sequence, `(*batch)`; NaN when `stepped`.
        result: the `Result` codes, `Result.RUNNING` while it goes on, `(*batch)`.
        resets: proposed rows that were not finite and were replaced so far, per sequence, `(*batch)`.
        carry: what the method remembers, of the method's own type.
        stepped: whether sequential steps led to this iterate, which `Auto` may take. They are exact, and neither
            residual nor update of the rows behind them is known.
    """

    count: int
    iterations: Tensor
    accepted: Tensor
    residual: Tensor
    result: Tensor
    resets: Tensor
    carry: Any
    _states: Callable[[], Tensor]
    _update: Callable[[], Tensor]
    stepped: bool = False

    @property
    def states(self) -> Tensor:
        """The states of this iterate, `(T, *batch, D)`."""
        return self._states()

    @property
    def update(self) -> Tensor:
        """The update `d` proposed from it, `(T, *batch, D)`; zero where nothing is to move, NaN when `stepped`."""
        return self._update()


@dataclass(frozen=True)
class History:
    """The solve, iterate by iterate (the guess first), as `record=True` keeps it, on the CPU.

    Attributes:
        residual: the largest residual of the rows evaluated, `(iterations, *batch)`; the last entry is the solution's.
        residual_map: the largest residual at each time, `(iterations, T, *batch)`; NaN where a window has not been yet.
        accepted: how many rows the frontier has passed, `(sweeps, *batch)`.
        resets: proposed rows that were not finite and were replaced by then, `(sweeps, *batch)`.
        numbers: the method's own numbers, those of its carry that have one value per sequence, by their name in it:
            `(sweeps, *batch)` in float64, NaN where there was none yet. `k`, `rejected` and more of a `TrustRegion`.
    """

    residual: Tensor
    residual_map: Tensor
    accepted: Tensor
    resets: Tensor
    numbers: dict[str, Tensor]


@dataclass(frozen=True)
class AdjointCounts:
    """How the gradient of one backward pass was solved, per sequence, `(*batch)`.

    Attributes:
        iterations: updates of the adjoint recurrence.
        residual: its largest residual at the end, in units of the largest incoming gradient of the sequence.
        result: `Result` codes.
    """

    iterations: Tensor
    residual: Tensor
    result: Tensor


@dataclass(frozen=True)
class Solution:
    """The trajectory and how it was found. Every field belongs to the same iterate; per sequence means `(*batch)`.

    Attributes:
        states: `s_1 .. s_T`, `(T, *batch, D)`.
        result: `Result` codes, int64, per sequence.
        iterations: updates made, per sequence; 0 when the guess was the solution already.
        residual: the largest `|f(s_{t-1}, u_t) - s_t|`, per sequence. A small residual is not a small error where `f`
            amplifies: see `error_estimate`. When a window stopped early, it is that of the rows it had reached; NaN
            when a rule ended sequential steps, which do not measure the rows behind them.
        history: see `History`; None unless `record=True`.
        evaluations: rows (time steps) of `f` evaluated from the frontier on, per sequence; step-by-step evaluation
            takes T. Derivatives are not counted.
        resets: rows of a proposal that were not finite and were replaced by the value of `f` (by `s0` where that is
            not finite either), per sequence.
        carry: what the method remembers at the end, of the method's own type (`Trust` for a `TrustRegion`, with its
            rejected iterations); None for most methods.
        decisions: what a strategy such as `Auto` decided and why, in order, and by what way derivatives were computed
            where `f` refuses forward mode; print them. Else empty for a method.
    """

    states: Tensor
    result: Tensor
    iterations: Tensor
    residual: Tensor
    history: History | None
    evaluations: Tensor
    resets: Tensor
    carry: Any
    decisions: tuple[Decision, ...]
    _estimate: Callable[[Any], Tensor]

    @property
    def failed(self) -> bool:
        """Whether some sequence ended with `MAX_ITERS` or `NONFINITE`; `solve` raises then, unless `throw=False`."""
        return bool(((self.result == Result.MAX_ITERS) | (self.result == Result.NONFINITE)).any())

    @property
    def converged(self) -> bool:
        """Whether every sequence ended with `Result.SUCCESS`."""
        return bool((self.result == Result.SUCCESS).all())

    @property
    def adjoints(self) -> tuple[AdjointCounts, ...]:
        """The counts of each backward pass through `states` so far, by `Implicit`.

        Empty before the first one; where the recurrence solves its adjoint directly or by a compiled iteration; and for
        a solution that is light or was pickled.
        """
        return tuple(getattr(self.states.grad_fn, "counts", ()))

    def error_estimate(self, method: Any = None) -> Tensor:
        """How far the states still are from the sequential trajectory, to first order: `d_t = A_t d_{t-1} + r_t`.

        Near-identity and expanding recurrences turn a small residual into a large error; one more scan shows it. With
        the full Jacobian (the default) what is left out is of second order in the error itself.

        Args:
            method: whose transition to use; `Newton()` when None. `QuasiNewton()` is cheaper for wide states.

        Returns:
            The estimate of `s_true - states`, signed, `(T, *batch, D)`; its largest absolute value is the error to
            expect, and `states` plus the estimate is the better trajectory.
        """
        return self._estimate(method)

    def light(self) -> Solution:
        """The same without a graph, the method's memory, and the inputs that `error_estimate` would need: to keep."""
        return replace(self, states=self.states.detach(), carry=None, _estimate=no_estimate)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_estimate": no_estimate}

    def __repr__(self) -> str:
        names = [Result(int(code)).name for code in self.result.unique()]
        return (
            f"Solution(states={tuple(self.states.shape)}, result={'/'.join(names)}, "
            f"iterations={_span(self.iterations)}, residual={float(self.residual.max()):.3g}, "
            f"resets={int(self.resets.sum())})"
        )


def no_estimate(_: Any) -> NoReturn:
    """In place of the estimate of a solution that has nothing to estimate with."""
    raise RuntimeError(
        "This solution has been made light or was pickled, or is a layer's `last_solution`: it has no inputs to "
        "estimate an error with. Solve the recurrence itself, for a layer "
        "f = li.nn.GRURecurrence.from_module(layer) and li.solve(f, h0, f.inputs(x)).error_estimate()."
    )


def _span(counts: Tensor) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low}..{high}"


def duration(seconds: float) -> str:
    """Seconds for a reader."""
    for size, unit in (1.0, "s"), (1e-3, "ms"):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
