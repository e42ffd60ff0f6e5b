"""What an iteration sends: counted as torch.distributed is called, and again in the sockets, beside the formula.

    frontier and residual    8 float64 numbers a sequence                             all-gather
    map                      the numbers of a sequence's map, D^2 + D for Newton      all-gather
    state                    D numbers a sequence                                     to the next rank

Each message begins with 8 more bytes, which say what it holds.
Counts are differences of solves that take different numbers of iterations, so what a solve sends once drops out.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lds_iter as li
from bench.mesh.problems import KINDS, Kind, shared

ROWS = 32
"""Time steps of each rank. Their number does not change what is sent."""

FEW, MANY = 2, 6
"""Iterations of the two solves."""

NUMBER_BYTES, WORD_BYTES = 4, 8
"""Of a number of a state, float32; each tensor in a message is filled up to a multiple of the second."""

NAME_BYTES = 8
"""With which each message begins."""

FRONTIER_NUMBERS = 8
"""Of a sequence, float64: the frontier, whether all rows are accepted, whether `f` is broken, the largest residual of
accepted rows, and twice two residuals of open rows."""

SETTLED = 5
"""Messages to the next rank before all that follow are of iterations alike: two hold `s0`, and the first two iterations
tell the ranks which message follows which."""

GATHERED, PASSED = "c10d::allgather_", "c10d::alltoall_base_"
"""Operations. The second is the last of an iteration."""

HEADER_BYTES = 48
"""What gloo writes before each message and each notice that there is room for one."""

SETTLED_SECONDS = 0.1
"""After this long no notice of gloo's is under way any more."""

SENT_OFFSET = 200
"""Of `tcpi_bytes_sent` in Linux's `struct tcp_info`, uint64."""


@dataclass(frozen=True)
class Sent:
    """What one rank sends in one iteration.

    Attributes:
        gathers: bytes of each all-gather, in order, that this rank gives.
        passed: bytes to the next rank.
        sockets: bytes that this process wrote to its connections.
    """

    gathers: tuple[int, ...]
    passed: int
    sockets: float


def formula(kind: Kind, width: int, batch: int) -> tuple[int, int, int]:
    """Bytes of the frontier, of the map and of the state, as the guide has them; an odd batch may send 4 bytes more."""
    numbers = batch * FRONTIER_NUMBERS * 8, batch * NUMBER_BYTES * kind.sent(width), batch * NUMBER_BYTES * width
    frontier, maps, state = (NAME_BYTES + size for size in numbers)
    return frontier, maps, state


def in_sockets(kind: Kind, width: int, batch: int, rank: int, ranks: int) -> int:
    """Bytes of the formula that a rank writes: each all-gather to every other rank; the state by all but the last."""
    frontier, maps, state = formula(kind, width, batch)
    return (ranks - 1) * (frontier + maps) + state * (rank < ranks - 1)


class _Messages(TorchDispatchMode):
    """The messages that this process gives to torch.distributed, an iteration each: operations, and the bytes sent."""

    def __init__(self) -> None:
        super().__init__()
        self.iterations: list[list[tuple[str, int]]] = [[]]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            given = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
            self.iterations[-1].append((func.name(), sum(leaf.numel() * leaf.element_size() for leaf in given)))
            if func.name() == PASSED:
                self.iterations.append([])
        return func(*args, **(kwargs or {}))


def count(group: dist.ProcessGroup, kinds: tuple[str, ...], sizes: tuple[tuple[int, int], ...]) -> list[Sent]:
    """What this rank sends in one iteration, for every kind and every `(width, batch)`."""
    return [_of_one(group, KINDS[name], width, batch) for name in kinds for width, batch in sizes]


def _of_one(group: dist.ProcessGroup, kind: Kind, width: int, batch: int) -> Sent:
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    f, s0, inputs = shared(kind, ROWS * ranks, width, batch, rank, ranks)
    messages, written = _Messages(), []
    for iterations in FEW, MANY:
        messages = _Messages()
        before = _written(group)
        with torch.no_grad(), messages:
            li.solve(f, s0, inputs, kind.method, mesh=group, max_iters=iterations, rtol=0, atol=0, throw=False)
        written.append(_written(group) - before)
    one, *others = messages.iterations[SETTLED:-1]
    assert others, "too few iterations to compare"
    assert all(other == one for other in others), "an iteration sends other messages than the next"
    gathers = tuple(size for name, size in one if name == GATHERED)
    passed = [size for name, size in one if name == PASSED]
    assert len(gathers) + len(passed) == len(one), f"messages of another kind: {one}"
    return Sent(gathers, sum(passed), (written[1] - written[0]) / (MANY - FEW))


def _written(group: dist.ProcessGroup) -> int:
    """Bytes that this process has written to all its TCP connections so far, by Linux's own counters."""
    dist.barrier(group)
    time.sleep(SETTLED_SECONDS)
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        try:
            if not str(path.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as connection:
                told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:  # closed meanwhile, or a socket of another kind
            continue
        found += struct.unpack_from("Q", told, SENT_OFFSET)[0] if len(told) >= SENT_OFFSET + 8 else 0
    return found


def headers(sent: Sent, expected: int) -> float:
    """How many headers of gloo's a rank writes in an iteration besides the formula's bytes."""
    return (sent.sockets - expected) / HEADER_BYTES
