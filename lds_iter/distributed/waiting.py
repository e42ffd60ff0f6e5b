"""Waiting for other ranks, and the words when one of them does not come.

A rank that fails says so in the store of the process group. Every rank that waits for a message looks there several
times a second, so all end with the same cause, long before the group's timeout. A rank that was killed says nothing:
its connections close, the others call the roll in the store, and name whoever does not answer. So they do when the
group's timeout has passed. One rank keeps the store in its process, the first as a rule, so that one stays until the
others have read what it says.

After such an end the ranks have sent different numbers of messages, so the group is of no further use; see `ENDED`.

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

from lds_iter.distributed.call import ENDED, SharedCall
from lds_iter.distributed.rank_errors import failed, missing, out_of_step, timed_out
from lds_iter.errors import RankError

PATIENCE_SECONDS = 3600.0
"""How long the first message of a solve waits for ranks that say that they compile kernels. For all others the group's
own timeout holds there, too."""

LOOK_SECONDS = 0.25
"""A rank that waits for others looks this often whether one of them has failed."""

ROLL_CALL_SECONDS = 3.0
"""How long the other ranks have to answer the roll, and to read what the keeper of the store has to say."""

LATE_SECONDS = 1.0
"""How long they have after the group's timeout: who comes later has let the others wait."""

FAILED, GONE, ROLL, HERE, READ = (
    f"lds_iter/{name}" for name in ("failed/{}", "gone/{}", "roll/{}", "here/{}/{}", "read/{}")
)
"""The entries of a group's store for a solve, by its key: an error, the ranks that did not answer the roll, whether one
calls it, the answer of a rank, and how many ranks have ended."""


COMPILING_KEY = "lds_iter/compiling/{}"
"""The entry of a rank, 1 while it compiles kernels before the first message of a solve."""


def finished(work: Any, call: SharedCall, words: str) -> None:
    """Wait for a message to arrive.

    Args:
        work: of an asynchronous call of torch.distributed.
        call: whose message it is.
        words: the message, in words by which ranks can compare it.

    Raises:
        RankError: when a rank has failed or is gone, or the group's timeout has passed.
    """
    if call.waits_on_host:
        _wait(work, call, words, lambda: None)
    else:
        work.wait()


def _wait(work: Any, call: SharedCall, words: str, look: Callable[[], None]) -> None:
    """Wait for a message on the host, and look around now and then; see `finished`."""
    while True:
        try:
            work.wait(timedelta(seconds=LOOK_SECONDS))
            return
        except RuntimeError as error:
            if work.is_completed():
                raise _lost(call, words, error) from error
        _look(call, words)
        look()


@contextmanager
def compiling(call: SharedCall) -> Iterator[None]:
    """Say that this block compiles kernels, so that the other ranks wait for the message after it."""
    entry = COMPILING_KEY.format(call.rank)
    call.store.set(entry, "1")
    try:
        yield
    finally:
        call.store.set(entry, "0")


def patient_gather(call: SharedCall, answers: list[Tensor], message: Tensor, words: str) -> None:
    """An all-gather that waits for ranks that compile kernels, longer than the group's timeout if need be.

    Args:
        call: whose message it is.
        answers: room for each rank's message.
        message: of this rank.
        words: see `finished`.

    Raises:
        RankError: see `finished`.
    """
    from torch._C._distributed_c10d import AllgatherOptions  # pyright: ignore[reportMissingImports]

    options = AllgatherOptions()
    options.timeout, options.asyncOp = timedelta(seconds=PATIENCE_SECONDS), True
    end = time.monotonic() + call.group._get_backend(message.device).options._timeout.total_seconds()

    def look() -> None:
        if time.monotonic() > end and not _compiles(call):
            raise _lost(call, words, RuntimeError("Timed out waiting for a rank before the first message"))

    _wait(call.group.allgather([answers], [message], options), call, words, look)


def _compiles(call: SharedCall) -> bool:
    """Whether a rank says that it compiles kernels."""
    entries = [COMPILING_KEY.format(rank) for rank in range(dist.get_world_size(call.group))]
    return any(call.store.check([entry]) and call.store.get(entry) == b"1" for entry in entries)


@contextmanager
def telling(call: SharedCall) -> Iterator[None]:
    """Tell the other ranks of an error that ends what this block does, so that none waits for this rank."""
    try:
        yield
    except BaseException as error:
        if dist.get_world_size(call.group) > 1:
            _end(call, error)
        raise


def _end(call: SharedCall, error: BaseException) -> None:
    """Leave the group, which is of no further use, with an error of this rank or of another."""
    ENDED.add(call.group)
    try:
        if not isinstance(error, RankError):
            error.add_note(f"This came up on rank {call.rank} of `mesh`. The other ranks end too.")
            cause = f"{call.rank} {type(error).__name__}: {str(error).strip() or 'no message'}"
            call.store.set(FAILED.format(call.key), cause)
        call.store.add(READ.format(call.key), 1)
        if dist.get_rank() == 0:
            _keep_store(call)
    except RuntimeError:  # the store is gone with the process that kept it
        if not isinstance(error, RankError):
            error.add_note("The other ranks could not be told: the store of torch.distributed is gone.")


def _keep_store(call: SharedCall) -> None:
    """Wait until all ranks that are not gone have read why the call ended."""
    alive = dist.get_world_size(call.group) - len(_ranks_gone(call)[0])
    end = time.monotonic() + ROLL_CALL_SECONDS
    while time.monotonic() < end and call.store.add(READ.format(call.key), 0) < alive:
        time.sleep(LOOK_SECONDS / 5)


def _look(call: SharedCall, words: str) -> None:
    """Raise if a rank has said that it has failed, or is gone; answer the roll if one calls it."""
    try:
        told = _told(call)
        if told is None and call.store.check([ROLL.format(call.key)]):
            call.store.set(HERE.format(call.key, call.rank), words)
    except RuntimeError as error:
        raise missing(call.name, call.rank, [0], str(error)) from error
    if told is not None:
        raise told


def _told(call: SharedCall) -> RankError | None:
    """The error for what a rank has said, if one has."""
    entry = FAILED.format(call.key)
    if call.store.check([entry]):
        rank, _, cause = call.store.get(entry).decode(errors="replace").partition(" ")
        return failed(call.name, int(rank), cause)
    gone, why = _ranks_gone(call)
    return missing(call.name, call.rank, gone, why) if gone else None


def _ranks_gone(call: SharedCall) -> tuple[list[int], str]:
    """The ranks that did not answer the roll, and the words of torch to whom called it."""
    gone = GONE.format(call.key)
    if not call.store.check([gone]):
        return [], ""
    ranks, _, why = call.store.get(gone).decode(errors="replace").partition(" ")
    return [int(rank) for rank in ranks.split(",")], why


def _lost(call: SharedCall, words: str, error: RuntimeError) -> Exception:
    """The error for a message that did not arrive: what a rank has said, else who does not answer the roll."""
    size = dist.get_world_size(call.group)
    try:
        here = [HERE.format(call.key, rank) for rank in range(size)]
        call.store.set(ROLL.format(call.key), "")
        call.store.set(here[call.rank], words)
        end = time.monotonic() + (LATE_SECONDS if timed_out(str(error)) else ROLL_CALL_SECONDS)
        while (told := _told(call)) is None and time.monotonic() < end and not call.store.check(here):
            time.sleep(LOOK_SECONDS / 5)
        if told is not None:
            return told
        gone = [rank for rank in range(size) if not call.store.check([here[rank]])]
        if gone:
            call.store.set(GONE.format(call.key), f"{','.join(map(str, gone))} {error}")
        else:
            texts = [call.store.get(entry).decode(errors="replace") for entry in here]
            return out_of_step(texts) or missing(call.name, call.rank, [], str(error))
    except RuntimeError:  # the store is gone, with the process that kept it: the first one as a rule
        gone = [0] if call.rank else []
    return missing(call.name, call.rank, gone, str(error))
