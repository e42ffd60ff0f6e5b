"""Lyapunov exponents of a recurrence along its trajectory: how fast small differences grow, in nats per step.

    l = lim 1/T log |J_T ... J_2 J_1 v|            J_t = df/ds at (s_{t-1}, u_t)

Negative: the recurrence forgets, and parallel evaluation takes few iterations. Positive: chaos, and the number of
iterations grows in proportion to T. "Predictability enables parallelization of nonlinear state space models" (Gonzalez,
Kozachkov, Zoltowski, Clarkson, Linderman, NeurIPS 2025).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.diagnostics._along import along, check_solution, checked_prefix, linearizations
from lds_iter.diagnostics.evaluation import AbstractEvaluation, ByScan
from lds_iter.diagnostics.products import random_frame
from lds_iter.methods.spelling import spelled
from lds_iter.solution import Solution


@dataclass(frozen=True)
class Lyapunov:
    """Lyapunov exponents, per sequence, with their uncertainty. Units: nats per time step; float64.

    Attributes:
        exponents: `(*batch, k)`, the largest first, up to the errors of a finite time; `-inf` where a direction is
            annihilated.
        error: the standard error of each, from the spread of the blocks, `(*batch, k)`; 0 if annihilated. What blocks
            share is not in it: a transient that lasts all the time looked at, or a start that aligns slowly (an error
            of order 1 / steps).
        blocks: the exponents of successive stretches of time, `(blocks, *batch, k)`.
        steps: how many time steps were looked at.
    """

    exponents: Tensor
    error: Tensor
    blocks: Tensor
    steps: int

    @property
    def largest(self) -> Tensor:
        """The largest exponent, nats per step, `(*batch)`."""
        return self.exponents[..., 0]

    @property
    def memory(self) -> Tensor:
        """Steps after which a small difference has grown or shrunk e-fold, `1 / |largest|`, `(*batch)`."""
        return 1 / self.largest.abs()

    @property
    def stable(self) -> Tensor:
        """Whether the largest exponent is negative by more than two standard errors, bool, `(*batch)`."""
        return self.largest + 2 * self.error[..., 0] < 0

    @property
    def chaotic(self) -> Tensor:
        """Whether the largest exponent is positive by more than two standard errors, bool, `(*batch)`."""
        return self.largest - 2 * self.error[..., 0] > 0

    def __str__(self) -> str:
        largest, error = self.largest.flatten(), self.error[..., 0].flatten()
        name = "Lyapunov exponent" if self.exponents.shape[-1] == 1 else "Largest Lyapunov exponent"
        if largest.numel() == 1:
            return f"{name} {float(largest):+.3g} +- {float(error):.1g} nats per step, over {self.steps:,} steps"
        return (
            f"{name} {float(largest.min()):+.3g} to {float(largest.max()):+.3g} nats per step in {largest.numel()} "
            f"sequences, each +- {float(error.median()):.1g}, over {self.steps:,} steps"
        )


@spelled
def lyapunov(
    f: Callable[[Tensor, Any], Tensor],
    s0: Tensor,
    inputs: Any,
    states: Tensor | None = None,
    *,
    prefix: int | None = 1000,
    exponents: int = 1,
    by: AbstractEvaluation | None = None,
    blocks: int = 10,
    discard: int = 0,
    seed: int = 0,
) -> Lyapunov:
    """The Lyapunov exponents of a recurrence, from its first steps.

    Args:
        f: the recurrence, as `li.solve` takes it.
        s0: the state before the first step, `(*batch, D)`.
        inputs: a pytree of tensors that lead with T.
        states: the trajectory, such as `solution.states`, `(T, *batch, D)`; when None the prefix is evaluated step by
            step.
        prefix: how many time steps to look at; None for all.
        exponents: how many, from the largest; D gives the whole spectrum.
        by: `ByScan()`, parallel over time, when None; or `StepByStep()`, for wide states.
        blocks: stretches of time whose spread gives the uncertainty.
        discard: steps at the beginning that do not count, while transients decay and the directions align.
        seed: of the random directions to start with.

    Returns:
        A `Lyapunov`.

    Example:
        >>> halve = lambda s, u: 0.5 * s + u
        >>> found = li.diagnostics.lyapunov(halve, torch.zeros(3), torch.randn(400, 3))
        >>> round(float(found.largest), 4), bool(found.stable)
        (-0.6931, True)
    """
    with torch.no_grad():
        trajectory = along(f, s0, inputs, states, prefix)
        evaluation = _checked(ByScan() if by is None else by)
        _check_count(exponents, s0.shape[-1])
        frame = random_frame(s0, exponents, seed)
        stretches = trajectory.stretches(evaluation.rows(trajectory))
        return _measured(stretches, frame, evaluation, _bounds(trajectory.length, blocks, discard))


@spelled
def lyapunov_of(
    solution: Solution, *, prefix: int | None = None, exponents: int = 1, blocks: int = 10, discard: int = 0
) -> Lyapunov:
    """The Lyapunov exponents along a solution, from its own transitions, by a scan.

    Args:
        solution: of `li.solve`, not made light.
        prefix, exponents, blocks, discard: see `lyapunov`.

    Raises:
        RuntimeError: for a solution that has been made light or was pickled.
        ValueError: for more exponents than the state has numbers.

    Example:
        >>> solution = li.solve(lambda s, u: torch.cos(s) + u, torch.zeros(2), torch.randn(500, 2))
        >>> bool(li.diagnostics.lyapunov_of(solution).largest < 0)
        True
    """
    check_solution(solution)
    with torch.no_grad():
        _check_count(exponents, solution.states.shape[-1])
        steps = checked_prefix(prefix, solution.states.shape[0])
        bounds = _bounds(steps, blocks, discard)
        frame = random_frame(solution.states[0], exponents, 0)
        return _measured(linearizations(solution), frame, ByScan(), bounds)


def _measured(
    stretches: Iterable[Linearization], frame: Tensor, evaluation: AbstractEvaluation, bounds: list[int]
) -> Lyapunov:
    """Push a frame along the stretches; the growth between bounds makes the blocks, what is before them is left out."""
    growth = frame.new_zeros(len(bounds), *frame.shape[:-2], frame.shape[-1])
    for lin in stretches:
        stop = lin.rows.start + lin.prev.shape[0]
        inner = [bound for bound in bounds if lin.rows.start < bound < stop]
        edges = [lin.rows.start, *inner, min(stop, bounds[-1])]
        for first, last in itertools.pairwise(edges):
            if first < last:
                frame, grown = evaluation.push(lin, first - lin.rows.start, last - lin.rows.start, frame)
                growth[sum(bound <= first for bound in bounds)] += grown
        if stop >= bounds[-1]:
            break
    lengths = frame.new_tensor([last - first for first, last in itertools.pairwise(bounds)])
    each = growth[1:] / lengths.view(-1, *[1] * (growth.ndim - 1))
    steps = bounds[-1] - bounds[0]
    largest = growth[1:].sum(0) / steps
    spread = each.std(0) if each.shape[0] > 1 else torch.full_like(each[0], math.inf)
    spread = torch.where(largest == -math.inf, 0, spread)  # annihilated once is annihilated for good
    return Lyapunov(largest, spread / math.sqrt(each.shape[0]), each, steps)


def _bounds(length: int, blocks: int, discard: int) -> list[int]:
    """The times at which blocks begin and end."""
    if isinstance(discard, bool) or not isinstance(discard, int) or not 0 <= discard < length:
        raise ValueError(f"`discard` must be a whole number from 0 to below the {length} steps at hand, got {discard}.")
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"`blocks` must be a whole number, 1 or more, got {blocks!r}.")
    count = min(blocks, length - discard)
    return [discard + (length - discard) * index // count for index in range(count + 1)]


def _check_count(exponents: int, width: int) -> None:
    if isinstance(exponents, bool) or not isinstance(exponents, int) or not 1 <= exponents <= width:
        raise ValueError(f"`exponents` must be a whole number from 1 to D = {width}, got {exponents!r}.")


def _checked(by: AbstractEvaluation) -> AbstractEvaluation:
    if not isinstance(by, AbstractEvaluation):
        hint = f" Type `{by.__name__}()`." if isinstance(by, type) else ""
        raise TypeError(f"`by` must be ByScan() or StepByStep(), got {by!r}.{hint}")
    return by
