"""Checks of a solve whose time steps several processes share: what it does not do, and what must be alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter._torch import under_jvp
from lds_iter.checks.arguments import (
    check_guess,
    check_inputs,
    check_numbers,
    check_state,
    check_tolerance,
    checked_method,
)
from lds_iter.checks.probes import check_f, check_transforms
from lds_iter.checks.solving import Arguments, Options
from lds_iter.derivatives.autodiff import with_derivatives
from lds_iter.derivatives.under_autocast import keep_autocast
from lds_iter.distributed.call import begun
from lds_iter.distributed.meeting import Backwards, broadcast, group_of, meet, with_a_row
from lds_iter.distributed.messages import Messages
from lds_iter.distributed.rank_errors import SOLVE
from lds_iter.distributed.shards import TimeShards
from lds_iter.distributed.waiting import compiling
from lds_iter.gradients.adjoints import AbstractAdjoint
from lds_iter.gradients.unroll import Unroll
from lds_iter.guesses import Coarse
from lds_iter.kernels.cpu.build import load_kernels
from lds_iter.loop.state import AbstractStrategy, LoopOptions, Problem
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.newton import Newton
from lds_iter.recurrence import own_iterate


def check_shareable(f: Any, method: Any, guess: Any, adjoint: AbstractAdjoint | None) -> None:
    """What works with `mesh`.

    Raises:
        TypeError: for what does not.
    """
    if isinstance(method, AbstractStrategy):
        raise TypeError(
            f"`mesh` needs one method for all ranks, got {type(method).__name__}, which chooses by the clock of each. "
            "Type method=li.Newton(), or what `Auto` decides for a shorter sequence."
        )
    if isinstance(adjoint, AbstractAdjoint) and isinstance(getattr(adjoint, "method", None), AbstractStrategy):
        raise TypeError("`mesh` needs one method for the adjoint too. Type adjoint=li.Implicit(method=li.Newton()).")
    if own_iterate(f) is not None:
        raise TypeError(
            f"`mesh` runs iterations that talk to other ranks, which no compiled graph holds, got an `f` of "
            f"{type(f).__name__}. Give `solve` the recurrence itself; it may call compiled functions inside."
        )
    if isinstance(adjoint, Unroll):
        raise TypeError(
            "`mesh` has no backpropagation through its iterations: messages between ranks carry no graph. Leave "
            "`adjoint` out; the implicit gradient is exact at convergence."
        )
    if isinstance(guess, Coarse):
        raise TypeError(
            "`mesh` has no guess by `Coarse`, which steps through all of time on one process. Give this rank's rows of "
            "a guess as a tensor, (rows, *batch, D)."
        )
    if under_jvp():
        raise TypeError(
            "`mesh` has no forward-mode derivatives (torch.func.jvp, jacfwd). Use `.backward()` or "
            "torch.autograd.grad on the states."
        )


def check_shared_arguments(
    f: Any,
    s0: Any,
    inputs: Any,
    method: Any,
    guess: Any,
    *,
    mesh: Any,
    options: Options,
    rtol: float | None,
    atol: float | None,
    max_iters: int | None,
    window: int | None,
) -> Arguments:
    """Check what every solve takes where several processes share the time steps.

    Each rank checks its own; then all compare what must be alike. Where something is wrong, all ranks raise together.

    Args:
        f, s0, inputs, method, guess, rtol, atol, max_iters, window: see `solve`.
        mesh: whose ranks they are.
        options: the other arguments of `solve`.
    """
    backwards = isinstance(mesh, Backwards)
    group, wrong, mine, own = mesh.group if backwards else group_of(mesh), None, {}, None
    messages = Messages(begun(group, SOLVE))
    try:
        options.check()
        check_shareable(f, method, guess, options.adjoint)
        with compiling(messages.call):
            own = _own(f, s0, inputs, method, rtol, atol)
        check_numbers(1, max_iters=max_iters, window=window)
        alike = vars(options) | {"callback": options.callback is not None, "window": window, "max_iters": max_iters}
        mine = own.told() | {"_key": messages.call.key} | {name: in_words(value) for name, value in alike.items()}
    except BaseException as error:  # the other ranks wait for this one
        wrong = error
    found = meet(messages, mine, wrong)
    assert own is not None
    messages.call = dataclasses.replace(messages.call, key=found[0]["_key"])
    shards = TimeShards(messages, tuple(other["_rows"] for other in found), backwards)
    if shards.length == 0:
        raise ValueError("`inputs` has T = 0 time steps on every rank of `mesh`; there is nothing to evaluate.")
    with shards.telling():
        start = broadcast(shards, s0)
        inputs = with_a_row(shards, inputs) if 0 in shards.sizes else inputs
    s0 = s0 if shards.place == 0 and not shards.is_empty else start
    given = _agreed_guess(shards, f, s0, inputs, guess)
    limits = check_numbers(shards.length, max_iters=max_iters, window=window)
    how = LoopOptions(*own.tolerances, limits["max_iters"], limits["window"])
    first = start.unsqueeze(0) if own.first is None else own.first.detach()
    problem = Problem(with_derivatives(keep_autocast(f, s0)), s0, inputs, shards.length, shards)
    wanted = any(other["_wanted"] for other in found)
    return Arguments(problem, own.method, given, how, wanted, first, limits["max_iters"])


@dataclass(frozen=True)
class _Own:
    """The arguments of one rank, checked.

    Attributes:
        s0, rows, method: as given; `rows` time steps.
        inputs: dtypes and shapes of one time step, in words.
        tolerances: rtol and atol.
        first: `f` of `s0` and the first row, `(1, *batch, D)`; None for a rank without time steps.
    """

    s0: Tensor
    rows: int
    inputs: str
    method: LDSApproximation
    tolerances: tuple[float, float]
    first: Tensor | None

    def told(self) -> dict[str, Any]:
        """What the other ranks are told of it; see `meet`."""
        graph = torch.is_grad_enabled()
        return {
            "s0": f"{self.s0.dtype} {tuple(self.s0.shape)} on {self.s0.device.type}",
            "inputs": self.inputs,
            "method": in_words(self.method),
            "rtol": self.tolerances[0],
            "atol": self.tolerances[1],
            "torch.is_grad_enabled()": graph,
            "_rows": self.rows,
            "_wanted": graph and self.first is not None and self.first.requires_grad,
        }


def _own(f: Any, s0: Any, inputs: Any, method: Any, rtol: float | None, atol: float | None) -> _Own:
    """Check the arguments of this rank, and compile what the solve runs: other ranks wait for the first message
    longer than for those that follow."""
    if isinstance(s0, Tensor) and s0.device.type == "cpu":
        load_kernels("scan", "low_rank", "kalman")
    check_state(s0)
    rows = check_inputs(inputs, s0, least=0)
    relative, absolute = (check_tolerance(name, x, s0.dtype) for name, x in (("rtol", rtol), ("atol", atol)))
    method = checked_method(Newton() if method is None else method)
    first = check_f(f, s0, inputs, rows) if rows else None
    if first is not None:
        check_transforms(first, s0, inputs)
    return _Own(s0, rows, _step_in_words(inputs), method, (relative, absolute), first)


def _step_in_words(inputs: Any) -> str:
    """Dtypes and shapes of the inputs of one time step, in words."""

    def leaf(x: Any) -> Any:
        return f"{x.dtype} {tuple(x.shape[1:])}" if isinstance(x, Tensor) else in_words(x)

    return f"{pytree.tree_map(leaf, inputs)} a time step"


def _agreed_guess(shards: TimeShards, f: Any, s0: Tensor, inputs: Any, guess: Any) -> Tensor:
    """The guess of this rank's rows. Where that of a rank is wrong, all ranks raise together."""
    given, wrong = torch.empty(0, device="cpu"), None
    try:
        if shards.is_empty:  # as `check_f` does on other ranks: `f` may keep products of weights, with their graph
            f(s0.unsqueeze(0), inputs)
        given = _guess_of(shards, f, s0, inputs, guess)
    except BaseException as error:  # the other ranks wait for this one
        wrong = error
    meet(shards.messages, {}, wrong)
    return given


def _guess_of(shards: TimeShards, f: Any, s0: Tensor, inputs: Any, guess: Any) -> Tensor:
    """The rows of the guess of this rank, `(rows, *batch, D)`; a rank without time steps has one row."""
    rows = shards.held.stop - shards.held.start
    with torch.no_grad():
        given: Any = guess(f, s0, inputs, rows) if callable(guess) else guess
    if shards.is_empty and isinstance(given, Tensor) and len(given) == 0:
        given = s0.detach().unsqueeze(0)
    check_guess(given, s0, rows)
    return given


def in_words(value: Any) -> str:
    """An argument in words that are the same in every process: no addresses, and of tensors dtype, shape and sum."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (in_words(getattr(value, field.name)) for field in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype} {tuple(value.shape)} with sum {float(value.detach().sum()):.9g}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(in_words, value))})"
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return repr(value)
