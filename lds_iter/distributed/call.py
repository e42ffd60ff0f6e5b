"""A call that all ranks of a process group make together, such as a solve or its backward pass."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from lds_iter.distributed.rank_errors import missing, useless

ENDED: weakref.WeakSet[dist.ProcessGroup] = weakref.WeakSet()
"""The groups of this process that are of no further use: their ranks have sent different numbers of messages. Neither a
group nor its store, which may outlive it, can keep this fact."""

OPENED = "lds_iter/opened/{}"
"""The entry of a group's store that counts the solves that a rank has begun. All ranks count alike."""


@dataclass(frozen=True)
class SharedCall:
    """A call that all ranks of a group make together.

    Attributes:
        group: of the ranks.
        key: of the solve, the same on all ranks, by which they tell each other of errors.
        name: for messages, such as `solve`.
    """

    group: dist.ProcessGroup
    key: str
    name: str

    @property
    def rank(self) -> int:
        """The number of this process in the group."""
        return dist.get_rank(self.group)

    @property
    def store(self) -> Any:
        """Where ranks leave words for each other."""
        return self.group.get_group_store()

    @property
    def waits_on_host(self) -> bool:
        """Whether this process, rather than a stream of its accelerator, waits for messages."""
        return dist.get_backend(self.group) != "nccl"


def begun(group: dist.ProcessGroup, name: str, key: str | None = None) -> SharedCall:
    """A call that begins.

    Args:
        group: of the ranks.
        name: of the call.
        key: of the solve that it belongs to; None where it is a new one.

    Raises:
        RankError: where the group is of no further use.
    """
    if group in ENDED:
        raise useless()
    rank = dist.get_rank(group)
    try:
        return SharedCall(group, key or str(group.get_group_store().add(OPENED.format(rank), 1)), name)
    except RuntimeError as error:
        raise missing(name, rank, [0], str(error)) from error
