"""Derivatives of a plain function by autodiff, in the mode that it allows.

`f(s, u)` acts on every row (time step and batch element) by itself, so its Jacobian with respect to all states is block
diagonal. One forward-mode product with the same tangent in every row gives one column of every block at once, one
reverse-mode product one row. A function that refuses forward mode is served by reverse mode alone (see `refusals`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter._torch import kept
from lds_iter.derivatives.closed_form import CHUNK_ELEMENTS, AbstractDerivatives
from lds_iter.derivatives.forward_mode import own, own_block, per_column, push, push_twice, whole
from lds_iter.derivatives.pullback import Map, keepable, pullback, push_by_transposing, second_by_transposing
from lds_iter.derivatives.refusals import Refusals, refusals_of
from lds_iter.derivatives.reverse_mode import per_row
from lds_iter.recurrence import Function, check_value, own_linearize

BY_ROWS = "J in reverse mode, row by row"
TRANSPOSED = "J v in reverse mode"
SUMMED = "J v from all rows of J"
BENT = "second derivatives in reverse mode"
"""Ways that serve where `f` refuses a faster one."""


class FunctionDerivatives(AbstractDerivatives):
    """Derivatives of a plain function by autodiff: `D` products for anything but `jvp` and `vjp`.

    In forward mode; where `f` refuses that, in reverse mode.

    Args:
        f: `(s, u) -> s`, batched over all leading dimensions.
        prev: the states to take derivatives at, `(n, *batch, D)`.
        inputs: of these rows, a pytree of tensors that lead with n.
        refusals: what `f` has refused before; takes what it refuses now.

    Raises:
        ValueError: when `f` returns another kind of tensor than its states.
    """

    def __init__(self, f: Function, prev: Tensor, inputs: Any, refusals: Refusals | None = None) -> None:
        self._f = lambda s, u: check_value(f(s, u), s)
        self._prev, self._inputs = prev, inputs
        self._refusals = Refusals() if refusals is None else refusals
        self.value = self._f(prev, inputs)

    def jvp(self, v: Tensor) -> Tensor:
        def in_reverse_mode() -> Tensor:
            return self._refusals.ask(
                SUMMED,
                lambda: push_by_transposing(self._kept_map, self._prev, v, attached=self._attached),
                lambda: self._per_row(lambda row, _: (row * v).sum(-1)).movedim(0, -1),
            )

        return self._refusals.ask(TRANSPOSED, lambda: push(self._map, self._prev, v), in_reverse_mode)

    @kept
    def _pullback(self) -> Map:
        return pullback(self._kept_map, self._prev, self._refusals, attached=self._attached)

    def vjp(self, w: Tensor) -> Tensor:
        return self._pullback(w)

    def jacobian(self) -> Tensor:
        return self._lines(whole, lambda columns: columns.movedim(0, -1), lambda rows: rows.movedim(0, -2))

    def diagonal(self) -> Tensor:
        return self._lines(own, lambda columns: columns.movedim(0, -1), lambda rows: rows.movedim(0, -1))

    def block_diagonal(self, size: int) -> Tensor:
        return self._lines(
            own_block(size),
            lambda columns: columns.unflatten(0, (-1, size)).movedim((0, 1), (-3, -1)),
            lambda rows: rows.unflatten(0, (-1, size)).movedim((0, 1), (-3, -2)),
        )

    def second(self, v: Tensor) -> Tensor:
        """`d^2/de^2 f(prev + e v, u)` at e = 0, `(n, *batch, D)`: the second derivative of `f` along `v`."""
        return self._refusals.ask(
            BENT,
            lambda: push_twice(self._map, self._prev, v),
            lambda: second_by_transposing(self._kept_map, self._prev, v, attached=self._attached),
        )

    def _map(self, s: Tensor) -> Tensor:
        return self._f(s, self._inputs)

    def _kept_map(self, s: Tensor) -> Tensor:
        """The same with inputs that autograd may keep."""
        return self._f(s, keepable(self._inputs))

    @property
    def _attached(self) -> bool:
        """Whether derivatives carry a graph, as the value does."""
        return torch.is_grad_enabled() and self.value.requires_grad

    def _lines(self, keep: Callable[[Tensor, Tensor], Tensor], columns: Map, rows: Map) -> Tensor:
        """What is kept of all columns, or of all rows, in the layout of the result."""
        return self._refusals.ask(
            BY_ROWS, lambda: columns(per_column(self._map, self._prev, keep)), lambda: rows(self._per_row(keep))
        )

    def _per_row(self, keep: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        s, inputs = keepable((self._prev, self._inputs))
        copies = max(1, min(s.shape[-1], CHUNK_ELEMENTS // max(1, s.numel())))
        attached = self._attached
        return per_row(self._f, s, inputs, keep, copies, lambda f, s: pullback(f, s, self._refusals, attached=attached))


class Autodiff:
    """A plain function as a recurrence with derivatives by autodiff, which remembers what the function refuses.

    `solve` makes one of every `f` without a `linearize`, and so finds out once a solve. Made by hand and used for many
    solves, it finds out once: `f = li.Autodiff(f)`.

    Args:
        f: see `solve`. All but `linearize` is that of `f`.
        refusals: what it has refused before; nothing when None.

    Attributes:
        f: as given.
        refusals: what it has refused so far, and what serves instead; see `refusals.words`.

    Raises:
        TypeError: for an `f` that is no recurrence, or has a `linearize`.

    Example:
        >>> f = li.Autodiff(lambda s, u: 0.5 * s.tanh() + u)
        >>> li.solve(f, torch.zeros(2), torch.ones(1000, 2)).converged, f.refusals.words
        (True, {})
    """

    def __init__(self, f: Function, refusals: Refusals | None = None) -> None:
        if isinstance(f, type) or not callable(f) or own_linearize(f) is not None:
            raise TypeError(
                f"`f` must be a function (s, u) -> s or a module, and have no method `linearize`, got {f!r}."
            )
        self.f = f
        self.refusals = Refusals() if refusals is None else refusals

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:
        """`f(s, inputs)`."""
        return self.f(s, inputs)

    def linearize(self, s: Tensor, inputs: Any) -> FunctionDerivatives:
        """The derivatives of `f` at some states."""
        return FunctionDerivatives(self.f, s, inputs, self.refusals)

    def __getattr__(self, name: str) -> Any:
        """What else `f` offers."""
        if name == "f" or name.startswith("__"):  # not there yet in a copy that is being made
            raise AttributeError(name)
        return getattr(self.f, name)


def with_derivatives(f: Function, refusals: Refusals | None = None) -> Function:
    """`f` itself where it knows its derivatives, else an `Autodiff` of it.

    Args:
        f: see `solve`.
        refusals: what it has refused before; what it keeps itself as `f.refusals` when None.
    """
    return f if own_linearize(f) is not None else Autodiff(f, refusals_of(f) if refusals is None else refusals)


def refused(f: Function) -> dict[str, str]:
    """The ways that serve an `f` because it refused faster ones so far, and why, in torch's words."""
    return refusals_of(f).words


def without_derivatives(f: Function) -> Function:
    """The function that an `Autodiff` is of."""
    return f.f if isinstance(f, Autodiff) else f


def linearize(f: Function, prev: Tensor, inputs: Any) -> AbstractDerivatives:
    """`f` and its derivatives at `prev`: the recurrence's own where it offers them, else by autodiff."""
    if isinstance(f, Autodiff):
        return f.linearize(prev, inputs)
    own_derivatives = own_linearize(f)
    if own_derivatives is None:
        return FunctionDerivatives(f, prev, inputs, refusals_of(f))
    derivatives = own_derivatives(prev, inputs)
    check_value(getattr(derivatives, "value", derivatives), prev, "`f.linearize(s, u).value`")
    return derivatives
