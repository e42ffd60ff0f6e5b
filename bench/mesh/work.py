"""What an iteration computes on one rank, counted: operations, bytes of memory, floating-point operations.

Counted by the operations that torch dispatches in an iteration, for a share of one rank. Compiled scans are not among
them; each is charged its arguments, read once, and its result, read and written.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lds_iter as li
from bench.common.storage import peak_bytes
from bench.mesh.counted import FEW, NUMBER_BYTES
from bench.mesh.problems import KINDS, Kind, shared

FREE = ("aten::empty", "aten::_unsafe_view", "aten::detach")
"""Operations that neither read nor write memory, besides views."""

SHORT, LONG = 2**9, 2**12
"""Time steps at which is counted; what lies in between gives the cost of a step and of a doubling. Longer shares are
evaluated in tiles on a CPU where no mesh is given."""


@dataclass(frozen=True)
class Work:
    """Of one iteration on one rank with n time steps.

    Attributes:
        operations: besides those that follow.
        operations_a_doubling: for each factor of two in n: products of matrices are made in pairs.
        bytes_a_step: read and written, by operations.
        flops_a_step: of products of matrices.
        scan_bytes_a_step: read and written by one scan.
        scans: how many.
        alive_a_step: bytes of memory that are in use at once, those of the inputs besides.
    """

    operations: float
    operations_a_doubling: float
    bytes_a_step: float
    flops_a_step: float
    scan_bytes_a_step: float
    scans: int
    alive_a_step: float

    def launched(self, length: float) -> float:
        """Operations of an iteration on `length` time steps."""
        return self.operations + self.operations_a_doubling * math.log2(max(length, 2))

    def moved(self, length: float) -> float:
        """Bytes of an iteration on `length` time steps."""
        return length * (self.bytes_a_step + self.scans * self.scan_bytes_a_step)


class _Counted(TorchDispatchMode):
    """Operations, bytes of their arguments and results, and operations of products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.found = [0, 0, 0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view or func.name().startswith(FREE) or func.namespace == "c10d":
            return out
        leaves = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        self.found[0] += 1
        self.found[1] += sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        if func.name() in ("aten::mm", "aten::bmm"):
            self.found[2] += 2 * leaves[0].shape[-1] * leaves[-1].numel()
        return out


@functools.cache
def work(name: str, width: int, batch: int, *, shares: bool) -> Work:
    """Of a kind at a width; `shares`: as a rank of a mesh, which makes the map of its steps and scans them twice."""
    kind = KINDS[name]
    short, long = (_counts(kind, length, width, batch, shares=shares) for length in (SHORT, LONG))
    doublings = math.log2(LONG / SHORT)
    operations = (long[0] - short[0]) / doublings
    numbers = kind.sent(width) - width if name == "Newton, dense" else width
    return Work(
        short[0] - operations * math.log2(SHORT),
        operations,
        (long[1] - short[1]) / (LONG - SHORT),
        (long[2] - short[2]) / (LONG - SHORT),
        NUMBER_BYTES * batch * (numbers + 2 * width),
        2 if shares else 1,
        (long[3] - short[3]) / (LONG - SHORT),
    )


def _counts(kind: Kind, length: int, width: int, batch: int, *, shares: bool) -> list[float]:
    """Operations, bytes and floating-point operations of an iteration, and bytes alive at once."""
    f, s0, inputs = shared(kind, length, width, batch, 0, 1)
    mesh, found = dist.group.WORLD if shares else None, []

    def solve(iterations: int) -> None:
        li.solve(f, s0, inputs, kind.method, mesh=mesh, max_iters=iterations, rtol=0, atol=0, throw=False)

    for iterations in FEW, FEW + 2:
        with torch.no_grad(), _Counted() as counted:
            solve(iterations)
        found.append(counted.found)
    with torch.no_grad():
        alive, _ = peak_bytes(functools.partial(solve, FEW))
    return [*((many - few) / 2 for few, many in zip(*found, strict=True)), alive]
