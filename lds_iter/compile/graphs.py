"""What `Compiled` compiles: an iteration, and the solve of a gradient, as functions from tensors to tensors.

    buffer, frontier, result, counts, residuals, carry  ->  the same, one iteration later

The frontier is a tensor in it, the scans are operators (`scan_operators`), and the age of the rows, an integer by which
`Then` and `Chord` choose, enters as the size of an empty tensor, which a compiler may leave open. The recurrence is an
argument too: compilers take the tensors in it for inputs, so that one with other weights is no other graph.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import AbstractDerivatives
from lds_iter.derivatives.reverse_mode import ReverseDerivatives
from lds_iter.gradients.adjoint_recurrence import (
    Fixed,
    Parts,
    Transposed,
    backwards,
    normalized,
    unwound,
    without_nonfinite,
)
from lds_iter.loop.run import iterate
from lds_iter.loop.state import Problem, Rules, Workspace
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.jacobi import Jacobi
from lds_iter.scan import operators as operators  # they keep the graphs small

Function = Callable[[Tensor, Any], Tensor]
Body = Callable[..., Any]
Fields = tuple[Any, ...]

FIELDS = (
    "buffer",
    "frontier",
    "result",
    "iterations",
    "residual",
    "accepted_residual",
    "evaluations",
    "resets",
    "carry",
)
"""What an iteration changes in a `Workspace`."""

RESULT = FIELDS.index("result")


def fields_of(state: Workspace) -> Fields:
    """What a body takes and returns of a workspace."""
    return tuple(getattr(state, name) for name in FIELDS)


def age_of(sweeps: int, like: Tensor) -> Tensor:
    """How many iterations came before, as the size of an empty tensor."""
    age = like.new_empty(sweeps + 2, 0)  # compilers take sizes of 0 and 1 for special ones
    torch._dynamo.maybe_mark_dynamic(age, 0)
    return age


def iteration(method: LDSApproximation, rtol: float, atol: float) -> Body:
    """One iteration: of `f`, the fields, the age, the limit of iterations, `s0` and the inputs; returns the fields, and
    the sequences whose last row it accepted."""

    def body(f: Function, fields: Fields, age: Tensor, limit: Tensor, s0: Tensor, inputs: Any) -> tuple[Fields, Tensor]:
        state = _workspace(fields, age)
        length = state.buffer.shape[0] - 1
        rules = Rules(rtol, atol, limit, length, record=False, observers=())
        finished = iterate(Problem(_Traceable(f), s0, inputs, length), method, state, rules)
        return fields_of(state), finished

    return _with_code_of_its_own(body)


def adjoint_begins(method: LDSApproximation, rtol: float, atol: float) -> Body:
    """The solve of a gradient by one iteration of `method`, and a Jacobi sweep, whose residual is that of the result.

    For a method that is exact for linear recurrences, as Newton's is, that is all. Takes `f`, the states, its inputs
    and the gradients of the states, `(T, *batch, D)`; returns the adjoints, the parts of the Jacobian that the method
    has asked for, and the fields.
    """

    def body(f: Function, states: Tensor, inputs: Any, g: Tensor) -> tuple[Tensor, Parts, Fields]:
        reversed_ = _Reversed(f, states, inputs, g, None)
        state = Workspace.start(reversed_.problem, method, reversed_.guess, reversed_.rules(rtol, atol))
        for step in method, Jacobi():
            iterate(reversed_.problem, step, state, reversed_.rules(rtol, atol))
        return reversed_.adjoint(state), reversed_.fixed.parts, fields_of(state)

    return _with_code_of_its_own(body)


def adjoint_goes_on(method: LDSApproximation, rtol: float, atol: float) -> Body:
    """One more iteration of what `adjoint_begins` began: of the same, the parts, the fields and the age."""

    def body(
        f: Function, states: Tensor, inputs: Any, g: Tensor, parts: Parts, fields: Fields, age: Tensor
    ) -> tuple[Tensor, Parts, Fields]:
        reversed_, state = _Reversed(f, states, inputs, g, parts), _workspace(fields, age)
        iterate(reversed_.problem, method, state, reversed_.rules(rtol, atol))
        return reversed_.adjoint(state), reversed_.fixed.parts, fields_of(state)

    return _with_code_of_its_own(body)


class _Reversed:
    """The adjoint recurrence along a solution, for one trace."""

    def __init__(self, f: Function, states: Tensor, inputs: Any, g: Tensor, parts: Parts | None) -> None:
        self._known, g = without_nonfinite(g)
        g, self._scale = normalized(g)
        prev, u, g_before = backwards(states, inputs, g)
        self.fixed, self.guess = Fixed(_Traceable(f).linearize(prev, u), parts), g_before
        transposed = Transposed(lambda prev, u: self.fixed)  # noqa: ARG005
        self.problem = Problem(transposed, g[-1], (prev, u, g_before), states.shape[0] - 1)

    def rules(self, rtol: float, atol: float) -> Rules:
        rows = self.problem.length
        limit = torch.full((), rows, device=self.guess.device)
        return Rules(rtol, atol, limit, rows, record=False, observers=())

    def adjoint(self, state: Workspace) -> Tensor:
        return unwound(state, self._scale, self._known)


class _Traceable:
    """`f`, with derivatives that can be compiled for any T."""

    def __init__(self, f: Function) -> None:
        self._f = f

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:
        return self._f(s, inputs)

    def linearize(self, s: Tensor, inputs: Any) -> AbstractDerivatives:
        own = getattr(self._f, "linearize", None)
        return ReverseDerivatives(self._f, s, inputs) if own is None else own(s, inputs)


def _workspace(fields: Fields, age: Tensor) -> Workspace:
    """The workspace of a trace; copies where the loop writes in place, which the compiler undoes."""
    given = dict(zip(FIELDS, fields, strict=True))
    for name in "buffer", "iterations", "evaluations", "resets":
        given[name] = given[name].clone()
    return Workspace(**given, spare=torch.empty_like(given["buffer"]), age=None, sweeps=age.shape[0] - 2)


def _with_code_of_its_own(body: types.FunctionType | Any) -> Body:
    """Compilers keep what they compile with the code of a function. A copy of the code makes it this body's own: it
    counts against no other body's limit, and dies with it."""
    return types.FunctionType(body.__code__.replace(), body.__globals__, body.__name__, None, body.__closure__)
