"""A forward of a layer: first a plan, then what came of it. All layers and directions of a module, one after another."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

from lds_iter.compile.compiled import CompileCache, Compiled
from lds_iter.guesses import repeat_initial
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.nn._boundary import Batch
from lds_iter.nn._gradient import solved, stepped
from lds_iter.nn._masked import Masked
from lds_iter.nn._recorded import watched
from lds_iter.nn._sequences import Lengths, last, reverse
from lds_iter.nn._weights import layer_weights
from lds_iter.nn.cell import CellRecurrence
from lds_iter.nn.gru import GRURecurrence
from lds_iter.nn.lstm import LSTMRecurrence
from lds_iter.nn.options import SolveOptions
from lds_iter.nn.rnn import RNNRecurrence
from lds_iter.solution import Solution
from lds_iter.solve import solve

Method = LDSApproximation | AbstractStrategy


class Route(enum.Enum):
    """Who computes a forward: the recurrence step by step in compiled code, a solve, or torch's own kernel."""

    STEPS = enum.auto()
    SOLVE = enum.auto()
    KERNEL = enum.auto()


@dataclass(frozen=True)
class Plan:
    """Who computes a forward, and why."""

    route: Route
    why: str


STEPS = Plan(Route.STEPS, "on a CPU compiled code takes a step in less time than a solve takes an iteration")
BY_METHOD = Plan(Route.SOLVE, "a method was given")
BY_AUTO = Plan(Route.SOLVE, "on an accelerator `Auto` finds out what is fastest")
MALFORMED = Plan(Route.KERNEL, "torch answers empty and malformed arguments in its own words")
WATCHED = Plan(Route.KERNEL, "a dispatch mode of torch watches every operation")
NO_STEPS = Plan(Route.KERNEL, "compiled steps do not serve this width, dtype or machine")
NOT_FINITE = Plan(Route.KERNEL, "inputs, states or weights hold inf or NaN, on which nothing can be iterated")
OVER_BUDGET = Plan(Route.KERNEL, "a solve did not converge within its budget")


@dataclass(frozen=True)
class Part:
    """What came of one layer and direction.

    Attributes:
        results: output `(T, B, D)` and final states `(B, D)`; None where torch's kernel must compute the whole module.
        solution: of a solve.
        plan: what is done, after all.
    """

    results: tuple[Tensor, tuple[Tensor, ...]] | None
    plan: Plan
    solution: Solution | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a forward.

    Attributes:
        results: what the layer returns; None where torch's kernel is to answer.
        plan: who computed it.
        solutions: of the solves, in the order of torch's weights.
    """

    results: tuple[Any, Any] | None
    plan: Plan
    solutions: tuple[Solution, ...] = ()


Evaluate = Callable[[int, CellRecurrence, Tensor, tuple[Tensor, ...]], Part]
"""Of place (the number of layer and direction), recurrence, inputs `(T, B, D_in)`, initial states `(B, D)`."""


def evaluate(
    module: torch.nn.RNNBase, options: SolveOptions, strategy: Callable[[], Method], code: CompileCache | None, call: Any
) -> Outcome:
    """A forward of a module, as far as it is not torch's.

    Args:
        module: a layer of `torch.nn`.
        options: of its solves.
        strategy: the method that solves, where a solve is planned.
        code: what has been compiled, where solves are.
        call: its arguments, input and initial states.
    """
    batch = Batch.of(module, *call)
    if batch is None:
        return Outcome(None, MALFORMED)
    steps = options.method is None and batch.x.device.type == "cpu"
    if steps and watched():
        return Outcome(None, WATCHED)

    def step(place: int, f: CellRecurrence, x: Tensor, start: tuple[Tensor, ...]) -> Part:
        return _steps(f, x, batch.lengths, start)

    def solution(place: int, f: CellRecurrence, x: Tensor, start: tuple[Tensor, ...]) -> Part:
        return _solve(f, x, batch.lengths, start, options, strategy(), code, (module, place))

    with _full_precision(batch.x):
        results, parts = _stack(module, batch, step if steps else solution)
    solutions = tuple(part.solution for part in parts if part.solution is not None)
    if results is None:
        return Outcome(None, parts[-1].plan, solutions)
    return Outcome(batch.results(module, *results), parts[-1].plan, solutions)


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Without autocast; entered only where that is on, since it takes as long as several operations."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()


def _stack(
    module: torch.nn.RNNBase, batch: Batch, one: Evaluate
) -> tuple[tuple[Tensor, tuple[Tensor, ...]] | None, list[Part]]:
    """The output of the last layer `(T, B, directions * D)` and the final states, None where one part has none; and
    all parts."""
    x, lengths, directions = batch.x, batch.lengths, 2 if module.bidirectional else 1
    finals: list[tuple[Tensor, ...]] = []
    parts: list[Part] = []
    for layer in range(module.num_layers):
        outputs = []
        for backward in (False, True)[:directions]:
            f, place = recurrence(module, layer, backward, x.dtype), len(parts)
            sequence = reverse(x, lengths) if backward else x
            part = one(place, f, sequence, tuple(state[place] for state in batch.start))
            parts.append(part)
            if part.results is None:
                return None, parts
            output, final = part.results
            outputs.append(reverse(output, lengths) if backward else output)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if module.dropout > 0 and layer + 1 < module.num_layers:
            x = functional.dropout(x, module.dropout, module.training)
    return (x, tuple(torch.stack(kind) for kind in zip(*finals, strict=True))), parts


def recurrence(module: torch.nn.RNNBase, layer: int, backward: bool, dtype: torch.dtype) -> CellRecurrence:
    """One layer and direction of a module, in a dtype to compute in."""
    weights = {name: weight.to(dtype) for name, weight in layer_weights(module, layer, backward).items()}
    if isinstance(module, torch.nn.LSTM):
        return LSTMRecurrence(**weights)
    if isinstance(module, torch.nn.GRU):
        return GRURecurrence(**weights)
    return RNNRecurrence(**weights, nonlinearity=module.nonlinearity)  # pyright: ignore[reportArgumentType]


def _steps(f: CellRecurrence, x: Tensor, lengths: Lengths | None, start: tuple[Tensor, ...]) -> Part:
    """Step by step in compiled code."""
    s0, u = _begin(f, x, start)
    states = stepped(f, s0, u, None if lengths is None else lengths.mask)
    return Part(None, NO_STEPS) if states is None else Part(_read(f, states, lengths), STEPS)


def _solve(
    f: CellRecurrence,
    x: Tensor,
    lengths: Lengths | None,
    start: tuple[Tensor, ...],
    options: SolveOptions,
    method: Method,
    code: CompileCache | None,
    place: tuple[torch.nn.Module, int],
) -> Part:
    """In parallel over time."""
    s0, u = _begin(f, x, start)
    if not all(bool(leaf.detach().sum().isfinite()) for leaf in pytree.tree_leaves((s0, u))):
        return Part(None, NOT_FINITE)
    warm = options.warm_start
    guess = None if warm is None else warm.recall(place, x.shape[0], s0)

    def run(f: CellRecurrence, s0: Tensor, u: Any) -> Solution:
        masked = f if lengths is None else Masked(f)
        return solve(
            masked if code is None else Compiled(masked, code),
            s0,
            u if lengths is None else (u, lengths.mask),
            method,
            guess=repeat_initial if guess is None else guess,
            rtol=options.rtol,
            atol=options.atol,
            window=options.window,
            max_iters=options.limit(x.shape[0]),
            throw=False,
        )

    states, solution = solved(f, s0, u, run)
    if not solution.converged:
        return Part(None, OVER_BUDGET, solution)
    if warm is not None:
        warm.remember(place, states.detach())
    return Part(_read(f, states, lengths), BY_METHOD if options.method is not None else BY_AUTO, solution)


def _begin(f: CellRecurrence, x: Tensor, start: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
    """The state before the first step, and the inputs of the recurrence."""
    projected = isinstance(f, LSTMRecurrence) and f.projection is not None
    return f.spec.pack(start, f.weights), f.inputs(x, start[0]) if projected else f.inputs(x)


def _read(f: CellRecurrence, states: Tensor, lengths: Lengths | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output at every time, and the final states."""
    return f.spec.output(states, f.weights), f.spec.final(last(states, lengths), f.weights)
