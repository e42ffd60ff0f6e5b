"""`f` along the current guess: all that a method gets to see when it chooses its linear dynamical system."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.derivatives.autodiff import FunctionDerivatives, linearize
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.refusals import refusals_of
from lds_iter.derivatives.structured import structure_of
from lds_iter.distributed.over_time import OverTime
from lds_iter.distributed.shards import TimeShards
from lds_iter.distributed.shared_scan import shared_reverse_scan, shared_scan
from lds_iter.linear.cut import Cut, cut_scan
from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.transitions import AbstractTransition, Dense
from lds_iter.recurrence import Function


@dataclass(frozen=True)
class Linearization:
    """`f` along the current guess, for n rows (time steps) at hand.

    Attributes:
        prev: the guess of `s_{t-1}`, `(n, *batch, D)`.
        states: the guess of `s_t`, `(n, *batch, D)`.
        residual: `r_t = f(prev_t, u_t) - s_t`, `(n, *batch, D)`; zero in the rows that are accepted.
        derivatives: the value of `f` and its derivatives at `prev`.
        inputs: `u_t` of these rows, a pytree of tensors that lead with n.
        rows: the times of these rows, counted from 0, a slice.
        length: T, the time steps of the whole sequence, of which these rows are some or all.
        iteration: updates that a row has had: a number, or one per row, int, `(n, *batch, 1)`, while a window slides.
        active: the sequences that take part in this iteration, bool, `(*batch)`. The others have ended, or wait until
            the rest of the batch has come up in a sliding window: a method with a carry keeps what it has of them (see
            `keep`).
        entered: the sequences that come to this method now, from another one, bool, `(*batch)`; None where all have
            been here from the start. A method has nothing of them in its carry yet.
    """

    prev: Tensor
    states: Tensor
    residual: Tensor
    derivatives: AbstractDerivatives
    inputs: Any
    rows: slice
    length: int
    iteration: int | Tensor
    active: Tensor
    entered: Tensor | None = None
    _f: Function | None = field(default=None, repr=False)
    _cut: Cut | None = field(default=None, repr=False)
    _end: Tensor | None = field(default=None, repr=False)
    _before: Tensor | None = field(default=None, repr=False)
    _shards: TimeShards | None = field(default=None, repr=False)

    @property
    def value(self) -> Tensor:
        """`f(prev_t, u_t)`, `(n, *batch, D)`."""
        return self.derivatives.value

    @property
    def open(self) -> Tensor:
        """True in the rows that may move in this iteration, `(n, *batch, 1)`: within the window, not accepted yet.

        A method that measures something over time measures these rows, or batch elements would influence each other.
        """
        return self._within(self._times >= self._frontier)

    def jvp(self, v: Tensor) -> Tensor:
        """`J_t v_t` for all rows; `v` and the result `(n, *batch, D)`. One product."""
        return self.derivatives.jvp(v)

    def vjp(self, w: Tensor) -> Tensor:
        """`J_t^T w_t` for all rows; `w` and the result `(n, *batch, D)`. One product."""
        return self.derivatives.vjp(w)

    def jacobian(self) -> Tensor:
        """`J_t`, `(n, *batch, D, D)`; D products unless the recurrence knows better."""
        return self.derivatives.jacobian()

    def structured(self) -> AbstractTransition:
        """`J_t` as a transition: in the structure that the recurrence declares, else `Dense`."""
        declared = structure_of(self.derivatives)
        return Dense(self.jacobian()) if declared is None else declared

    def diagonal(self) -> Tensor:
        """The exact diagonal of `J_t`, `(n, *batch, D)`; D products unless the recurrence knows better."""
        return self.derivatives.diagonal()

    def block_diagonal(self, size: int) -> Tensor:
        """The diagonal blocks of `J_t`, `(n, *batch, D // size, size, size)`."""
        return self.derivatives.block_diagonal(size)

    def second(self, v: Tensor) -> Tensor:
        """`d^2/de^2 f(prev + e v, u)` at e = 0, `(n, *batch, D)`: the second derivative of `f` along `v`."""
        if isinstance(self.derivatives, FunctionDerivatives):
            return self.derivatives.second(v)
        f = self._function()
        return FunctionDerivatives(f, self.prev, self.inputs, refusals_of(f)).second(v)

    def at(self, prev: Tensor) -> Linearization:
        """`f` at other states than the guess, in the same rows, for a line search or a predictor.

        Args:
            prev: the states before each row, `(n, *batch, D)`.
        """
        derivatives = linearize(self._function(), prev, self.inputs)
        residual = torch.where(self.open, derivatives.value - self.states, 0)
        return replace(self, prev=prev, residual=residual, derivatives=derivatives)

    def keep(self, new: Any, old: Any) -> Any:
        """`new` for the sequences that take part in this iteration, `old` for the others.

        Args:
            new, old: pytrees of tensors, `(*batch, ...)`; what a method carries.
        """
        return keep_where(self.active, new, old)

    def keep_rows(self, new: Any, old: Any) -> Any:
        """The same for a memory of all time steps: `new` in the rows that may move now (`open`), `old` in the others.

        Args:
            new: a pytree of tensors, `(n, *batch, ...)`.
            old: the same of all T rows, `(T, *batch, ...)`; stays as it is. `at_hand(old)` are the rows at hand.

        Returns:
            A pytree of tensors, `(T, *batch, ...)`.
        """
        rows = self._held

        def kept(one: Tensor, other: Tensor) -> Tensor:
            mask = self.open.reshape((*self.open.shape[:-1], *[1] * (one.ndim - self.open.ndim + 1)))
            now = torch.where(mask, one, other[rows])
            return torch.cat([other[: rows.start], now, other[rows.stop :]])

        return pytree.tree_map(kept, new, old)

    def at_hand(self, memory: Any) -> Any:
        """The rows at hand of a memory of all time steps.

        Args:
            memory: a pytree of tensors as `init` makes them from its guess, `(T, *batch, ...)`. Where several processes
                share a trajectory, each has the rows of its own time steps.

        Returns:
            A pytree of tensors, `(n, *batch, ...)`.
        """
        return pytree.tree_map(lambda leaf: leaf[self._held], memory)

    @property
    def over_time(self) -> OverTime:
        """How to measure over time, `lin.over_time.largest(x)` and the like, whoever holds the other rows."""
        return OverTime(self._shards, self.rows.start, self.length, self._end, self.active)

    def scan(self, transition: AbstractTransition, b: Tensor, *, reverse: bool = False) -> Tensor:
        """Solve `x_t = A_t x_{t-1} + b_t` with the accepted rows held fixed (`x = 0` there).

        Args:
            transition: the matrices `A_t` of these rows.
            b: `(n, *batch, D)`.
            reverse: solve `x_t = A_t x_{t+1} + b_t` instead, over all rows at hand; nothing is held fixed.

        Returns:
            `x`, `(n, *batch, D)`.
        """
        if reverse:
            return self._reverse(transition, b)
        if self._cut is None:
            return linear_scan(transition, b)
        if self._shards is not None:
            return shared_scan(self._shards, transition, b, self._cut)
        before = torch.zeros_like(b[0]) if self._before is None else self._before
        return cut_scan(transition, b, before, self._cut)

    def _reverse(self, transition: AbstractTransition, b: Tensor) -> Tensor:
        if self._shards is not None:
            return shared_reverse_scan(self._shards, transition, b)
        return linear_scan(transition, b, reverse=True)

    @property
    def _held(self) -> slice:
        """The rows at hand, counted from the first one that this process holds."""
        first = 0 if self._shards is None else self._shards.first
        return slice(self.rows.start - first, self.rows.stop - first)

    @property
    def _behind(self) -> Tensor:
        """True in the rows behind the frontier row that may move, `(n, *batch, 1)`."""
        return self._within(self._times > self._frontier)

    @property
    def _times(self) -> Tensor:
        return torch.arange(self.rows.start, self.rows.stop, device=self.prev.device).view(-1, *[1] * self.active.ndim)

    @property
    def _frontier(self) -> Tensor | int:
        return self.rows.start - 1 if self._cut is None else self._cut.frontier

    def _within(self, rows: Tensor) -> Tensor:
        rows = rows if self._end is None else rows & (self._times < self._end)
        return rows.expand(self.prev.shape[:-1]).unsqueeze(-1)

    def _function(self) -> Function:
        if self._f is None:
            raise ValueError(
                "This Linearization was made without `f`, so it cannot evaluate it elsewhere. Make it by "
                "`li.linearization(f, s0, states, inputs)`."
            )
        return self._f


def keep_where(mask: Tensor, new: Any, old: Any) -> Any:
    """`new` for the sequences of a mask, `old` for the others; what is no tensor is `new`.

    Args:
        mask: bool, `(*batch)`.
        new, old: pytrees of tensors, `(*batch, ...)`.
    """

    def kept(one: Any, other: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return torch.where(mask.reshape((*mask.shape, *[1] * (one.ndim - mask.ndim))), one, other)

    return pytree.tree_map(kept, new, old)
