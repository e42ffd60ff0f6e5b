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

import torch
from torch import Tensor

from lds_iter.derivatives.closed_form import CHUNK_ELEMENTS
from lds_iter.derivatives.pullback import Map

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
        torch.func.jvp(torch.sin, (torch.zeros((), device="cpu"),), (torch.ones((), device="cpu"),))


def push(f: Map, s: Tensor, v: Tensor) -> Tensor:
    """`J v` of `f` at `s`, in one product."""
    load_forward_mode()
    waiting = contextlib.nullcontext() if "torch._dynamo" in sys.modules else interrupts_postponed()
    with waiting, FORWARD_MODE:
        return torch.func.jvp(f, (s,), (v,))[1]


def push_twice(f: Map, s: Tensor, v: Tensor) -> Tensor:
    """`d^2/de^2 f(s + e v)` at e = 0."""
    return push(lambda s: push(f, s, v), s, v)


def per_column(f: Map, s: Tensor, keep: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What `keep(J e_j, e_j)` retains of every column j of the Jacobians, stacked in front.

    The products run under `vmap`, several at a time, within `CHUNK_ELEMENTS`.
    """
    width = s.shape[-1]
    chunk = max(1, CHUNK_ELEMENTS // max(1, s.numel()))
    basis = torch.eye(width, dtype=s.dtype, device=s.device)
    product = torch.func.vmap(lambda e: keep(push(f, s, e.expand_as(s)), e), chunk_size=min(chunk, width))
    return product(basis)


def whole(line: Tensor, e: Tensor) -> Tensor:  # noqa: ARG001
    """All of a row or column of a Jacobian."""
    return line


def own(line: Tensor, e: Tensor) -> Tensor:
    """The number of row or column i at place i, where `e` is the i-th unit vector."""
    return (line * e).sum(-1)


def own_block(size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The numbers of row or column i that lie in its own block along the diagonal."""

    def taken(line: Tensor, e: Tensor) -> Tensor:
        return (line.unflatten(-1, (-1, size)) * e.unflatten(-1, (-1, size)).sum(-1, keepdim=True)).sum(-2)

    return taken
