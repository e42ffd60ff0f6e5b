"""The laws of a recurrence: it maps every row by itself, the same at every call, and what else it offers agrees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.checks import check_f, check_inputs, check_state
from lds_iter.methods.jacobi import Jacobi
from lds_iter.methods.newton import Newton
from lds_iter.methods.spelling import spelled
from lds_iter.recurrence import (
    Function,
    detached,
    is_linear,
    own_fused_iteration,
    own_linearize,
    own_solve_adjoint,
    own_steps,
    take_rows,
)
from lds_iter.solve import solve
from lds_iter.testing.findings import Examination, Findings, Measurements
from lds_iter.testing.of_derivatives import ROUNDINGS_OF_A_DERIVATIVE, by_backpropagation, check_derivatives
from lds_iter.testing.of_transitions import near, random_vectors
from lds_iter.testing.plainly import plain_loop

OWN_ROW = (
    "In order of likelihood: it mixes time steps or batch elements (attention, `cumsum`, a norm or a mean over leading "
    "dimensions); it is random (`.eval()`, noise in `inputs`); it counts its calls or keeps a state; it writes into "
    "its arguments."
)


@spelled
def check_recurrence(f: Function, s0: Tensor, inputs: Any, *, seed: int = 0, throw: bool = True) -> Findings:
    """Check all that `solve` asks of a recurrence, and every part that it offers beyond its value.

    Runs the loop over all time steps and evaluates each row alone, so T = 20 to 100 will do.

    Args:
        f, s0, inputs: as `solve` takes them; best in float64, T of 4 or more and a batch of 2 or more.
        seed: of the vectors.
        throw: raise where a law does not hold; otherwise see `Findings.passed`.

    Returns:
        What was found, law by law: print it.

    Raises:
        BrokenLaws: an AssertionError, with the findings.
        TypeError, ValueError: for `s0` or `inputs` that cannot work.

    Example:
        >>> s0, u = torch.zeros(2, 3, dtype=torch.float64), torch.randn(20, 2, 3, dtype=torch.float64)
        >>> li.testing.check_recurrence(lambda s, u: torch.tanh(0.5 * s + u), s0, u).passed
        True
    """
    check_state(s0)
    length = check_inputs(inputs, s0)
    s0, inputs = s0.detach(), detached(inputs)
    look = Examination(f"recurrence {getattr(f, '__name__', type(f).__name__)}")
    with look.law("is what `solve` takes", "shapes, types, rows and batch elements at the first steps", "See it."):
        check_f(f, s0, inputs, length)
    if not look.findings():
        return look.ended(throw)
    with torch.no_grad():
        truth = plain_loop(f, s0, inputs)
        prev = torch.cat([s0.unsqueeze(0), truth[:-1]])
        part = ROUNDINGS_OF_A_DERIVATIVE * torch.finfo(s0.dtype).eps
        _check_rows(look, f, prev, inputs, part)
        _check_offers(look, f, s0, inputs, truth, seed)
    _check_solve(look, f, s0, inputs, truth)
    found = look.findings()
    if own_linearize(f) is not None:
        found = found + check_derivatives(f, prev, inputs, seed=seed, throw=False)
    return found.raise_if_failed() if throw else found


def _check_rows(look: Examination, f: Function, prev: Tensor, inputs: Any, part: float) -> None:
    length = len(prev)
    with look.law("maps every row by itself", "f of all rows at once is f of each row alone", OWN_ROW) as measured:
        whole = f(prev, inputs)
        alone = torch.cat([f(prev[t : t + 1], take_rows(inputs, t, t + 1)) for t in range(length)])
        near(measured, whole, alone, "all rows at once", part)
        order = torch.arange(length - 1, -1, -1, device=prev.device)
        flipped = pytree.tree_map(lambda leaf: leaf[order] if isinstance(leaf, Tensor) else leaf, inputs)
        near(measured, f(prev[order], flipped)[order], alone, "rows in reverse order", part)
    with look.law(
        "keeps the batch apart", "another state of one element changes no other element", OWN_ROW
    ) as measured:
        moved = prev.clone().reshape(length, -1, prev.shape[-1])
        moved[:, 0] += 0.1 * (1 + moved[:, 0].abs())
        value = f(moved.view_as(prev), inputs).reshape_as(moved)[:, 1:]
        near(measured, value, whole.reshape_as(moved)[:, 1:], "the other elements", part)
    with look.law(
        "is a function", "the same arguments give the same values, and stay as they are", OWN_ROW
    ) as measured:
        given = [leaf.clone() for leaf in pytree.tree_leaves((prev, inputs)) if isinstance(leaf, Tensor)]
        once = f(prev, inputs)
        kept = once.clone()
        f(prev + 1, inputs)
        measured.close(once, kept, "an earlier value after another call", rtol=0, atol=0)
        measured.close(f(prev, inputs), kept, "a second call", rtol=0, atol=0)
        after = [leaf for leaf in pytree.tree_leaves((prev, inputs)) if isinstance(leaf, Tensor)]
        measured.true(all(map(torch.equal, given, after)), "an argument has changed")


def _check_offers(look: Examination, f: Function, s0: Tensor, inputs: Any, truth: Tensor, seed: int) -> None:
    """What a recurrence may know beyond its value; see `lds_iter.recurrence`."""
    part = ROUNDINGS_OF_A_DERIVATIVE * torch.finfo(s0.dtype).eps
    prev, (g,) = torch.cat([s0.unsqueeze(0), truth[:-1]]), random_vectors(truth, seed, 1)
    steps, adjoint, fused = own_steps(f), own_solve_adjoint(f), own_fused_iteration(f)
    if steps is not None:
        with look.law("steps", "`steps(s0, inputs)` is the loop", "None leaves a case to the library.") as measured:
            found = steps(s0, inputs)
            measured.close(truth if found is None else found, truth, "steps", rtol=part, atol=part)
    if adjoint is not None:
        with look.law(
            "solve_adjoint", "l_t = g_t + J_{t+1}^T l_{t+1}, from the states before each step", "Row t has J of t + 1."
        ) as measured:
            found = adjoint(prev, inputs, g)
            if found is not None:
                near(measured, found, _adjoint(f, prev, inputs, g), "l", part)
    if fused is not None:
        with look.law("fused_iteration", "a solve by it ends at the states of the loop", "See IterationRequest.") as m:
            close_to(m, solve(f, s0, inputs, Newton()).states, truth, "Newton")
    if is_linear(f):
        with look.law("is_linear", "f(s + v) - f(s) does not depend on s", "Leave `is_linear` out.") as measured:
            other = f(prev + 2 * g, inputs) - f(prev + g, inputs)
            near(measured, other, f(prev + g, inputs) - f(prev, inputs), "a step along v", part)


def _adjoint(f: Function, prev: Tensor, inputs: Any, g: Tensor) -> Tensor:
    _, jacobian = by_backpropagation(f, prev, inputs)
    rows = [g[-1]]
    for t in range(len(g) - 2, -1, -1):
        rows.append(g[t] + (jacobian[t + 1].mT @ rows[-1].unsqueeze(-1))[..., 0])
    return torch.stack(rows[::-1])


def close_to(measured: Measurements, found: Tensor, truth: Tensor, what: str, solved: float | None = None) -> None:
    """States beside those of the loop: 1,000 times the tolerance `solved` to, for what adds up over time.

    Args:
        measured: takes the comparison.
        found, truth: states.
        what: what is compared, in words.
        solved: rtol and atol of the solve; the default of `solve` when None.
    """
    usual = 1e-5 if found.dtype == torch.float32 else 1e-10
    tolerance = 1e3 * (usual if solved is None else solved)
    measured.close(found, truth, what, rtol=tolerance, atol=tolerance)


def _check_solve(look: Examination, f: Function, s0: Tensor, inputs: Any, truth: Tensor) -> None:
    with (
        look.law(
            "is solved",
            "`solve` ends at the states of the loop, in at most T iterations",
            "If all laws above hold, the recurrence amplifies: li.verify(f, s0, inputs) says how much.",
        ) as measured,
        torch.no_grad(),
    ):
        for method in Jacobi(), Newton():
            solution = solve(f, s0, inputs, method, throw=False)
            measured.true(solution.converged, f"{method!r} ended with {solution!r}")
            close_to(measured, solution.states, truth, repr(method))
    with (
        look.law(
            "has the gradient of the loop",
            "with respect to s0",
            "The adjoint is solved with `linearize`, `solve_adjoint` or torch.func: see the laws about these.",
        ) as measured,
        torch.enable_grad(),
    ):
        start = s0.clone().requires_grad_()
        ours = torch.autograd.grad(solve(f, start, inputs).states.sum(), start)[0]
        theirs = torch.autograd.grad(plain_loop(f, start, inputs).sum(), start)[0]
        close_to(measured, ours, theirs, "s0")
