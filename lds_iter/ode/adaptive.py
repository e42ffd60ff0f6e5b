"""Grids of steps whose sizes suit the solution, chosen once and then kept.

Where an adaptive solver steps depends on what it found before, which no parallel solve can know. But its grid may be
chosen once, by torchdiffeq or from a coarse solution, and serve as a fixed one from then on: for a batch of solutions,
for the epochs of a training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lds_iter.methods.spelling import spelled
from lds_iter.ode.explicit import ExplicitRungeKutta, ExplicitStep
from lds_iter.ode.field import Func, make_field
from lds_iter.ode.grids import check_times, subdivided
from lds_iter.ode.integrate import integrate
from lds_iter.ode.methods import ADAPTIVE, find_method

COARSE_STEPS = 128
"""The coarse pass takes so many steps or more."""

MOST_SUBSTEPS = 100_000
"""Of one coarse step: more mean that the coarse solution is worthless."""


@torch.no_grad()
@spelled
def adaptive_grid(
    func: Func, y0: Any, t: Tensor, *, rtol: float = 1e-7, atol: float = 1e-9, method: str = "rk4"
) -> Tensor:
    """The nodes of steps with a local error within `atol + rtol |y|`, for the argument `grid` of `odeint`.

    Args:
        func: as in `odeint`.
        y0: as in `odeint`; of a batch, the most demanding element decides.
        t: the times wanted, `(N)`; they are nodes, too.
        rtol: of one step.
        atol: of one step.
        method: an explicit method of `odeint`, for a coarse solution whose steps are divided by what two half steps
            differ from a whole one; or an adaptive method of torchdiffeq, such as `"dopri5"`, for the steps that it
            accepts.

    Returns:
        Nodes `(T + 1)` from `t[0]` to `t[-1]`.

    Raises:
        ImportError: `method` is torchdiffeq's, and torchdiffeq is not installed.
        ValueError: the coarse solution is not finite, or `method` is implicit.

    Example:
        >>> grid = li.ode.adaptive_grid(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 2.0]))
        >>> float(grid[0]), float(grid[-1])
        (0.0, 2.0)
    """
    check_times("t", t)
    if method in ADAPTIVE:
        return _accepted(func, y0, t, rtol, atol, method)
    rule = find_method(method)
    if not isinstance(rule, ExplicitRungeKutta):
        raise ValueError(f"`method` must be explicit, or one of torchdiffeq's {', '.join(ADAPTIVE)}; got '{method}'.")
    coarse = subdivided(t, torch.full((len(t) - 1,), -(-COARSE_STEPS // (len(t) - 1)), device=t.device))
    states = integrate(func, y0, coarse, method=method, throw=False).solution.states
    field, s0 = make_field(func, y0, t[0], None)
    before, step = torch.cat([s0.unsqueeze(0), states[:-1]]), ExplicitStep(field, rule)
    left, size = coarse[:-1], coarse.diff()
    halves = step(step(before, (left, size / 2)), (left + size / 2, size / 2))
    error = (states - halves).abs() / (1 - 2.0**-rule.order)
    excess = (error / (atol + rtol * halves.abs())).flatten(1).amax(1)
    counts = excess.pow(1 / (rule.order + 1)).ceil().clamp(min=1)
    if not bool((counts <= MOST_SUBSTEPS).all()):
        raise ValueError(
            f"The coarse solution of {len(left)} steps is worthless: its local error is {float(excess.max()):.2g} "
            "times what is wanted. Give more times in `t`, or type method='dopri5' for torchdiffeq's steps."
        )
    return subdivided(coarse, counts.to(torch.int64))


def _accepted(func: Func, y0: Any, t: Tensor, rtol: float, atol: float, method: str) -> Tensor:
    """The times from which torchdiffeq's method accepted a step, and those wanted."""
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise ImportError(
            f"`method='{method}'` runs torchdiffeq. Type `pip install 'lds-iter[ode]'`, or method='rk4' for a grid "
            "from a coarse solution of ours."
        ) from error
    recorder = _Recorder(func)
    odeint(recorder, y0, t, rtol=rtol, atol=atol, method=method)
    falling = bool(t[-1] < t[0])
    found = torch.stack(recorder.times).to(t)
    low, high = (t[-1], t[0]) if falling else (t[0], t[-1])
    inside = found[(found > low) & (found < high)]
    nodes = torch.cat([inside, t]).unique()
    return nodes.flip(0) if falling else nodes


class _Recorder:
    """`func`, with the times of accepted steps, as torchdiffeq reports them."""

    def __init__(self, func: Func) -> None:
        self.func = func
        self.times: list[Tensor] = []

    def __call__(self, t: Tensor, y: Any) -> Any:
        return self.func(t, y)

    def callback_accept_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:  # noqa: ARG002
        self.times.append(t0.detach().clone())
