"""The solvers of the bench: ours, torchdiffeq, torchode, a compiled loop, and parallel-ode's method in torch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchdiffeq
from torch import Tensor

import lds_iter as li
from bench.ode.cases import Case, Func

Solver = Callable[[Func, Tensor, Tensor], Tensor]

UNROLLED_STEPS = 10
"""Steps in one compiled call of the loop."""

NOTHING = 10**9


@dataclass(frozen=True)
class Entry:
    """A solver.

    Attributes:
        name: in the table.
        solve: from func, y0 `(B, D)` and t `(N + 1)` to states `(N + 1, B, D)`.
        most: steps going forward; more would take minutes.
        most_back: steps times batch with gradients.
        why, why_back: the reasons.
        only: names of the equations that it is for; all when empty.
        package: what it needs beyond the development extra.
    """

    name: str
    solve: Solver
    most: int = NOTHING
    most_back: int = NOTHING
    why: str = ""
    why_back: str = ""
    only: tuple[str, ...] = ()
    package: str = ""

    def left_out(self, case: Case, *, back: bool) -> str | None:
        """The reason why a case is not measured; None where it is."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        if case.steps > self.most:
            return self.why
        return self.why_back if back and case.steps * case.batch > self.most_back else None


def ours(func: Func, y0: Tensor, t: Tensor) -> Tensor:
    return li.ode.odeint(func, y0, t, method="rk4")


def ours_as_deer(func: Func, y0: Tensor, t: Tensor) -> Tensor:
    return li.ode.odeint(func, y0, t, method="deer")


def by_torchdiffeq(func: Func, y0: Tensor, t: Tensor) -> Tensor:
    return torchdiffeq.odeint(func, y0, t, method="rk4")  # pyright: ignore[reportReturnType]


def by_torchode(func: Func, y0: Tensor, t: Tensor) -> Tensor:
    torchode: Any = importlib.import_module("torchode")
    step = torchode.Tsit5(term=torchode.ODETerm(func))
    solver = torchode.AutoDiffAdjoint(step, torchode.FixedStepController())
    problem = torchode.InitialValueProblem(y0=y0, t_eval=t.expand(len(y0), -1).contiguous())
    return solver.solve(problem, dt0=(t[1] - t[0]).expand(len(y0))).ys.transpose(0, 1)


def rk4(func: Func, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """Kutta's 3/8 rule, as torchdiffeq has it; the times and sizes of steps broadcast against `y`."""
    a = func(t, y)
    b = func(t + h / 3, y + h * a / 3)
    c = func(t + h * 2 / 3, y + h * (b - a / 3))
    d = func(t + h, y + h * (a - b + c))
    return y + h * (a + 3 * (b + c) + d) / 8


class CompiledLoop:
    """`torch.compile` of ten steps at a time; each equation is compiled once."""

    def __init__(self) -> None:
        self._compiled: dict[Func, Callable[[Tensor, Tensor, Tensor], Tensor]] = {}

    def __call__(self, func: Func, y0: Tensor, t: Tensor) -> Tensor:
        if func not in self._compiled:

            def some(t: Tensor, h: Tensor, y: Tensor) -> Tensor:
                found = []
                for i in range(UNROLLED_STEPS):
                    y = rk4(func, t[i], h, y)
                    found.append(y)
                return torch.stack(found)

            self._compiled[func] = torch.compile(some, fullgraph=True)
        parts, h = [y0.unsqueeze(0)], t[1] - t[0]
        for first in range(0, len(t) - 1, UNROLLED_STEPS):
            parts.append(self._compiled[func](t[first : first + UNROLLED_STEPS], h, parts[-1][-1]))
        return torch.cat(parts)


def parallel_ode(func: Func, y0: Tensor, t: Tensor) -> Tensor:
    """Iacob, Razavi, Sarkka (arXiv 2511.01465) in torch: Newton from a constant guess by an associative scan.

    The constant is 1: from the initial state it overflows. Stops at a correction of 1e-12, or after 100, which theirs
    does not.
    """
    left, h = t[:-1].view(-1, 1, 1), t.diff().view(-1, 1, 1)
    states = torch.ones_like(y0).expand(len(t) - 1, *y0.shape)
    eye = torch.eye(y0.shape[-1], dtype=y0.dtype)
    for _ in range(100):
        before = torch.cat([y0.unsqueeze(0), states[:-1]])

        def step(y: Tensor) -> Tensor:
            return rk4(func, left, h, y)

        columns = [torch.func.jvp(step, (before,), (e.expand_as(before),))[1] for e in eye]
        correction = step(before) - states
        li.reference_scan(li.Dense(torch.stack(columns, -1)), correction)
        states = states + correction
        if not float(correction.abs().max()) >= 1e-12:  # or NaN
            break
    return torch.cat([y0.unsqueeze(0), states])


OURS = "lds_iter, rk4"

ENTRIES = (
    Entry(OURS, ours),
    Entry("lds_iter, deer", ours_as_deer, only=("DEER's zero test",)),
    Entry(
        "torchdiffeq, rk4", by_torchdiffeq, 100_000, 640_000 // 2, "it takes minutes",
        "its gradient takes time and memory traffic in proportion to the square of the steps",
    ),
    Entry(
        "torchode, Tsit5, fixed steps", by_torchode, 10_000, 10_000, "it takes minutes", "it takes minutes",
        package="torchode",
    ),
    Entry("torch.compile, 10 steps a call", CompiledLoop(), only=("van der Pol", "Lorenz")),
    Entry(
        "parallel-ode's method, in torch", parallel_ode, most_back=0, why_back="its code has no gradient",
        only=("van der Pol",),
    ),
)  # fmt: skip
