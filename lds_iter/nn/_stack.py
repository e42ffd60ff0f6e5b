"""A stack of recurrent layers and directions, each one solve: what the drop-in layers share."""

from __future__ import annotations

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
from lds_iter.nn._arguments import check_budget
from lds_iter.nn._sequences import Lengths, Masked, last, reverse
from lds_iter.nn.gru import GRURecurrence
from lds_iter.nn.lstm import LSTMRecurrence
from lds_iter.nn.rnn import RNNRecurrence
from lds_iter.nn.warm_start import WarmStart
from lds_iter.solution import Solution
from lds_iter.solve import solve

Recurrence = RNNRecurrence | GRURecurrence | LSTMRecurrence


class OverBudget(Exception):
    """A solve did not converge within its budget; carries the solutions so far, that one last."""

    def __init__(self, solutions: list[Solution]) -> None:
        super().__init__()
        self.solutions = tuple(solutions)


class Elsewhere(Exception):
    """`Auto` goes to torch's kernel, where that has to compute the whole module; carries the solutions so far."""

    def __init__(self, solutions: list[Solution]) -> None:
        super().__init__()
        self.solutions = tuple(solutions)


class NotFinite(Exception):
    """A recurrence whose start or inputs contain inf or NaN: nothing to iterate on."""


@dataclass(frozen=True)
class Options:
    """How to solve; see the layers for what each means."""

    method: LDSApproximation | AbstractStrategy
    rtol: float | None
    atol: float | None
    window: int | None
    max_iters: int
    warm_start: WarmStart | None
    code: CompileCache | None


def run(
    module: torch.nn.RNNBase,
    layers: Callable[[int, bool], Recurrence],
    x: Tensor,
    lengths: Lengths | None,
    hx: tuple[Tensor, ...],
    options: Options,
) -> tuple[Tensor, tuple[Tensor, ...], list[Solution]]:
    """All layers and directions of a module.

    Args:
        module: for its numbers of layers and directions, and its dropout.
        layers: the recurrence, and torch's kernel, of a layer, and whether of its backward direction.
        x: `(T, B, D_in)`.
        lengths: where sequences have unequal lengths.
        hx: initial h, and c for an LSTM, `(layers * directions, B, D)`.
        options: of the solves.

    Returns:
        The output of the last layer `(T, B, directions * D)`, the final states like `hx`, and the solutions.

    Raises:
        OverBudget: when a solve does not converge.
        Elsewhere: when `Auto` goes to the kernel for sequences of unequal lengths.
        NotFinite: when there is inf or NaN in what a solve is given.
    """
    directions = 2 if module.bidirectional else 1
    finals: list[tuple[Tensor, ...]] = []
    solutions: list[Solution] = []
    for layer in range(module.num_layers):
        outputs = []
        for backward in (False, True)[:directions]:
            place = len(solutions)
            f, start = layers(layer, backward), tuple(state[place] for state in hx)
            sequence = reverse(x, lengths) if backward else x
            states, solution = _solve(f, sequence, lengths, start, options, (module, place))
            solutions.append(solution)
            if solution.converged:
                output, final = _read(f, states, lengths)
            else:
                raise OverBudget(solutions)
            outputs.append(reverse(output, lengths) if backward else output)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if module.dropout > 0 and layer + 1 < module.num_layers:
            x = functional.dropout(x, module.dropout, module.training)
    return x, tuple(torch.stack(kind) for kind in zip(*finals, strict=True)), solutions


def _solve(
    f: Recurrence,
    x: Tensor,
    lengths: Lengths | None,
    start: tuple[Tensor, ...],
    options: Options,
    place: tuple[torch.nn.Module, int],
) -> tuple[Tensor, Solution]:
    """One layer and direction: its states, with a gradient where one is wanted, and the solution without."""
    s0, u = _begin(f, x, start)
    if not all(bool(leaf.detach().sum().isfinite()) for leaf in pytree.tree_leaves((s0, u))):
        raise NotFinite
    warm = options.warm_start
    guess = None if warm is None else warm.recall(place, x.shape[0], s0)
    masked = f if lengths is None else Masked(f)
    solution = solve(
        masked if options.code is None else Compiled(masked, options.code),
        s0,
        u if lengths is None else (u, lengths.mask),
        options.method,
        guess=repeat_initial if guess is None else guess,
        rtol=options.rtol,
        atol=options.atol,
        window=options.window,
        max_iters=check_budget(options.window, options.max_iters, x.shape[0]),
        throw=False,
    )
    if warm is not None and solution.converged:
        warm.remember(place, solution.states.detach())
    return solution.states, solution.light()


def _begin(f: Recurrence, x: Tensor, start: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
    """The state before the first step, and the inputs of the recurrence."""
    projected = isinstance(f, LSTMRecurrence) and f.projection is not None
    return _state(f, start), f.inputs(x, start[0]) if projected else f.inputs(x)  # pyright: ignore[reportCallIssue]


def _state(f: Recurrence, start: tuple[Tensor, ...]) -> Tensor:
    """The state before the first step."""
    if not isinstance(f, LSTMRecurrence):
        return start[0]
    h0, c0 = start
    return f.pack(h0 if f.projection is None else torch.zeros_like(c0), c0)


def _read(f: Recurrence, states: Tensor, lengths: Lengths | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output at every time, and the final states."""
    if not isinstance(f, LSTMRecurrence):
        return states, (last(states, lengths),)
    h = f.unpack(states)[0]
    return h, (last(h, lengths), f.unpack(last(states, lengths))[1])
