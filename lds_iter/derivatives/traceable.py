"""Derivatives of a plain function by reverse mode alone, for compiled code.

A compiler cannot trace forward mode for any T: the derivative of adding a constant fixes the shape. In reverse mode one
product `e_i^T J` gives row i of all blocks at once, so D of them give what D forward-mode products give; and a
forward-mode product is the transpose of a reverse-mode one, which is linear in its argument.

There are two of them: rows under `vmap`, and for functions that refuse that, or a second derivative, rows on copies.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lds_iter._torch import no_vmap_fallback
from lds_iter.derivatives.closed_form import CHUNK_ELEMENTS, AbstractDerivatives
from lds_iter.derivatives.forward_mode import own, own_block, whole
from lds_iter.derivatives.pullback import Map, push_by_transposing
from lds_iter.derivatives.refusals import reason
from lds_iter.derivatives.reverse_mode import per_row
from lds_iter.recurrence import Function

MOST_CHUNKS = 16
"""Each is traced for itself: more of them would take long to compile."""


class _LinearForAnyT(TorchFunctionMode):
    """`torch.nn.functional.linear` as the product and the sum that it is.

    Under `torch.func` its own code, for states `(n, B, D)` and with a bias, reads sizes as numbers, and so fixes n.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.linear:
            return _linear(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if getattr(torch.Tensor, name, None) is func:
            return getattr(args[0], name)(*args[1:], **kwargs)  # compilers know methods, but not their Python code
        return func(*args, **kwargs)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = input @ weight.t()
    return product if bias is None else product + bias


def _traceable(f: Function, inputs: Any) -> Map:
    def traced(s: Tensor) -> Tensor:
        with _LinearForAnyT():
            return f(s, inputs)

    return traced


class AbstractTraceable(AbstractDerivatives):
    """What both have in common."""

    def __init__(self, f: Function, prev: Tensor, inputs: Any) -> None:
        self._f, self._inputs = f, inputs
        self._prev = prev
        self.value = f(prev, inputs)

    @abstractmethod
    def _per_row(self, keep: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What `keep(e_i^T J, e_i)` retains of every row `i`, stacked in front."""

    def vjp(self, w: Tensor) -> Tensor:
        return torch.func.vjp(_traceable(self._f, self._inputs), self._prev)[1](w)[0]

    def jacobian(self) -> Tensor:
        return self._per_row(whole).movedim(0, -2)

    def diagonal(self) -> Tensor:
        return self._per_row(own).movedim(0, -1)

    def block_diagonal(self, size: int) -> Tensor:
        rows = self._per_row(own_block(size))  # (D, n, *batch, size)
        return rows.unflatten(0, (-1, size)).movedim((0, 1), (-3, -2))


class TraceableDerivatives(AbstractTraceable):
    """The derivatives of `f` at some rows; the products run under `vmap`, several at a time, in bounded memory."""

    def jvp(self, v: Tensor) -> Tensor:
        return torch.func.vjp(self.vjp, torch.zeros_like(v))[1](v)[0]

    def _per_row(self, keep: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        width = self._prev.shape[-1]
        basis = torch.eye(width, dtype=self._prev.dtype, device=self._prev.device)
        pull = torch.func.vmap(lambda e: keep(self.vjp(e.expand_as(self._prev)), e), chunk_size=_lines(self._prev))
        return pull(basis)


class RowDerivatives(AbstractTraceable):
    """The same by products of `f` on copies of its rows: neither `vmap` nor second derivatives."""

    def jvp(self, v: Tensor) -> Tensor:
        return self._per_row(lambda row, _: (row * v).sum(-1)).movedim(0, -1)

    def _per_row(self, keep: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        def pulled(f: Map, s: Tensor) -> Map:
            return lambda w: torch.func.vjp(f, s)[1](w)[0]

        return per_row(
            lambda s, u: _traceable(self._f, u)(s), self._prev, self._inputs, keep, _lines(self._prev), pulled
        )


def refusal(f: Function, s: Tensor, inputs: Any) -> str | None:
    """Why `f` refuses `TraceableDerivatives`, in torch's words; None where it does not.

    Args:
        f, s, inputs: the recurrence and some rows of its states and inputs; not compiled.
    """
    along, s = _traceable(f, inputs), s.detach()
    try:
        with torch.no_grad(), no_vmap_fallback():
            torch.func.vmap(lambda e: torch.func.vjp(along, s)[1](e)[0])(s.new_ones(2, *s.shape))
        push_by_transposing(along, s, torch.ones_like(s), attached=False)
    except RuntimeError as error:
        return reason(error)
    return None


def _lines(s: Tensor) -> int:
    """How many rows of a Jacobian are computed at once."""
    width, numbers = s.shape[-1], s.numel()
    lines = -(-width // MOST_CHUNKS)
    while lines < width and 2 * lines * numbers <= CHUNK_ELEMENTS:
        lines *= 2  # few sizes, for a graph that serves any T is compiled for each
    return min(lines, width)
