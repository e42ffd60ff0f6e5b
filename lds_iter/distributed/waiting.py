"""Waiting for other ranks, and the words when one of them does not come.

A rank that fails says so in the store of the process group. Every rank that waits for a message looks there several
times a second, so all end with the same cause, long before the group's timeout. A rank that was killed says nothing:
its connections close, the others call the roll in the store, and name whoever does not answer.

After such an end the ranks have sent different numbers of messages, so the group is of no further use.

On an accelerator (nccl) it is the stream that waits, not the host, and torch's watchdog ends the processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from lds_iter.errors import RankError

PATIENCE_SECONDS = 3600.0
"""How long the first message of a solve waits for ranks that say that they compile kernels. For all others the group's
own timeout holds there, too."""

LOOK_SECONDS = 0.25
"""A rank that waits for others looks this often whether one of them has failed."""

ROLL_CALL_SECONDS = 3.0
"""How long the other ranks have to answer the roll, after a connection was lost."""

FAILED, GONE, ROLL = "lds_iter/failed/{key}", "lds_iter/gone/{key}", "lds_iter/roll/{key}"
"""The entries of a group's store for a solve, whose key all ranks know: the first error, the ranks that did not answer
the roll, and whether one calls it."""

COMPILING_KEY = "lds_iter/compiling/{rank}"
"""1 while a rank compiles kernels before the first message of a solve."""

PRESENCE_KEY = "lds_iter/here/{key}/{rank}"
"""The answer of a rank."""


def finished(work: Any, group: dist.ProcessGroup, key: str) -> None:
    """Wait for a message to arrive.

    Args:
        work: of an asynchronous call of torch.distributed.
        group: whose ranks exchange it.
        key: of the solve.

    Raises:
        RankError: when a rank has failed or is gone, or the group's timeout has passed.
    """
    _wait(work, group, key, lambda: None)


def _wait(work: Any, group: dist.ProcessGroup, key: str, look: Callable[[], None]) -> None:
    """Wait for a message, and look around now and then; see `finished`."""
    if dist.get_backend(group) == "nccl":
        work.wait()
        return
    while True:
        try:
            work.wait(timedelta(seconds=LOOK_SECONDS))
            return
        except RuntimeError as error:
            if work.is_completed():
                raise _lost(group, key, error) from error
        _look(group, key)
        look()


@contextmanager
def compiling(group: dist.ProcessGroup) -> Iterator[None]:
    """Say that this block compiles kernels, so that the other ranks wait for the message after it.

    Args:
        group: of the ranks.
    """
    store, key = group.get_group_store(), COMPILING_KEY.format(rank=dist.get_rank(group))
    store.set(key, "1")
    try:
        yield
    finally:
        store.set(key, "0")


def patient_gather(group: dist.ProcessGroup, answers: list[Tensor], message: Tensor, key: str) -> None:
    """An all-gather that waits for ranks that compile kernels, longer than the group's timeout if need be.

    Args:
        group: of the ranks.
        answers: room for each rank's message.
        message: of this rank.
        key: of the solve.

    Raises:
        RankError: see `finished`.
    """
    from torch._C._distributed_c10d import AllgatherOptions  # pyright: ignore[reportMissingImports]

    options = AllgatherOptions()
    options.timeout, options.asyncOp = timedelta(seconds=PATIENCE_SECONDS), True
    end = time.monotonic() + group._get_backend(message.device).options._timeout.total_seconds()

    def look() -> None:
        if time.monotonic() > end and not _compiles(group):
            raise _lost(group, key, RuntimeError("the timeout of the group has passed"))

    _wait(group.allgather([answers], [message], options), group, key, look)


def _compiles(group: dist.ProcessGroup) -> bool:
    """Whether a rank says that it compiles kernels."""
    store = group.get_group_store()
    keys = [COMPILING_KEY.format(rank=rank) for rank in range(dist.get_world_size(group))]
    return any(store.check([key]) and store.get(key) == b"1" for key in keys)


@contextmanager
def telling(group: dist.ProcessGroup, key: str) -> Iterator[None]:
    """Tell the other ranks of an error that ends what this block does, so that none waits for this rank.

    Args:
        group: of the ranks.
        key: of the solve.
    """
    try:
        yield
    except RankError:
        raise  # of another rank, which has told
    except BaseException as error:
        rank = dist.get_rank(group)
        try:
            cause = f"{rank} {type(error).__name__}: {str(error).strip() or 'no message'}"
            group.get_group_store().set(FAILED.format(key=key), cause)
        except RuntimeError:  # the store is gone with the process that kept it
            error.add_note("The other ranks could not be told: the store of torch.distributed is gone.")
        error.add_note(f"This came up on rank {rank} of `mesh`. The other ranks end too.")
        raise


def _look(group: dist.ProcessGroup, key: str) -> None:
    """Raise if a rank has said that it has failed, or is gone; answer the roll if one calls it."""
    try:
        told = _told(group, key)
        if told is None and group.get_group_store().check([ROLL.format(key=key)]):
            group.get_group_store().set(PRESENCE_KEY.format(key=key, rank=dist.get_rank(group)), "")
    except RuntimeError as error:
        raise _missing([0], dist.get_rank(group), str(error)) from error
    if told is not None:
        raise told


def _told(group: dist.ProcessGroup, key: str) -> RankError | None:
    """The error for what a rank has said, if one has."""
    store, failed, gone = group.get_group_store(), FAILED.format(key=key), GONE.format(key=key)
    if store.check([failed]):
        rank, _, cause = store.get(failed).decode(errors="replace").partition(" ")
        return RankError(
            f"Rank {rank} of `mesh` has ended the solve, and all ranks end with it. Its error: {cause}\nIts traceback "
            "is in its own output. Make the process group anew before you use it again (destroy_process_group, or a "
            "restart).",
            int(rank),
        )
    if store.check([gone]):
        ranks, _, why = store.get(gone).decode(errors="replace").partition(" ")
        return _missing([int(rank) for rank in ranks.split(",")], dist.get_rank(group), why)
    return None


def _lost(group: dist.ProcessGroup, key: str, error: RuntimeError) -> RankError:
    """The error for a message that did not arrive: what a rank has said, else who does not answer the roll."""
    mine, size = dist.get_rank(group), dist.get_world_size(group)
    try:
        store, here = group.get_group_store(), [PRESENCE_KEY.format(key=key, rank=rank) for rank in range(size)]
        store.set(ROLL.format(key=key), "")
        store.set(here[mine], "")
        end = time.monotonic() + ROLL_CALL_SECONDS
        while time.monotonic() < end and not store.check(here):
            told = _told(group, key)
            if told is not None:
                return told
            time.sleep(LOOK_SECONDS / 5)
        gone = [rank for rank in range(size) if not store.check([here[rank]])]
        if gone:
            store.set(GONE.format(key=key), f"{','.join(map(str, gone))} {error}")
    except RuntimeError:  # the store is gone, with the process that kept it: the first one as a rule
        gone = [0] if mine else []
    return _missing(gone, mine, str(error))


def _missing(gone: list[int], mine: int, why: str) -> RankError:
    """The error for ranks that are gone, as rank `mine` tells it; `why` are the words of torch."""
    whom = f"Rank {' and rank '.join(map(str, gone))}" if gone else "A rank"
    return RankError(
        f"{whom} of `mesh` did not send a message that rank {mine} waits for. In order of likelihood: its process was "
        "killed (out of memory, a scheduler); it is still busy, or calls `solve` or `.backward()` less often than the "
        "other ranks; the network is down. For a longer wait type "
        f"torch.distributed.init_process_group(..., timeout=...). torch says: {(why.splitlines() or ['nothing'])[0]}",
        gone[0] if gone else None,
    )
