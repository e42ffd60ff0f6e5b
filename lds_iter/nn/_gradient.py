"""Gradients of a whole trajectory of a cell of `torch.nn`, of first and of higher order.

First derivatives come from compiled code or from a solve. Higher ones (`create_graph=True`) recompute the trajectory
step by step in plain torch operations, which autograd can differentiate any number of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from lds_iter.kernels.cpu.cells import Tensors
from lds_iter.kernels.cpu.steps import InputWeights, steps, steps_along, steps_gradients
from lds_iter.nn._batched import batch_of
from lds_iter.nn._step_gradient import Gradients
from lds_iter.nn.cell_spec import BoundCell
from lds_iter.solution import Solution

Cell = TypeVar("Cell", bound=BoundCell)


class SteppedStates(Function):
    """A trajectory, step by step in compiled code; the states after the end of a sequence are constant."""

    @staticmethod
    def forward(ctx: Any, f: BoundCell, mask: Tensor | None, states: Tensor, s0: Tensor, *leaves: Tensor) -> Tensor:
        ctx.f, ctx.mask = f, mask
        ctx.save_for_backward(states, s0, *leaves)
        return states.clone()  # to be changed in place by its owner

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:  # pyright: ignore[reportIncompatibleMethodOverride]
        states, s0, *leaves = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]

        def first(g: Tensor) -> Gradients:
            f, u = ctx.f.with_leaves(tuple(leaves))
            weights = f.weights
            made = steps_gradients(
                f.spec.compiled, s0, states, f.tensors(u), g, weights.hr, matrices=any(needed[1 + f.spec.gates :])
            )
            if made is None:
                return _again(ctx.f, s0, leaves, g, needed)
            matrices = None if made.matrices is None else torch.cat(made.matrices)
            inner = () if weights.inner_bias is None else (made.inner_bias,)
            return made.s0, *made.inputs, matrices, *inner, *(() if weights.hr is None else (made.projection,))

        within = g if ctx.mask is None else g * ctx.mask
        return None, None, None, *_backward(first, ctx.f, s0, leaves, within, needed)


class Again(Function):
    """A trajectory that was solved on copies of the tensors. It passes the gradient of the copies on to the tensors
    themselves, and can be differentiated repeatedly."""

    @staticmethod
    def forward(ctx: Any, f: BoundCell, solved: tuple[Tensor, Tensors], s0: Tensor, *leaves: Tensor) -> Tensor:
        ctx.f, ctx.solved = f, solved
        ctx.save_for_backward(s0, *leaves)
        return solved[0].detach().clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:  # pyright: ignore[reportIncompatibleMethodOverride]
        s0, *leaves = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]

        def first(g: Tensor) -> Gradients:
            states, copies = ctx.solved
            return _of(states, copies, g, needed, retain_graph=True)

        return None, None, *_backward(first, ctx.f, s0, leaves, g, needed)


class Once(Function):
    """The states of a solve, which can be differentiated once. A second differentiation raises an error that says what
    to type instead."""

    @staticmethod
    def forward(ctx: Any, instead: str, states: Tensor) -> Tensor:
        ctx.instead = instead
        return states.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(f"This gradient cannot be differentiated again (`create_graph=True`). {ctx.instead}")
        return None, g


def stepped(f: BoundCell, s0: Tensor, u: Any, mask: Tensor | None = None) -> Tensor | None:
    """The trajectory of a cell by compiled code, with a graph if autograd records; None where no such code serves.

    Args:
        f: the cell.
        s0: `(*batch, parts D)`.
        u: its inputs.
        mask: 1 within a sequence and 0 after its end, `(T, *batch, 1)`; the states there are 0.
    """
    leaves = f.leaves(u)
    wanted = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in (s0, *leaves))
    states = steps(f.spec.compiled, s0, f.tensors(u), f.weights.hr)
    if states is None:
        return None
    if mask is not None:
        states.masked_fill_(mask == 0, 0)
    return SteppedStates.apply(f, mask, states, s0, *leaves) if wanted else states  # pyright: ignore[reportReturnType]


def stepped_along(f: BoundCell, s0: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """The same from the sequence that the cell reads, where autograd does not record.

    It takes less time and memory, since the products of the inputs are made within the steps.

    Args:
        f: the cell.
        s0: `(*batch, parts D)`.
        x: the sequence, `(T, *batch, D_in)`.
        mask: see `stepped`.

    Returns:
        The states, `(T, *batch, parts D)`; None where autograd records, or no such code serves.
    """
    weights = f.weights
    read = [x, s0, weights.ih, *weights.leaves, *([] if weights.bias is None else [weights.bias])]
    recorded = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in read)
    if recorded or weights.hr is not None:
        return None
    inner = () if weights.inner_bias is None else (weights.inner_bias,)
    reading = InputWeights(weights.ih, weights.bias)
    states = steps_along(f.spec.compiled, s0, x, reading, (*weights.gates, *inner))
    return states if states is None or mask is None else states.masked_fill_(mask == 0, 0)


def solved(f: Cell, s0: Tensor, u: Any, run: Callable[[Cell, Tensor, Any], Solution]) -> tuple[Tensor, Solution]:
    """The trajectory that `run(f, s0, u)` finds, in memory of its own; it can be differentiated any number of times.

    Args:
        f: the cell.
        s0: `(*batch, parts D)`.
        u: its inputs.
        run: a solve whose states can be differentiated once.

    Returns:
        The states `(T, *batch, parts D)`, and the solution that `run` found, without a graph.
    """
    leaves = (s0, *f.leaves(u))
    if not torch.is_grad_enabled() or not any(leaf.requires_grad for leaf in leaves):
        solution = run(f, s0, u)
        return solution.states.clone(), solution.light()
    copies = tuple(leaf.detach().requires_grad_(leaf.requires_grad) for leaf in leaves)
    solution = run(*_ordered(f, copies))
    states: Any = Again.apply(f, (solution.states, copies), *leaves)
    return states, solution.light()


def _ordered(f: Cell, copies: Tensors) -> tuple[Cell, Tensor, Any]:
    own, u = f.with_leaves(copies[1:])
    return own, copies[0], u


def _backward(
    first: Callable[[Tensor], Gradients],
    f: BoundCell,
    s0: Tensor,
    leaves: list[Tensor],
    g: Tensor,
    needed: tuple[bool, ...],
) -> Gradients:
    """The gradients: by `first` without a graph, step by step with one. A batch of gradients is taken one by one."""
    batch = batch_of(g)
    if batch is None:
        return _again(f, s0, leaves, g, needed) if torch.is_grad_enabled() else first(g)
    one_by_one = batch.unbind(g)
    with batch.lowered():
        each = [_backward(first, f, s0, leaves, one, needed) for one in one_by_one]
        stacks = [None if some[0] is None else torch.stack(some) for some in zip(*each, strict=True)]
    return tuple(None if stack is None else batch.bind(stack) for stack in stacks)


def _again(f: BoundCell, s0: Tensor, leaves: list[Tensor], g: Tensor, needed: tuple[bool, ...]) -> Gradients:
    """The gradients by plain torch operations, with a graph if autograd records."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Through views, so that autograd does not run on from one argument to another that it was made of.
        views = tuple(leaf.view_as(leaf) for leaf in (s0, *leaves))
        if not create_graph:
            views = tuple(view.detach().requires_grad_(view.requires_grad) for view in views)
        own, s, _ = _ordered(f, views)
        states, s = [], s.unsqueeze(0)
        for t in range(g.shape[0]):
            s = own.plain(s, tuple(gate[t : t + 1] for gate in views[1 : 1 + f.spec.gates])).value
            states.append(s)
        return _of(torch.cat(states), views, g, needed, create_graph=create_graph)


def _of(states: Tensor, leaves: Tensors, g: Tensor, needed: tuple[bool, ...], **options: bool) -> Gradients:
    """The gradients of the leaves for which one is needed."""
    wanted = [leaf for leaf, need in zip(leaves, needed, strict=True) if need]
    found = iter(torch.autograd.grad(states, wanted, g, **options))
    return tuple(next(found) if need else None for need in needed)
