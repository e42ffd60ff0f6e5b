"""`f` along the current guess: all that a method gets to see when it chooses its linear dynamical system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.derivatives.autodiff import FunctionDerivatives, with_derivatives
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.refusals import refusals_of
from lds_iter.derivatives.structured import structure_of
from lds_iter.distributed.shards import TimeShards
from lds_iter.distributed.shared_scan import shared_reverse_scan, shared_scan
from lds_iter.linear.cut import Cut, cut_scan
from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.transitions import AbstractTransition, Dense
from lds_iter.recurrence import Function, check_value, own_linearize, take_rows


def linearize(f: Function, prev: Tensor, inputs: Any) -> AbstractDerivatives:
    """`f` and its derivatives at `prev`: the recurrence's own where it offers them, else by `torch.func`."""
    own = own_linearize(f)
    if own is None:
        return FunctionDerivatives(f, prev, inputs, refusals_of(f))
    derivatives = own(prev, inputs)
    check_value(getattr(derivatives, "value", derivatives), prev, "`f.linearize(s, u).value`")
    return derivatives


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

    def largest(self, x: Tensor) -> Tensor:
        """The largest of all rows, `(n, *batch, ...)` to `(*batch, ...)`, those that other processes hold included.

        A method measures over time by this function and the next three; `x.amax(0)` would see this process's rows.
        """
        here = x.amax(0)
        return here if self._shards is None else self._shards.largest(here)

    def some(self, rows: Tensor) -> Tensor:
        """Whether any row is true, bool, `(n, *batch)` to `(*batch)`."""
        return self.largest(rows.to(torch.uint8)) > 0

    def earlier(self, rows: Tensor) -> Tensor:
        """True in each row after the first true one, bool, `(n, *batch)`."""
        before = rows.cumsum(0) > rows
        if self._shards is None:
            return before
        seen = self._shards.in_order(self._shards.gather(rows.any(0))[0])
        return before | seen[: self._shards.place].any(0)

    def previous(self, x: Tensor, first: Tensor) -> Tensor:
        """Row t - 1 of `x`, `(n, *batch, ...)`, in place of row t; `first`, `(1, *batch, ...)`, in place of row 0."""
        start = first if self._shards is None else self._shards.pass_on(x[-1:], first)
        return torch.cat([start, x[:-1]])

    def following(self, x: Tensor) -> Tensor:
        """Row t + 1 of `x`, `(n, *batch, ...)`, in place of row t; zeros in place of the last row."""
        none = torch.zeros_like(x[:1])
        return torch.cat([x[1:], none if self._shards is None else self._shards.pass_on(x[:1], none, -1)])

    @property
    def is_shared(self) -> bool:
        """Whether other processes hold other rows of the same trajectory."""
        return self._shards is not None

    def from_earlier(self, *tensors: Tensor) -> list[Tensor]:
        """What each process that holds earlier rows gives for these tensors, `(k, *shape)`; k = 0 for the first."""
        if self._shards is None:
            return [tensor[None][:0] for tensor in tensors]
        gathered = self._shards.gather(*tensors)
        return [self._shards.in_order(one)[: self._shards.place] for one in gathered]

    def agreed(self, answer: Tensor) -> Tensor:
        """The first process's answer to a question by which all decide; `(*batch)`. A clock tells each another time."""
        return answer if self._shards is None else self._shards.of_first_rank(answer)

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


def linearization(f: Function, s0: Tensor, states: Tensor, inputs: Any) -> Linearization:
    """`f` along any trajectory, outside of the loop: nothing is accepted, every row may move.

    Args:
        f: see `solve`.
        s0: the state before the first step, `(*batch, D)`.
        states: the trajectory, `(T, *batch, D)`.
        inputs: a pytree of tensors that lead with T.
    """
    prev = torch.cat([s0.unsqueeze(0), states[:-1]])
    return next(linearize_along(f, prev, states, inputs, rows=states.shape[0], iteration=0))


def linearize_along(
    f: Function, prev: Tensor, states: Tensor, inputs: Any, *, rows: int, iteration: int
) -> Iterator[Linearization]:
    """`f` along a trajectory outside of the loop, a stretch of rows at a time.

    Args:
        f: the recurrence.
        prev: the states before each step, `(T, *batch, D)`.
        states: the states after each step, `(T, *batch, D)`.
        inputs: of all T steps.
        rows: time steps of one linearization.
        iteration: how many updates the rows pretend to have had.
    """
    f, length = with_derivatives(f), prev.shape[0]
    everyone = torch.ones(prev.shape[1:-1], dtype=torch.bool, device=prev.device)
    for first in range(0, length, rows):
        some = slice(first, min(first + rows, length))
        u = take_rows(inputs, some.start, some.stop)
        derivatives = linearize(f, prev[some], u)
        residual = derivatives.value - states[some]
        yield Linearization(prev[some], states[some], residual, derivatives, u, some, length, iteration, everyone, _f=f)
