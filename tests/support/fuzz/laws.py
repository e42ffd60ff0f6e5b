"""The laws of a solve that keeps its contract.

How far states may lie from those of the plain loop. Both obey the recurrence up to a defect per row, the solve's
residual and the rounding of `f`, so the difference `e_t` of their rows obeys

    |e_t| <= |J_t| |e_{t-1}| + atol + rtol |f| + c eps scale

with the Jacobian between the two trajectories. Its norm is taken at both, whichever is larger, and 5 % more, for it
changes in between. Once the bound has grown to a hundredth of the states, a linear bound says nothing any more, and
rows from there on are held to their residuals alone. Where the tolerance is 0 and `f` rounds alike in any company,
nothing of this is needed: the states are the loop's to the bit.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from fuzz.cases import Case, rows_of_loop

ROUNDING = 64
"""Units in the last place that an evaluation of one of the recurrences may be off, of its largest intermediate result:
they have about ten operations, and a row is accepted at four."""

INSPECTED = 0.01
"""Part of the size of the states that a linear bound may reach."""


IMPLICIT = 1e-7
"""The adjoint is solved to 1e-13 in float64, at states that are right to as much, and errors do not grow on the way."""

UNROLLED = 1e-3
"""Newton squares the error e of the states in an iteration, and multiplies that of their derivatives by e alone: states
to 1e-13 have derivatives to its root, times what the iterations before have left, a few thousand at most from afar."""


class Endless(Exception):
    """Raised by a counted `f` that is called more often than any solve needs."""


class Counted:
    """An `f` that counts its calls, so that nothing can hang."""

    def __init__(self, f: Any, length: int, sequences: int) -> None:
        self.f, self.calls, self.most = f, 0, 40 * (length + 3) * (sequences + 1)
        if hasattr(f, "linearize"):
            self.linearize = f.linearize

    def __call__(self, s: Tensor, u: Any) -> Tensor:
        self.calls += 1
        if self.calls > self.most:
            raise Endless(f"`f` was called {self.calls} times")
        return self.f(s, u)


def solved(case: Case, **changes: Any) -> li.Solution:
    """The solve of a case, by a counted `f`."""
    arguments = {"s0": case.s0, "inputs": case.inputs, **case.options, **changes}
    s0, inputs = arguments.pop("s0"), arguments.pop("inputs")
    f = Counted(case.f.f, len(inputs), s0[..., 0].numel())
    return li.solve(f, s0, inputs, case.method.method, **arguments)


def check_solve(case: Case, *, alone: bool) -> list[str]:
    """The laws that a case breaks, each as a name and figures; empty where it keeps them.

    Args:
        case: a call.
        alone: whether to solve every batch element by itself, too.
    """
    before = [case.s0.clone(), case.inputs.clone()]
    seen: list[li.Progress] = []
    watching = {"callback": seen.append} if case.seed % 4 == 0 else {}
    solution = solved(case, **watching)
    broken = [*_counts(case, solution), *_residuals(case, solution), *_states(case, solution)]
    if not (torch.equal(before[0], case.s0) and torch.equal(before[1], case.inputs)):
        broken.append("arguments: they were changed")
    broken += _progress(solution, seen) if seen else []
    broken += _recorded(solution, seen) if case.options.get("record") else []
    if alone and case.s0[..., 0].numel() > 1 and not case.method.timed:
        broken += _batch(case, solution)
    return broken


def _counts(case: Case, solution: li.Solution) -> list[str]:
    """At most T iterations, at most `max_iters`, and every sequence has one of the results that it may have."""
    broken, length = [], len(case.inputs)
    most = min(length, case.options.get("max_iters", length))
    if int(solution.iterations.max()) > most:
        broken.append(f"iterations: {int(solution.iterations.max())} of at most {most}")
    codes = {int(code) for code in solution.result.flatten()}
    allowed = {int(li.Result.SUCCESS), int(li.Result.NONFINITE)}
    allowed |= {int(li.Result.MAX_ITERS)} if most < length else set()
    allowed |= {int(li.Result.STOPPED)} if "stop" in case.options else set()
    if not codes <= allowed:
        broken.append(f"results: {codes} is not within {allowed}")
    return broken


def _evaluated(case: Case, states: Tensor) -> Tensor:
    """`f` along the states, `(T, *batch, D)`."""
    return case.f.f(torch.cat([case.s0.unsqueeze(0), states[:-1]]), case.inputs)


def _tolerance(case: Case) -> tuple[float, float]:
    default = 1e-5 if case.s0.dtype == torch.float32 else 1e-10
    return case.options.get("rtol", default), case.options.get("atol", default)


def _scales(case: Case, states: Tensor, value: Tensor) -> Tensor:
    """The size of the numbers that a row is made of, `(T, *batch, 1)`."""
    prev = torch.cat([case.s0.unsqueeze(0), states[:-1]])
    parts = [x.abs().amax(-1, keepdim=True) for x in (prev, value, case.inputs)]
    return torch.stack(torch.broadcast_tensors(*parts)).amax(0) + case.f.scale


def _residuals(case: Case, solution: li.Solution) -> list[str]:
    """What is reported is the residual of what is returned; and it is within tolerance where it says SUCCESS."""
    states, broken = solution.states, []
    value = _evaluated(case, states)
    residual = (value - states).abs()
    scale = _scales(case, states, value)
    rounding = torch.zeros_like(scale) if case.f.reproducible else ROUNDING * torch.finfo(states.dtype).eps * scale
    success = solution.result == int(li.Result.SUCCESS)
    rtol, atol = _tolerance(case)
    late = (residual > value.abs() * rtol + atol + rounding) & success.unsqueeze(-1)
    if bool(late.any()) or not bool(states.isfinite()[:, success].all()):
        broken.append(
            f"success: a residual of {float(residual[late].max()) if late.any() else 'inf'} passes for solved"
        )
    whole = case.options.get("window", len(states)) >= len(states)
    largest, reported = residual.amax((0, -1)), solution.residual
    room = rounding.amax((0, -1))
    same = ((largest - reported).abs() <= room) | (largest.isnan() & reported.isnan()) | (largest == reported)
    stepped = case.method.timed & reported.isnan() & (solution.result == int(li.Result.STOPPED))
    wrong = ~(same | stepped) & (success | (whole & (solution.result != int(li.Result.NONFINITE))))
    if bool(wrong.any()):
        broken.append(f"residual: {reported[wrong][:1].tolist()} reported, {largest[wrong][:1].tolist()} returned")
    return broken


def _states(case: Case, solution: li.Solution) -> list[str]:
    """The plain loop's states, as far as they have been solved for."""
    want, states = rows_of_loop(case.f.f, case.s0, case.inputs), solution.states
    rtol, atol = _tolerance(case)
    finite = want.isfinite().all(-1)  # (T, *batch)
    known = finite.to(torch.int64).cumprod(0).bool()
    success = solution.result == int(li.Result.SUCCESS)
    accepted = torch.where(success, len(states), solution.iterations)
    accepted = torch.where(solution.result == int(li.Result.NONFINITE), len(states), accepted)
    times = torch.arange(len(states)).view(-1, *[1] * success.ndim)
    rows = known & (times < accepted)
    tiny = rtol + atol < 1e-200
    if tiny and case.f.reproducible:
        same = (states == want).all(-1)
        wrong = rows & ~same & success
        if bool(wrong.any()):
            return [f"bits: row {int(wrong.reshape(len(wrong), -1).any(1).nonzero()[0])} is not the loop's"]
    if not case.f.smooth:
        return []
    bound, valid = _bound(case, want, states, torch.where(success, rtol, 0.0), torch.where(success, atol, 0.0))
    error = (states - want).abs().amax(-1)
    wrong = rows & valid & ~(error <= bound)
    if bool(wrong.any()):
        return [f"states: off by {float(error[wrong].max()):.2g} where {float(bound[wrong].max()):.2g} may be"]
    lost = (solution.result == int(li.Result.NONFINITE)) & (known & valid).all(0)
    if bool(lost.any()):
        return ["results: NONFINITE where the loop is finite"]
    return []


def _bound(case: Case, want: Tensor, states: Tensor, rtol: Tensor, atol: Tensor) -> tuple[Tensor, Tensor]:
    """How far each row may be off, `(T, *batch)`, and where that means something."""
    gain = torch.maximum(_gains(case, want), _gains(case, states)).nan_to_num(torch.inf)
    size = _scales(case, want, want).squeeze(-1)
    defect = want.abs().amax(-1) * rtol + atol + ROUNDING * torch.finfo(want.dtype).eps * size
    bound, rows = torch.zeros_like(size[0]), []
    for t in range(len(want)):
        bound = 1.05 * (gain[t] * bound).nan_to_num(0.0) + 1.05 * defect[t]
        rows.append(bound)
    bounds = torch.stack(rows)
    valid = ((bounds <= INSPECTED * size) & bounds.isfinite()).to(torch.int64).cumprod(0).bool()
    return bounds, valid


def _gains(case: Case, states: Tensor) -> Tensor:
    """The infinity norm of the Jacobian of every step, `(T, *batch)`, by torch alone, not by the library."""
    prev = torch.cat([case.s0.unsqueeze(0), states[:-1]])
    columns = [torch.func.jvp(lambda s: case.f.f(s, case.inputs), (prev,), (e.expand_as(prev),))[1]
               for e in torch.eye(prev.shape[-1], dtype=prev.dtype)]  # fmt: skip
    return torch.stack(columns, -1).abs().sum(-1).amax(-1)


def _progress(solution: li.Solution, seen: list[li.Progress]) -> list[str]:
    """Counts never fall, and the last look is the solution."""
    broken = []
    for one, next_one in itertools.pairwise(seen):
        if bool((next_one.iterations < one.iterations).any() | (next_one.accepted < one.accepted).any()):
            broken.append("progress: a count fell")
    last = seen[-1]
    for name in "iterations", "result", "residual", "resets":
        if not torch.equal(getattr(last, name).nan_to_num(-1), getattr(solution, name).nan_to_num(-1)):
            broken.append(f"progress: the last `{name}` is not the solution's")
    if not torch.equal(last.states.nan_to_num(), solution.states.nan_to_num()):
        broken.append("progress: the last states are not the solution's")
    return broken


def _batch(case: Case, together: li.Solution) -> list[str]:
    """Every element of a batch fares as it does alone: counts and codes exactly, states to the bit or to rounding."""
    exact = case.f.reproducible and case.method.alike
    whole = case.options.get("window", len(case.inputs)) >= len(case.inputs)
    batch, broken = case.s0.shape[:-1], []
    given = case.options.get("guess")
    for index in torch.cartesian_prod(*[torch.arange(n) for n in batch]).view(-1, len(batch)).tolist():
        one = tuple(index)
        changes = {"s0": case.s0[one], "inputs": case.inputs[(slice(None), *one)]}
        if isinstance(given, Tensor):
            changes["guess"] = given[(slice(None), *one)]
        alone = solved(case, **changes)
        states = together.states[(slice(None), *one)]
        if not exact:
            continue
        for name in ("result", "iterations", "resets") if whole else ("result",):
            if int(getattr(alone, name)) != int(getattr(together, name)[one]):
                broken.append(f"batch: {name} {int(getattr(alone, name))} alone, {int(getattr(together, name)[one])}")
        if not torch.equal(alone.states.nan_to_num(), states.nan_to_num()) and whole:
            broken.append(f"batch: states differ by {float((alone.states - states).abs().max()):.2g}")
    return broken


def _recorded(solution: li.Solution, seen: list[li.Progress]) -> list[str]:
    """The record ends with the solution, and has an entry for every look."""
    history, broken = solution.history, []
    if history is None:
        return ["record: there is none"]
    if not torch.equal(history.residual[-1].nan_to_num(-1), solution.residual.nan_to_num(-1)):
        broken.append("record: its last residual is not the solution's")
    if seen and len(history.residual) != len(seen):
        broken.append(f"record: {len(history.residual)} entries of {len(seen)} looks")
    if len(history.residual_map) != len(history.residual) or history.residual_map.shape[1] != len(solution.states):
        broken.append(f"record: a map {tuple(history.residual_map.shape)}")
    return broken


def check_gradients(case: Case) -> list[str]:
    """Gradients are those of the plain loop, to `IMPLICIT` or `UNROLLED` parts of the largest."""
    room = UNROLLED if isinstance(case.options.get("adjoint"), li.Unroll) else IMPLICIT
    numbers = torch.Generator().manual_seed(case.seed)
    loss_weight = torch.randn(case.inputs.shape, generator=numbers, dtype=torch.float64)
    s0, inputs = (x.detach().requires_grad_() for x in (case.s0, case.inputs))
    leaves = {"s0": s0, "inputs": inputs}
    if case.f.parameter is not None:
        leaves["the parameter"] = case.f.parameter.requires_grad_()
    f = Counted(case.f.f, len(inputs), s0[..., 0].numel())
    got = _gradients(li.solve(f, s0, inputs, case.method.method, **case.options).states, loss_weight, leaves)
    s, rows = s0, []
    for t in range(len(inputs)):
        s = case.f.f(s[None], inputs[t : t + 1])[0]
        rows.append(s)
    want = _gradients(torch.stack(rows), loss_weight, leaves)
    return [
        f"gradient: of {name} off by {float((one - other).abs().max()):.2g} of {float(other.abs().max()):.2g}"
        for name, one, other in zip(leaves, got, want, strict=True)
        if not bool(((one - other).abs() <= room * (1 + other.abs().max())).all())
    ]


def _gradients(states: Tensor, weight: Tensor, leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Of a loss by each leaf, zero by one that the states do not depend on."""
    if not states.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves.values())
    return torch.autograd.grad(
        (states * weight).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
