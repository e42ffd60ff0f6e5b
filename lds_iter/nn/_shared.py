"""A layer whose time steps the ranks of a mesh share: every rank gives its rows and gets the states of these.

The ranks meet once a forward, so that an argument that cannot work ends all of them, and to learn who holds how many
time steps. Then every layer and direction is one shared solve. The state after the last time step goes from the rank
that holds it to all; its gradient is the sum of those that all ranks send back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.utils.rnn import PackedSequence

from lds_iter.distributed.call import begun
from lds_iter.distributed.meeting import broadcast, group_of, meet
from lds_iter.distributed.messages import Messages
from lds_iter.distributed.shards import TimeShards
from lds_iter.errors import SolveError
from lds_iter.nn._boundary import Sequences
from lds_iter.nn._failures import explain_shared_failure
from lds_iter.nn._plan import BY_RANKS, Part
from lds_iter.nn._recorded import recorded
from lds_iter.nn._solve_with import solve_with
from lds_iter.nn._ways import Start, Way, solve_arguments
from lds_iter.nn.cell import CellRecurrence
from lds_iter.nn.options import SolveOptions
from lds_iter.nn.suited import shared_method
from lds_iter.solution import Solution

R = TypeVar("R")

FORWARD, BACKWARD = "the forward of a layer", "the backward pass of a layer"
"""The names of its calls in messages."""


class EndOnAll(Function):
    """The states of this rank, and on every rank the state after the last time step.

    One node for both, so that every rank takes part in the backward pass whichever of the two its loss reads.
    """

    @staticmethod
    def forward(ctx: Any, shards: TimeShards, states: Tensor) -> tuple[Tensor, Tensor]:
        ctx.shards = shards
        last = states[-1] if len(states) else states.new_zeros(states.shape[1:])
        with shards.telling():
            return states.clone(), broadcast(shards.reversed(shards.sizes), last)

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_last: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The gradient of a layer with `mesh` cannot be differentiated again (`create_graph=True`): messages "
                "between ranks are in no graph. Without `mesh` it can."
            )
        shards: TimeShards = ctx.shards.during(BACKWARD)
        with shards.telling():
            total = shards.gather(g_last, what="gradients of the last state")[0].sum(0)
        if shards.rank != shards.holders[-1]:
            return None, g
        return None, torch.cat([g[:-1], g[-1:] + total])


def met(mesh: Any, prepare: Callable[[], tuple[R, int, dict[str, Any]]]) -> tuple[R, TimeShards]:
    """What `prepare` makes of this rank's arguments, and who holds which time steps.

    Args:
        mesh: of the layer.
        prepare: checks the arguments; returns anything, this rank's number of time steps, and what must be alike on
            all ranks, by name.

    Raises:
        ValueError: on every rank, where `prepare` fails on one, or the ranks differ.
        Exception: of `prepare`.
    """
    messages, made, told, wrong = Messages(begun(group_of(mesh), FORWARD)), None, {}, None
    try:
        made, rows, alike = prepare()
        told = {**alike, "_rows": rows}
    except BaseException as error:  # the other ranks wait for this one
        wrong = error
    found = meet(messages, told, wrong)
    shards = TimeShards(messages, tuple(other["_rows"] for other in found))
    if shards.length == 0:
        raise ValueError("`input` has T = 0 time steps on every rank of `mesh`; there is nothing to evaluate.")
    return made, shards  # pyright: ignore[reportReturnType]


def shared_sequences(module: torch.nn.RNNBase, mesh: Any, input: Any, hx: Any) -> tuple[Sequences, TimeShards]:
    """The arguments of a layer on this rank, and who holds which time steps.

    Raises:
        TypeError, ValueError, RuntimeError: for arguments that cannot work, on every rank.
    """

    def prepare() -> tuple[Sequences, int, dict[str, Any]]:
        check_not_recorded(input, hx)
        if isinstance(input, PackedSequence):
            raise TypeError(
                "`mesh` has no packed sequences: which time steps a rank holds would depend on the lengths. Give a "
                "padded tensor, and leave the padding out of the loss."
            )
        dim = 1 if module.batch_first and isinstance(input, Tensor) and input.dim() == 3 else 0
        given, rows = padded_to_a_row(input, dim)
        batch = Sequences.of(module, given, hx)
        if batch is None:
            shape = tuple(input.shape) if isinstance(input, Tensor) else type(input).__name__
            raise ValueError(
                f"`input` must be a tensor (T, B, {module.input_size}), this rank's time steps, with states `hx` as in "
                f"torch.nn.{module.mode.partition('_')[0]}, all on one device and of one dtype, got {shape}."
            )
        batch = replace(batch, input=input, x=batch.x[:rows])
        return batch, rows, {"layer": repr(module), "batch": batch.x.shape[1], "dtype": str(batch.dtype)}

    return met(mesh, prepare)


def check_not_recorded(*arguments: Any) -> None:
    """Check that a call is run, not recorded or transformed.

    Raises:
        RuntimeError: where it is.
    """
    if recorded(*arguments):
        raise RuntimeError(
            "A layer with `mesh` cannot be traced, exported, called under torch.func or forward-mode derivatives: "
            "messages between ranks are in no graph. Type layer.mesh = None first."
        )


def padded_to_a_row(input: Any, dim: int) -> tuple[Any, int]:
    """An input with a row of zeros where it has none, so that it can be checked, and its number of time steps."""
    if not isinstance(input, Tensor) or input.dim() <= dim:
        return input, 0
    rows = input.shape[dim]
    if rows:
        return input, rows
    shape = [1 if place == dim else size for place, size in enumerate(input.shape)]
    return torch.cat([input, input.new_zeros(shape)], dim), 0


def by_ranks(module: torch.nn.RNNBase, options: SolveOptions, shards: TimeShards) -> Way:
    """Solve by the ranks of a mesh together."""

    def way(place: int, f: CellRecurrence, x: Tensor, start: Start) -> Part:
        layer, backward = divmod(place, 2 if module.bidirectional else 1)
        ordered = shards.reversed(shards.sizes) if backward else shards
        first = ordered.place == 0 and not ordered.is_empty
        s0, u = solve_arguments(f, x, start, holds_first=first)
        who = f"{type(module).__name__}, layer {layer}{', backward' if backward else ''}"
        (states, last), solution = solved_by_ranks(f, s0, u, ordered, options, (module, place), who)
        return Part((f.spec.output(states, f.weights), f.spec.final(last, f.weights)), BY_RANKS, solution)

    return way


def solved_by_ranks(
    f: Callable[[Tensor, Any], Tensor],
    s0: Tensor,
    inputs: Any,
    shards: TimeShards,
    options: SolveOptions,
    where: tuple[torch.nn.Module, int],
    who: str,
) -> tuple[tuple[Tensor, Tensor], Solution]:
    """A trajectory that the ranks solve together.

    Args:
        f, s0, inputs: of the solve, on this rank.
        shards: who holds which time steps.
        options: of the layer.
        where: the layer, and the number of layer and direction within it.
        who: the layer in words.

    Returns:
        The states of this rank, `(rows, B, D)`, the last state of all, `(B, D)`, and the solution without a graph.

    Raises:
        SolveError: on every rank, where a sequence does not converge.
    """
    method, memory = shared_method(where[0]) if options.method is None else options.method, options.warm_start
    solution = solve_with(options, method, f, s0, inputs, shards.sizes[shards.rank], where=where, shards=shards)
    if not solution.converged:
        raise SolveError(explain_shared_failure(who, solution), solution.light())
    states: Any = EndOnAll.apply(shards, solution.states)
    if memory is not None and not shards.is_empty:
        memory.remember(where, states[0].detach())
    return states, solution.light()
