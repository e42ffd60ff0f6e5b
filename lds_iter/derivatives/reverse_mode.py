"""Derivatives of a plain function by reverse mode alone, for compiled code.

A compiler cannot trace forward mode for any T: the derivative of adding a constant fixes the shape. In reverse mode one
product `e_i^T J` gives row i of all blocks at once, so D of them give what D forward-mode products give; and a
forward-mode product is the transpose of a reverse-mode one, which is linear in its argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lds_iter.derivatives.closed_form import CHUNK_ELEMENTS, AbstractDerivatives

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


class ReverseDerivatives(AbstractDerivatives):
    """The derivatives of `f` at some rows; the products run under `vmap`, several at a time, in bounded memory."""

    def __init__(self, f: Callable[[Tensor, Any], Tensor], prev: Tensor, inputs: Any) -> None:
        def traceable(s: Tensor) -> Tensor:
            with _LinearForAnyT():
                return f(s, inputs)

        self._f = traceable
        self._prev = prev
        self.value = f(prev, inputs)

    def jvp(self, v: Tensor) -> Tensor:
        return torch.func.vjp(self.vjp, torch.zeros_like(v))[1](v)[0]

    def vjp(self, w: Tensor) -> Tensor:
        return torch.func.vjp(self._f, self._prev)[1](w)[0]

    def jacobian(self) -> Tensor:
        return self._per_row(lambda row, _: row).movedim(0, -2)

    def diagonal(self) -> Tensor:
        return self._per_row(lambda row, e: (row * e).sum(-1)).movedim(0, -1)

    def block_diagonal(self, size: int) -> Tensor:
        def own_block(row: Tensor, e: Tensor) -> Tensor:
            return (row.unflatten(-1, (-1, size)) * e.view(-1, size).sum(-1, keepdim=True)).sum(-2)

        rows = self._per_row(own_block)  # (D, n, *batch, size)
        return rows.unflatten(0, (-1, size)).movedim((0, 1), (-3, -2))

    def _per_row(self, keep: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What `keep(e_i^T J, e_i)` retains of every row `i`, stacked in front."""
        width, numbers = self._prev.shape[-1], self._prev.numel()
        chunk = -(-width // MOST_CHUNKS)
        while chunk < width and 2 * chunk * numbers <= CHUNK_ELEMENTS:
            chunk *= 2  # few chunk sizes, for a graph that serves any T is compiled for each
        basis = torch.eye(width, dtype=self._prev.dtype, device=self._prev.device)
        pull = torch.func.vmap(lambda e: keep(self.vjp(e.expand_as(self._prev)), e), chunk_size=min(chunk, width))
        return pull(basis)
