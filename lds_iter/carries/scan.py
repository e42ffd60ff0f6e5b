"""`li.scan`, called as `jax.lax.scan` is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.auto import Auto
from lds_iter.carries.independent import independent_dims
from lds_iter.carries.packing import as_tensors, make_packing
from lds_iter.carries.step import ScannedStep, UserStep
from lds_iter.checks import check_inputs, check_tolerance
from lds_iter.gradients.adjoints import AbstractAdjoint
from lds_iter.guesses import repeat_initial
from lds_iter.loop.notes import explained
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.arguments import check_count
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.rules import AbstractRule
from lds_iter.recurrence import detached, take_rows
from lds_iter.solution import Progress
from lds_iter.solve import solve


@explained
def scan(
    step: UserStep,
    init: Any,
    xs: Any = None,
    *,
    method: LDSApproximation | AbstractStrategy | None = None,
    length: int | None = None,
    reverse: bool = False,
    batch_dims: int | None = None,
    vectorized: bool = False,
    guess: Any = repeat_initial,
    rtol: float | None = None,
    atol: float | None = None,
    max_iters: int | None = None,
    window: int | None = None,
    adjoint: AbstractAdjoint | None = None,
    progress: bool = False,
    callback: Callable[[Progress], object] | None = None,
    stop: AbstractRule | Callable[[Progress], Tensor] | None = None,
) -> tuple[Any, Any]:
    """`carry, y_t = step(carry, x_t)` for all t in parallel; `jax.lax.scan` and torch's `scan` are called the same way.

    Gradients reach `init`, `xs` and all that `step` closes over.

    Args:
        step: `step(carry, x) -> (carry, y)` of one time step. `torch.func.vmap` calls it for all of them, so it has no
            branch on a value and draws no random numbers. `y` is a pytree of tensors of any dtype, or None.
        init: the first carry: a pytree of tensors of any shapes, float32, float64, complex64 or complex128, which may
            be mixed; a Python float counts as a tensor. Whole numbers and half precision are refused.
        xs: a pytree of tensors that lead with T; None for a step without inputs, which gets None as `x`.
        method: the LDS approximation; `Auto()` when None. An `Auto` made once and passed to every call learns.
        length: T, for `xs=None`; otherwise it must agree.
        reverse: go from the last time step to the first; `ys` stay in the order of `xs`.
        batch_dims: how many leading dimensions of every leaf of the carry are sequences that do not see each other;
            found out when None, by one step.
        vectorized: whether `step` takes any number n of time steps at once, all leaves `(n, ...)`; saves the `vmap`.
        guess: the carries after every step, in the structure of `init`, each leaf `(T, ...)`; or a policy of `solve`,
            which sees the carry as one tensor.
        rtol, atol: as `solve` has them; when None 1e-5, and 1e-10 where no leaf is in single precision.
        max_iters, window, adjoint, progress, callback, stop: as `solve` has them; states in a `Progress` are carries in
            one tensor.

    Returns:
        The last carry, and `ys`, the outputs of all steps, each leaf `(T, ...)`.

    Raises:
        TypeError, ValueError: for arguments that cannot work, before the first iteration.
        SolveError: a sequence did not converge. For its states type `li.scan_recurrence(...)`.

    Example:
        >>> def step(carry, x):
        ...     carry = 0.9 * carry + 0.1 * x
        ...     return carry, carry
        >>> carry, ys = li.scan(step, torch.zeros(()), torch.ones(100))
        >>> ys.shape, round(float(carry), 4)
        (torch.Size([100]), 1.0)
    """
    f, s0, inputs = scan_recurrence(
        step, init, xs, length=length, reverse=reverse, batch_dims=batch_dims, vectorized=vectorized
    )
    rtol = check_tolerance("rtol", rtol, f.packing.narrowest)
    atol = check_tolerance("atol", atol, f.packing.narrowest)
    try:
        solution = solve(
            f, s0, inputs, Auto() if method is None else method, guess=_packed(guess, f, inputs, reverse), rtol=rtol,
            atol=atol, max_iters=max_iters, window=window, adjoint=adjoint, progress=progress, callback=callback,
            stop=stop,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        error.add_note("Here `f` is made of `step`, for all time steps at once.")
        raise
    ys = f.outputs(s0, solution.states, inputs, window)
    if reverse:
        ys = pytree.tree_map(lambda leaf: leaf if leaf is None else leaf.flip(0), ys)
    return f.carries(solution.states[-1]), ys


@explained
def scan_recurrence(
    step: UserStep,
    init: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
    batch_dims: int | None = None,
    vectorized: bool = False,
) -> tuple[ScannedStep, Tensor, Any]:
    """The steps of a `scan` as a recurrence: `f`, `s0`, `inputs`, as `li.solve` takes them.

    For all that these know and `scan` does not: solutions and records, the loop by hand, diagnostics.
    `f.carries(states)` gives states the structure of the carry, and `f.outputs(s0, states, inputs)` the outputs.

    Args:
        step, init, xs, length, reverse, batch_dims, vectorized: as `scan` has them.

    Raises:
        TypeError, ValueError: for arguments that cannot work.

    Example:
        >>> parts = li.scan_recurrence(lambda c, x: (0.5 * c.tanh() + x, None), torch.zeros(2), torch.ones(50, 2))
        >>> li.solve(*parts, li.Newton()).converged
        True
    """
    if isinstance(step, type) or not callable(step):
        raise TypeError(f"`step` must be a function (carry, x) -> (carry, y), got {step!r}.")
    init = as_tensors(init)
    like = pytree.tree_leaves(init)[0]
    given = [leaf for leaf in pytree.tree_leaves(xs) if leaf is not None]
    if length is not None:
        check_count("length", length, least=1)
    if not given and length is None:
        raise ValueError("`xs` has no tensor, so T is unknown. For a scan without inputs type length=T.")
    inputs = xs if given else torch.arange(length or 0, device=like.device)
    steps = check_inputs(inputs, like, "xs")
    if length is not None and length != steps:
        raise ValueError(f"`length` is {length}, and `xs` leads with T = {steps}. Leave `length` out.")
    if reverse:
        inputs = pytree.tree_map(lambda leaf: leaf.flip(0) if isinstance(leaf, Tensor) else leaf, inputs)
    if batch_dims is None:
        batch_dims = _found(step, init, inputs if given else None, vectorized)
    packing = make_packing(init, check_count("batch_dims", batch_dims, least=0))
    f, s0 = ScannedStep(step, packing, vectorized, bool(given)), packing.pack(init, (), "`init`")
    _try_out(f, s0, inputs, steps)
    return f, s0, inputs


def _try_out(f: ScannedStep, s0: Tensor, inputs: Any, length: int) -> None:
    """One step alone, and two at once: what `step` raises is raised here, in its own terms."""
    with torch.no_grad():
        for rows in {1, min(2, length)}:
            f(s0.detach().expand(rows, *s0.shape), take_rows(detached(inputs), 0, rows))


def _found(step: UserStep, init: Any, xs: Any, vectorized: bool) -> int:
    """How many leading dimensions of the carry are batch, by one step."""
    first = pytree.tree_map(lambda leaf: leaf if leaf is None else leaf[0], xs)
    if not vectorized:
        return independent_dims(lambda carry: step(carry, first)[0], init)

    def one(carry: Any) -> Any:
        carry, x = pytree.tree_map(lambda leaf: leaf if leaf is None else leaf.unsqueeze(0), (carry, first))
        return pytree.tree_map(lambda leaf: leaf[0], step(carry, x)[0])

    return independent_dims(one, init)


def _packed(guess: Any, f: ScannedStep, inputs: Any, reverse: bool) -> Any:
    """The guess of a scan as `solve` takes it: in the order in which the steps are taken."""
    if callable(guess):
        return guess
    steps = len(next(leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)))
    states = f.packing.pack(guess, (steps,), "`guess`")
    return states.flip(0) if reverse else states
