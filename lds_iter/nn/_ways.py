"""The ways to evaluate one layer and direction: compiled steps, a solve, and `Auto` beside torch's kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.auto import Auto
from lds_iter.compile.compiled import CompileCache, Compiled
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.nn._gradient import Once, solved, stepped, stepped_along
from lds_iter.nn._masked import Masked
from lds_iter.nn._plan import BY_METHOD, BY_STEPS, LOST, NO_STEPS, NOT_FINITE, OVER_BUDGET, RACE, Part
from lds_iter.nn._sequences import Lengths, last_rows
from lds_iter.nn._solve_with import solve_with
from lds_iter.nn._weights import WEIGHT_NAMES, layer_weights
from lds_iter.nn.cell import CellRecurrence
from lds_iter.nn.lstm import LSTMRecurrence
from lds_iter.nn.options import SolveOptions
from lds_iter.solution import Result, Solution

ONCE = "Give the layer a method, such as layer.method = li.QuasiNewton()."

Start = tuple[Tensor, ...]
Way = Callable[[int, CellRecurrence, Tensor, Start], Part]
"""Called with place (the number of layer and direction), recurrence, inputs `(T, B, D_in)`, states `(B, D)`."""


def by_steps(lengths: Lengths | None) -> Way:
    """Evaluate step by step in compiled code."""

    def way(_: int, f: CellRecurrence, x: Tensor, start: Start) -> Part:
        mask = None if lengths is None else lengths.mask
        states = stepped_along(f, f.spec.pack(start, f.weights), x, mask)
        if states is None:
            states = stepped(f, *solve_arguments(f, x, start), mask)
        return Part(None, NO_STEPS) if states is None else Part(_results(f, states, lengths), BY_STEPS)

    return way


def by_method(
    module: torch.nn.RNNBase,
    lengths: Lengths | None,
    options: SolveOptions,
    method: LDSApproximation | AbstractStrategy,
    cache: CompileCache | None,
) -> Way:
    """Solve in parallel over time, by a method."""

    def way(place: int, f: CellRecurrence, x: Tensor, start: Start) -> Part:
        s0, u = solve_arguments(f, x, start)
        if not _finite(s0, u):
            return Part(None, NOT_FINITE)
        memory, where = options.warm_start, (module, place)

        def run(f: CellRecurrence, s0: Tensor, u: Any) -> Solution:
            masked, inputs = _masked(f, u, lengths)
            compiled = masked if cache is None else Compiled(masked, cache)
            return solve_with(options, method, compiled, s0, inputs, x.shape[0], where=where)

        states, solution = solved(f, s0, u, run)
        if not solution.converged:
            return Part(None, OVER_BUDGET, solution)
        if memory is not None:
            memory.remember(where, states.detach())
        return Part(_results(f, states, lengths), BY_METHOD, solution)

    return way


def by_race(module: torch.nn.RNNBase, lengths: Lengths | None, options: SolveOptions, auto: Auto) -> Way:
    """Evaluate by a solve or by torch's kernel, whichever `Auto` finds to be faster."""

    def way(place: int, f: CellRecurrence, x: Tensor, start: Start) -> Part:
        s0, u = solve_arguments(f, x, start)
        if not _finite(s0, u):
            return Part(None, NOT_FINITE)
        layer, backward = divmod(place, 2 if module.bidirectional else 1)
        kernel = partial(torch_kernel, module, layer_weights(module, layer, bool(backward)), x, start)
        beside = auto.beside(f"the kernel of torch.nn.{module.mode.partition('_')[0]}", kernel)
        masked, inputs = _masked(f, u, lengths)
        solution = solve_with(options, beside, masked, s0, inputs, x.shape[0])
        if solution.failed:
            return Part(None, OVER_BUDGET, solution.light())
        if not bool((solution.result == Result.STOPPED).any()):
            states: Any = Once.apply(ONCE, solution.states)
            return Part(_results(f, states, lengths), RACE, solution.light())
        if lengths is not None:
            return Part(None, LOST)
        output, final = kernel()
        return Part((Once.apply(ONCE, output), final), LOST)  # pyright: ignore[reportArgumentType]

    return way


def torch_kernel(
    module: torch.nn.RNNBase, weights: dict[str, Tensor], x: Tensor, start: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Evaluate one layer and direction by torch's own kernel.

    Args:
        module: the layer of torch, for its kind.
        weights: by torch's names.
        x: the input, `(T, B, D_in)`.
        start: the states before the first step, `(B, D)` each.

    Returns:
        The output `(T, B, D)` and the final states `(B, D)`, with a graph if autograd records.
    """
    flat = [weights[name] for name in WEIGHT_NAMES if name in weights]
    first: Any = tuple(state.unsqueeze(0).contiguous() for state in start)
    first = first if isinstance(module, torch.nn.LSTM) else first[0]
    function: Any = getattr(torch, module.mode.lower())  # such as torch.rnn_tanh
    output, *final = function(x, first, flat, "bias_ih" in weights, 1, 0.0, module.training, False, False)
    return output, tuple(state[0] for state in final)


def _masked(f: CellRecurrence, u: Any, lengths: Lengths | None) -> tuple[CellRecurrence | Masked, Any]:
    """The recurrence and its inputs, with the padding of packed sequences left alone."""
    return (f, u) if lengths is None else (Masked(f), (u, lengths.mask))


def _finite(s0: Tensor, u: Any) -> bool:
    return all(bool(leaf.detach().sum().isfinite()) for leaf in pytree.tree_leaves((s0, u)))


def solve_arguments(f: CellRecurrence, x: Tensor, start: Start, *, holds_first: bool = True) -> tuple[Tensor, Any]:
    """The state before the first step, and the inputs of the recurrence.

    `holds_first`: whether this process holds the first step, where a projection takes part of the state as it is.
    """
    s0 = f.spec.pack(start, f.weights)
    if isinstance(f, LSTMRecurrence) and f.projection is not None and holds_first:
        return s0, f.inputs(x, start[0])
    return s0, f.inputs(x)


def _results(f: CellRecurrence, states: Tensor, lengths: Lengths | None) -> tuple[Tensor, Start]:
    """The output at every time, and the final states."""
    return f.spec.output(states, f.weights), f.spec.final(last_rows(states, lengths), f.weights)
