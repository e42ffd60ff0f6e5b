"""The functions that `Compiled` compiles: an iteration, and the solve of a gradient, from tensors to tensors.

    states, frontier, result, counts, residuals, carry, proposal  ->  the same, one iteration later

The iteration is `loop.iterate` itself. The frontier is a tensor in it, the scans are operators (`scan.operators`), and
the count of iterations, an integer by which `Then` and `Chord` choose, enters as the size of an empty tensor, which a
compiler may leave open. The recurrence is an argument too: compilers take the tensors in it for inputs, so that one
with other weights is no other graph.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.traceable import AbstractTraceable
from lds_iter.gradients.adjoint_recurrence import (
    AdjointRecurrence,
    CachedJacobian,
    JacobianParts,
    finish_adjoint,
    normalized,
    reversed_inputs,
    without_nonfinite,
)
from lds_iter.linear import operators as operators  # they keep the graphs small
from lds_iter.loop.iteration import evaluate, iterate
from lds_iter.loop.state import LoopOptions, LoopState, Problem, Proposal, first_state, take_proposal
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.jacobi import Jacobi
from lds_iter.recurrence import Function, own_linearize

Graph = Callable[..., Any]
Fields = tuple[Any, ...]
Derivatives = type[AbstractTraceable]

STATE = (
    "states",
    "frontier",
    "result",
    "iterations",
    "residual",
    "accepted_residual",
    "evaluations",
    "resets",
    "carry",
)
"""The fields of a `LoopState` that a graph takes and returns."""

PROPOSAL = ("states", "moves", "reach", "resets")
"""The fields of the pending proposal that it takes and returns."""

RESULT = STATE.index("result")


def fields_of(state: LoopState) -> Fields:
    """The tensors of a state that a graph takes and returns."""
    fields = tuple(getattr(state, name) for name in STATE)
    return fields if state.proposal is None else (*fields, *(getattr(state.proposal, name) for name in PROPOSAL))


def state_of(fields: Fields, count: int) -> LoopState:
    """The state with these fields: all rows at hand, no sliding window."""
    given, rest = dict(zip(STATE, fields[: len(STATE)], strict=True)), fields[len(STATE) :]
    length = given["states"].shape[0] - 1
    proposal = None
    if rest:
        states, moves, reach, resets = rest
        proposal = Proposal(states, 0, length, moves, reach, resets)
    return LoopState(proposal=proposal, age=None, count=count, **given)


def size_of(count: int, like: Tensor) -> Tensor:
    """The number of iterations so far, as the size of an empty tensor."""
    size = like.new_empty(count + 2, 0)  # compilers take sizes of 0 and 1 for special ones
    torch._dynamo.maybe_mark_dynamic(size, 0)
    return size


def iteration(method: LDSApproximation, rtol: float, atol: float, derivatives: Derivatives) -> Graph:
    """One iteration: of `f`, the fields, the count, the limit of iterations, `s0` and the inputs, the fields."""

    def graph(f: Function, fields: Fields, size: Tensor, limit: Tensor, s0: Tensor, inputs: Any) -> Fields:
        state = state_of(fields, size.shape[0] - 2)
        length = state.states.shape[0] - 1
        options = LoopOptions(rtol, atol, limit, length)
        problem = Problem(_Traceable(f, derivatives), s0, inputs, length)
        return fields_of(iterate(problem, method, state, options))

    return _copy_code_object(graph)


def first_adjoint_step(method: LDSApproximation, rtol: float, atol: float, derivatives: Derivatives) -> Graph:
    """The solve of a gradient by one iteration of `method`, and a Jacobi iteration, whose residual is the result's.

    For a method that is exact for linear recurrences, as Newton's is, that is all. Takes `f`, the states, its inputs
    and the gradients of the states, `(T, *batch, D)`; returns the adjoints, the parts of the Jacobian that the method
    has asked for, and the fields.
    """

    def graph(f: Function, states: Tensor, inputs: Any, g: Tensor) -> tuple[Tensor, JacobianParts, Fields]:
        adjoint = _Adjoint(_Traceable(f, derivatives), states, inputs, g, None)
        options = adjoint.options(rtol, atol)
        state = first_state(adjoint.problem, method, adjoint.guess, options)
        state = evaluate(adjoint.problem, method, state, options)
        carry = state.carry
        state = evaluate(adjoint.problem, Jacobi(), take_proposal(state, adjoint.problem.length), options)
        state = replace(state, carry=carry)
        return adjoint.finished(state), adjoint.cached.parts, fields_of(state)

    return _copy_code_object(graph)


def next_adjoint_step(method: LDSApproximation, rtol: float, atol: float, derivatives: Derivatives) -> Graph:
    """One more iteration of what `first_adjoint_step` began: of the same, the parts, the fields and the count."""

    def graph(
        f: Function, states: Tensor, inputs: Any, g: Tensor, parts: JacobianParts, fields: Fields, size: Tensor
    ) -> tuple[Tensor, JacobianParts, Fields]:
        traceable, state = _Traceable(f, derivatives), state_of(fields, size.shape[0] - 2)
        adjoint = _Adjoint(traceable, states, inputs, g, parts)
        state = iterate(adjoint.problem, method, state, adjoint.options(rtol, atol))
        return adjoint.finished(state), adjoint.cached.parts, fields_of(state)

    return _copy_code_object(graph)


class _Adjoint:
    """The adjoint recurrence along a solution, for one trace."""

    def __init__(self, f: _Traceable, states: Tensor, inputs: Any, g: Tensor, parts: JacobianParts | None) -> None:
        self._known, g = without_nonfinite(g)
        g, self._scale = normalized(g)
        prev, u, g_before = reversed_inputs(states, inputs, g)
        self.cached, self.guess = CachedJacobian(f.linearize(prev, u), parts), g_before
        recurrence = AdjointRecurrence(lambda prev, u: self.cached)  # noqa: ARG005
        self.problem = Problem(recurrence, g[-1], (prev, u, g_before), states.shape[0] - 1)

    def options(self, rtol: float, atol: float) -> LoopOptions:
        rows = self.problem.length
        return LoopOptions(rtol, atol, torch.full((), rows, device=self.guess.device), rows)

    def finished(self, state: LoopState) -> Tensor:
        return finish_adjoint(state, self._scale, self._known)


class _Traceable:
    """`f`, with derivatives that can be compiled for any T."""

    def __init__(self, f: Function, derivatives: Derivatives) -> None:
        self._f, self._derivatives = f, derivatives

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:
        return self._f(s, inputs)

    def linearize(self, s: Tensor, inputs: Any) -> AbstractDerivatives:
        own = own_linearize(self._f)
        return self._derivatives(self._f, s, inputs) if own is None else own(s, inputs)


def _copy_code_object(graph: types.FunctionType | Any) -> Graph:
    """Compilers keep what they compile with the code of a function. A copy of the code makes it this graph's own: it
    counts against no other graph's limit, and dies with it."""
    return types.FunctionType(graph.__code__.replace(), graph.__globals__, graph.__name__, None, graph.__closure__)
