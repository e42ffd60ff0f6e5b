"""`f` along a guess: its values and its derivatives, and what a method is given to choose its LDS from.

`f(s, u)` acts on every row (time step and batch mate) by itself, so its Jacobian with respect to all states is block
diagonal, and one forward-mode product with the same tangent in every row gives one column of every block at once. This
is the only module that uses `torch.func`. A recurrence that knows its own derivatives offers them through a method
`linearize(s, u) -> AbstractDerivatives`, and then no autodiff runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter._torch import kept
from lds_iter.loop.scan_plan import ScanPlan
from lds_iter.recurrence import take_rows
from lds_iter.scan.transitions import AbstractTransition

CHUNK_ELEMENTS = 1 << 20
"""Forward-mode products run side by side in chunks of at most this many elements (4 MiB in float32, times the handful
of intermediate results of `f`)."""


class AbstractDerivatives(ABC):
    """The value of `f` at some rows and its derivatives with respect to the state there, each computed when asked for.

    Attributes:
        value: `f(s, u)`, `(n, *batch, D)`.
    """

    value: Tensor

    @abstractmethod
    def jvp(self, v: Tensor) -> Tensor:
        """`J_t v_t` for all rows; `v` and the result `(n, *batch, D)`."""

    @abstractmethod
    def vjp(self, w: Tensor) -> Tensor:
        """`J_t^T w_t` for all rows; `w` and the result `(n, *batch, D)`."""

    @abstractmethod
    def jacobian(self) -> Tensor:
        """`J_t[i, j] = d f_i / d s_j` for all rows, `(n, *batch, D, D)`."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """The diagonal of `J_t`, exactly, `(n, *batch, D)`."""

    @abstractmethod
    def block_diagonal(self, size: int) -> Tensor:
        """The blocks of `size` along the diagonal of `J_t`, `(n, *batch, D // size, size, size)`."""


class FunctionDerivatives(AbstractDerivatives):
    """Derivatives of a plain function by `torch.func`: `D` forward-mode products for anything but `jvp` and `vjp`.

    The products run under `vmap`, several at a time, within `CHUNK_ELEMENTS`.
    """

    def __init__(self, f: Callable[[Tensor, Any], Tensor], prev: Tensor, inputs: Any) -> None:
        self._f = lambda s: f(s, inputs)
        self._prev = prev
        self.value = self._f(prev)

    def jvp(self, v: Tensor) -> Tensor:
        return torch.func.jvp(self._f, (self._prev,), (v,))[1]

    @kept
    def _pullback(self) -> Callable[[Tensor], tuple[Tensor]]:
        return torch.func.vjp(self._f, self._prev)[1]

    def vjp(self, w: Tensor) -> Tensor:
        return self._pullback(w)[0]

    def jacobian(self) -> Tensor:
        return self._per_column(lambda column, _: column).movedim(0, -1)

    def diagonal(self) -> Tensor:
        return self._per_column(lambda column, e: (column * e).sum(-1)).movedim(0, -1)

    def block_diagonal(self, size: int) -> Tensor:
        def own_block(column: Tensor, e: Tensor) -> Tensor:
            return (column.unflatten(-1, (-1, size)) * e.view(-1, size).sum(-1, keepdim=True)).sum(-2)

        columns = self._per_column(own_block)  # (D, n, *batch, size)
        return columns.unflatten(0, (-1, size)).movedim((0, 1), (-3, -1))

    def _per_column(self, keep: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What `keep(J e_j, e_j)` retains of every column `j`, stacked in front."""
        width = self._prev.shape[-1]
        chunk = max(1, CHUNK_ELEMENTS // max(1, self._prev.numel()))
        basis = torch.eye(width, dtype=self._prev.dtype, device=self._prev.device)
        push = torch.func.vmap(lambda e: keep(self.jvp(e.expand_as(self._prev)), e), chunk_size=min(chunk, width))
        return push(basis)


@dataclass(frozen=True)
class ElementwiseDerivatives(AbstractDerivatives):
    """For an `f` that acts on every coordinate by itself, so that its Jacobian is a diagonal.

    Attributes:
        value: `f(s, u)`, `(n, *batch, D)`.
        slope: `d f_i / d s_i`, the same shape.
    """

    value: Tensor
    slope: Tensor

    def jvp(self, v: Tensor) -> Tensor:
        return self.slope * v

    def vjp(self, w: Tensor) -> Tensor:
        return self.slope * w

    def jacobian(self) -> Tensor:
        return torch.diag_embed(self.slope)

    def diagonal(self) -> Tensor:
        return self.slope

    def block_diagonal(self, size: int) -> Tensor:
        return torch.diag_embed(self.slope.unflatten(-1, (-1, size)))


def linearize(f: Callable[[Tensor, Any], Tensor], prev: Tensor, inputs: Any) -> AbstractDerivatives:
    """`f` and its derivatives at `prev`: the recurrence's own where it offers them, else by `torch.func`."""
    own = getattr(f, "linearize", None)
    return FunctionDerivatives(f, prev, inputs) if own is None else own(prev, inputs)


@dataclass(frozen=True)
class Linearization:
    """`f` along the current guess, for the rows at hand: all that a method gets to see.

    Attributes:
        prev: the guess of `s_{t-1}`, `(n, *batch, D)`.
        residual: `r_t = f(prev_t, u_t) - s_t`, `(n, *batch, D)`; zero in the rows that are accepted.
        derivatives: the value of `f` and its derivatives at `prev`.
        start: the time of the first row at hand, counted from 0.
        age: updates that a row has had: a number, or one per row, `(n, *batch, 1)`, while a window slides.
        active: the sequences that take part in this iteration, bool, `(*batch)`. The others have ended, or rest until
            their mates have come up in a sliding window: no update moves them, and a method with a carry must keep
            what it has of them.
        entered: the sequences that come to this method now, from another one, bool, `(*batch)`: it has nothing of them
            yet, whatever it has of their mates. None where all have been here from the start.
    """

    prev: Tensor
    residual: Tensor
    derivatives: AbstractDerivatives
    start: int
    age: int | Tensor
    active: Tensor
    _plan: ScanPlan
    _initial: Tensor
    entered: Tensor | None = None

    @property
    def open(self) -> Tensor:
        """True in the rows that may move in this iteration: not accepted yet, and within the window, `(n, *batch, 1)`.

        A method that measures something over time measures these rows, or batch mates will feel each other.
        """
        return self._plan.open(self.residual.shape[0])

    @property
    def value(self) -> Tensor:
        """`f(prev_t, u_t)`, `(n, *batch, D)`."""
        return self.derivatives.value

    def jvp(self, v: Tensor) -> Tensor:
        """`J_t v_t`; one forward-mode product."""
        return self.derivatives.jvp(v)

    def vjp(self, w: Tensor) -> Tensor:
        """`J_t^T w_t`; one reverse-mode product."""
        return self.derivatives.vjp(w)

    def jacobian(self) -> Tensor:
        """`J_t`, `(n, *batch, D, D)`; D forward-mode products unless the recurrence knows better."""
        return self.derivatives.jacobian()

    def diagonal(self) -> Tensor:
        """The exact diagonal of `J_t`, `(n, *batch, D)`; D forward-mode products unless the recurrence knows better."""
        return self.derivatives.diagonal()

    def block_diagonal(self, size: int) -> Tensor:
        """The diagonal blocks of `J_t`, `(n, *batch, D // size, size, size)`."""
        return self.derivatives.block_diagonal(size)

    @property
    def free(self) -> Tensor:
        """True in the rows that lie behind the frontier row and may move, `(n, *batch, 1)`."""
        return self._plan.free(self.residual.shape[0])

    @property
    def cells(self) -> list[tuple[slice, int]]:
        """How scans are split: the rows of each cell, and how many rows of it are missing before those at hand.

        A method with a scan of its own splits it so, with zeros for what is missing, so that it rounds the same in
        any company.
        """
        return self._plan.cells(self.residual.shape[0])

    def scan_back(self, transition: AbstractTransition, b: Tensor) -> Tensor:
        """Solve `x_t = A_t x_{t+1} + b_t` over the rows at hand; nothing is cut: mask `A` by `free`."""
        return self._plan.scan_back(transition, b)

    def scan(self, transition: AbstractTransition, b: Tensor) -> Tensor:
        """Solve `d_t = A_t d_{t-1} + b_t` with the accepted rows held fixed (`d = 0` there)."""
        return self._plan.scan(transition, b, self._initial, torch.empty_like(b, memory_format=torch.contiguous_format))

    def after(self, d: Tensor) -> Linearization:
        """The same, with `d`, `(*batch, D)`, as the update of the row before the first one at hand."""
        return replace(self, _initial=d)

    def solve_in_place(self, transition: AbstractTransition) -> Tensor:
        """`scan(transition, residual)` in the memory of the residual, which is lost: for a method's last step."""
        return self._plan.scan(transition, self.residual, self._initial, self.residual)


def linearize_along(
    f: Callable[[Tensor, Any], Tensor], prev: Tensor, states: Tensor, inputs: Any, *, rows: int, age: int
) -> Iterator[Linearization]:
    """`f` along a trajectory outside of the loop: nothing is accepted, nothing is cut.

    Args:
        f: the recurrence.
        prev: the states before each step, `(T, *batch, D)`.
        states: the states after each step, `(T, *batch, D)`.
        inputs: of all T steps.
        rows: time steps of one linearization; each begins as if the update before it were zero.
        age: what the rows pretend their age to be.
    """
    nowhere = torch.full(prev.shape[1:-1], -1, device=prev.device)
    zero = torch.zeros_like(prev[0])
    for first in range(0, prev.shape[0], rows):
        some = slice(first, min(first + rows, prev.shape[0]))
        derivatives = linearize(f, prev[some], take_rows(inputs, some.start, some.stop))
        plan = ScanPlan(first, rows, nowhere, -1, -1)
        residual = derivatives.value - states[some]
        yield Linearization(prev[some], residual, derivatives, first, age, nowhere < 0, plan, zero)
