"""The adjoint recurrence `l -> J^T l + g` as a recurrence that `loop` solves: linear, and reversed in time.

The derivatives of `f` along the solution do not change over the iterations, so each kind is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter import _torch
from lds_iter.derivatives.autodiff import linearize
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.structured import StructuredDerivatives, structure_of
from lds_iter.gradients.shared_adjoint import shared_adjoint
from lds_iter.gradients.unchanged import Unchanged
from lds_iter.loop.run import Interrupted, run
from lds_iter.loop.state import AbstractStrategy, LoopOptions, LoopState, Problem
from lds_iter.methods.base import LDSApproximation
from lds_iter.recurrence import Function, own_iterate_adjoint, own_solve_adjoint, take_rows
from lds_iter.solution import AdjointCounts, Result

JacobianParts = dict[str, Tensor]
"""The parts of the Jacobian computed so far, by kind: `"full"`, `"diagonal"`, `"blocks 2"` and so on."""


class CachedJacobian:
    """The derivatives of `f` at the solution, each kind computed once, on demand.

    Args:
        of_f: the derivatives.
        parts: what of them is known already.
    """

    def __init__(self, of_f: AbstractDerivatives, parts: JacobianParts | None = None) -> None:
        self.of_f = of_f
        self.parts: JacobianParts = {} if parts is None else dict(parts)

    def jacobian(self) -> Tensor:
        return self._part("full", self.of_f.jacobian)

    def diagonal(self) -> Tensor:
        return self._part("diagonal", self.of_f.diagonal)

    def block_diagonal(self, size: int) -> Tensor:
        return self._part(f"blocks {size}", lambda: self.of_f.block_diagonal(size))

    def _part(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if name not in self.parts:
            self.parts[name] = compute()
        return self.parts[name]


class AdjointRecurrence:
    """The adjoint recurrence; its inputs are `(states, inputs of f, g)`, all reversed in time.

    Args:
        along: the derivatives of `f` at some rows, from the states before them and their inputs.
    """

    is_linear = True

    def __init__(self, along: Callable[[Tensor, Any], CachedJacobian]) -> None:
        self._along = along

    def __call__(self, adjoint: Tensor, inputs: tuple[Tensor, Any, Tensor]) -> Tensor:
        return self.linearize(adjoint, inputs).value

    def linearize(self, adjoint: Tensor, inputs: tuple[Tensor, Any, Tensor]) -> AbstractDerivatives:
        prev, u, g = inputs
        along = self._along(prev, u)
        declared = structure_of(along.of_f)
        if declared is None:
            return TransposedDerivatives(along, adjoint, g)
        transposed = declared.transpose()
        return StructuredDerivatives(transposed.mv(adjoint) + g, transposed)


class TransposedDerivatives(AbstractDerivatives):
    """The derivatives of `l -> J^T l + g`."""

    def __init__(self, fixed: CachedJacobian, adjoint: Tensor, g: Tensor) -> None:
        self._fixed = fixed
        self.value = fixed.of_f.vjp(adjoint) + g  # not in place: where J is I, the product is `adjoint` itself

    def jvp(self, v: Tensor) -> Tensor:
        return self._fixed.of_f.vjp(v)

    def vjp(self, w: Tensor) -> Tensor:
        return self._fixed.of_f.jvp(w)

    def jacobian(self) -> Tensor:
        return self._fixed.jacobian().mT

    def diagonal(self) -> Tensor:
        return self._fixed.diagonal()

    def block_diagonal(self, size: int) -> Tensor:
        return self._fixed.block_diagonal(size).mT


def linearize_once(
    f: Function, states: Tensor, unchanged: Unchanged | None, *, keep: bool
) -> Callable[[Tensor, Any], CachedJacobian]:
    """Each stretch of rows is linearized once (`keep`), unless a window slides and would leave more and more of them
    behind.

    Args:
        f: the recurrence.
        states: the solution reversed in time without its last row, `(T - 1, *batch, D)`; each stretch is a part of it.
        unchanged: what the value of `f` must still be.
        keep: whether to keep the stretches.
    """
    known: dict[tuple[int, int], CachedJacobian] = {}
    row = max(1, states[0].numel() * states.element_size())

    def along(prev: Tensor, u: Any) -> CachedJacobian:
        key = (prev.data_ptr(), prev.shape[0])  # `prev` is a stretch of one tensor that outlives this function
        cached = known.get(key)
        if cached is not None:
            return cached
        cached = CachedJacobian(linearize(f, prev, u))
        if unchanged is not None:
            first = len(unchanged.value) - 1 - (key[0] - states.data_ptr()) // row
            unchanged.check_value(cached.of_f.value.flip(0), slice(first - prev.shape[0] + 1, first + 1))
        if keep:
            known[key] = cached
        return cached

    return along


def reversed_inputs(states: Tensor, inputs: Any, g: Tensor) -> tuple[Tensor, Any, Tensor]:
    """The inputs of the adjoint recurrence, from those of `f` and the gradients `g` of the states, `(T, *batch, D)`.

    Row t of the reversed recurrence maps l_{t+1} to l_t, t = T-1 .. 1, and needs f at (s_t, u_{t+1}).
    """
    given = (states[:-1], take_rows(inputs, 1, states.shape[0]), g[:-1])
    return pytree.tree_map(lambda leaf: leaf.flip(0) if isinstance(leaf, Tensor) else leaf, given)


def normalized(g: Tensor) -> tuple[Tensor, Tensor]:
    """`g` in units of the largest gradient of each sequence, and those units, `(1, *batch, 1)`."""
    scale = g.abs().amax((0, -1), keepdim=True)
    scale = scale.where(scale > 0, 1)
    return g / scale, scale


def without_nonfinite(g: Tensor) -> tuple[Tensor, Tensor]:
    """Whether `g` is finite everywhere, as a bool on its device, and `g`, or zeros where it is not."""
    known = g.isfinite().all()
    return known, g.where(known, 0)


def finish_adjoint(state: LoopState, scale: Tensor, known: Tensor) -> Tensor:
    """All `l_t`, `(T, *batch, D)`, from the end of the reversed solve; NaN where there is no finite adjoint."""
    lost = (state.result != int(Result.SUCCESS)) | ~known
    return (state.states.flip(0) * scale).masked_fill(lost.unsqueeze(-1), torch.nan)


def direct_adjoint(problem: Problem, prev: Tensor, g: Tensor) -> Tensor | None:
    """The adjoint where `f` solves it directly; None where it cannot.

    That is Newton's one iteration, with a scan that knows how `f` makes its Jacobians
    (see `lds_iter.kernels.cpu.cells`).

    Args:
        problem: detached.
        prev: the states before each step, `(T, *batch, D)`.
        g: the gradients of the states, `(T, *batch, D)`.
    """
    own = own_solve_adjoint(problem.f)
    if own is None or not _torch.on_host(g) or not _finite(g):
        return None
    found = own(prev, problem.inputs, g)
    if found is None or _finite(found):
        return found
    return found.masked_fill(~found.isfinite().all(-1).all(0)[..., None], torch.nan)


def _finite(x: Tensor) -> bool:
    """Whether all numbers are finite. Mostly a finite sum proves it, in one pass without new memory."""
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def solve_adjoint(
    problem: Problem,
    states: Tensor,
    g: Tensor,
    method: LDSApproximation | AbstractStrategy,
    options: LoopOptions,
    unchanged: Unchanged | None = None,
) -> tuple[Tensor, AdjointCounts | None]:
    """All `l_t`, `(T, *batch, D)`; NaN where no finite adjoint exists, as autograd would have it. And how many
    iterations that took, where the loop of this library did it.

    Args:
        problem: detached; where several processes share the time steps, `s0` is the state before this one's first.
        states: the solution, `(T, *batch, D)`.
        g: the gradients of the states.
        method: for the reversed recurrence.
        options: tolerances, in units of the largest gradient of each sequence, and the window.
        unchanged: what the value of `f` must still be; None for no look.
    """
    if problem.length == 1:
        return g, None
    rows = problem.length - 1
    options = replace(options, max_iters=rows, window=min(options.window, rows))
    f, own = problem.f, own_iterate_adjoint(problem.f)
    if own is not None and isinstance(method, LDSApproximation) and options.window == rows:
        if unchanged is not None:
            prev = torch.cat([problem.s0.unsqueeze(0), states[:-1]])
            unchanged.check_value(f(prev, problem.inputs), slice(0, problem.length))
        return own(states, problem.inputs, g, method, options), None
    if problem.shards is not None:
        shared = shared_adjoint(problem, problem.shards, states, g)
        given = Problem(f, shared.start, shared.inputs, rows, shared.backward)
        state = _reversed_solve(given, method, options, unchanged)
        return shared.finished(state), AdjointCounts(state.iterations, state.residual, state.result)
    known, g = without_nonfinite(g)
    g, scale = normalized(g)
    given = Problem(f, g[-1], reversed_inputs(states, problem.inputs, g), rows)
    state = _reversed_solve(given, method, options, unchanged)
    return finish_adjoint(state, scale, known), AdjointCounts(state.iterations, state.residual, state.result)


def _reversed_solve(
    given: Problem, method: LDSApproximation | AbstractStrategy, options: LoopOptions, unchanged: Unchanged | None
) -> LoopState:
    """The end of the loop on the adjoint recurrence.

    Args:
        given: `f` itself, with the last gradient and the inputs of the adjoint recurrence.
        method, options, unchanged: see `solve_adjoint`.
    """
    prev, _, before = given.inputs
    along = linearize_once(given.f, prev, unchanged, keep=options.window == given.length)
    try:
        return run(replace(given, f=AdjointRecurrence(along)), method, before, options)
    except Interrupted as interrupted:  # the user has no use for half an adjoint
        raise KeyboardInterrupt from interrupted
    except Exception as error:
        error.add_note("That was the adjoint recurrence of a backward pass, whose time steps run backwards.")
        raise
