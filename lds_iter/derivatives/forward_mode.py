"""Derivatives of a plain function by forward mode.

`f(s, u)` acts on every row (time step and batch element) by itself, so its Jacobian with respect to all states is block
diagonal, and one forward-mode product with the same tangent in every row gives one column of every block at once.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from lds_iter._torch import kept
from lds_iter.derivatives.closed_form import CHUNK_ELEMENTS, AbstractDerivatives
from lds_iter.recurrence import check_value

FORWARD_MODE = threading.RLock()
"""The levels of torch's forward mode belong to the process: products of two threads at once would mix."""


@contextlib.contextmanager
def interrupts_postponed() -> Iterator[None]:
    """Ctrl-C takes effect at the end, a second one at once. Torch imports its compiler in the middle of the first
    product of many functions, and never recovers from an import that was cut short."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):  # nothing interrupts here
        yield
        return
    postponed: list[tuple[int, FrameType | None]] = []

    def postpone(number: int, frame: FrameType | None) -> None:
        if postponed:
            handler(number, frame)
        postponed.append((number, frame))

    signal.signal(signal.SIGINT, postpone)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if postponed:
            handler(*postponed[0])


@functools.cache
def load_forward_mode() -> None:
    """Let torch import what its first forward-mode product needs, which in torch 2.14 warns of torch's own code."""
    with FORWARD_MODE, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.script", category=FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


class FunctionDerivatives(AbstractDerivatives):
    """Derivatives of a plain function by `torch.func`: `D` forward-mode products for anything but `jvp` and `vjp`.

    The products run under `vmap`, several at a time, within `CHUNK_ELEMENTS`.

    Args:
        f: `(s, u) -> s`, batched over all leading dimensions.
        prev: the states to take derivatives at, `(n, *batch, D)`.
        inputs: of these rows.

    Raises:
        ValueError: when `f` returns another kind of tensor than its states.
    """

    def __init__(self, f: Callable[[Tensor, Any], Tensor], prev: Tensor, inputs: Any) -> None:
        self._f = lambda s: check_value(f(s, inputs), s)
        self._prev = prev
        self.value = self._f(prev)

    def jvp(self, v: Tensor) -> Tensor:
        load_forward_mode()
        waiting = contextlib.nullcontext() if "torch._dynamo" in sys.modules else interrupts_postponed()
        with waiting, FORWARD_MODE:
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
