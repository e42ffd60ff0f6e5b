"""Several processes of torch.distributed on this machine, for tests of shared trajectories."""

import multiprocessing
import os
import pickle
import socket
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import lds_iter as li

SECONDS = 300
"""A test fails that takes longer; on a busy machine processes start slowly."""


ON_FIRST_RANK = "first rank"
"""Says that the first rank keeps the store, as it does by `init_method="tcp://..."`. Else a file does."""


def on_ranks(count, function, *given, timeout=60.0):
    """What `function(group, *given)` returns on each of `count` ranks. Raises what a rank raises."""
    answers = ends_of_ranks(count, function, *given, timeout=timeout)
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    if errors:  # that of the rank that failed, rather than those of the others, who tell of it
        raise min(errors, key=lambda error: isinstance(error, li.RankError))
    return answers


def ends_of_ranks(count, function, *given, timeout=60.0, store=None):
    """What `function(group, *given)` returns on each of `count` ranks, or the error that it raises there.

    No process is left behind, and only a process without an answer may end with another exit code than 0.

    Processes come from a server that has imported the library once, so that a start costs no import.

    Args:
        count: of ranks.
        function: of a module, so that processes find it.
        given: further arguments.
        timeout: seconds that the group waits for a message.
        store: where the store is kept; `ON_FIRST_RANK`, or None for a file.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "lds_iter"])
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}" if store is None else f"tcp://127.0.0.1:{free_port()}"
        ends = [context.Pipe(duplex=False) for _ in range(count)]
        made = [(rank, count, meeting, timeout, ends[rank][1], function, given) for rank in range(count)]
        processes = [context.Process(target=_on_rank, args=one) for one in made]
        for process, (_, mine) in zip(processes, ends, strict=True):
            process.start()
            mine.close()
        answers = [_answer(theirs) for theirs, _ in ends]
        for rank, process in enumerate(processes):
            process.join(SECONDS)
            assert process.exitcode is not None, "a process hangs"
            with pytest.raises(ProcessLookupError):  # not even a zombie
                os.kill(process.pid, 0)
            if isinstance(answers[rank], Gone):
                answers[rank] = Gone(f"The process ended with {process.exitcode} and without an answer.")
            else:
                assert process.exitcode == 0, (process.exitcode, answers[rank])
    return answers


class Gone(AssertionError):
    """A process that ended without an answer."""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _answer(end):
    """What a rank sent, or how it ended without."""
    if not end.poll(SECONDS):
        return AssertionError("no answer in time")
    try:
        return pickle.loads(end.recv_bytes())
    except EOFError:
        return Gone("The process ended without an answer.")


def _on_rank(rank, count, meeting, timeout, end, function, given):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    patience = timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count, timeout=patience)
    try:
        answer = function(dist.group.WORLD, *given)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        answer = error
    try:
        message = pickle.dumps(answer)  # a pipe's own `send` shares the memory of tensors, which ends with the process
    except Exception as error:
        message = pickle.dumps(AssertionError(f"{error!r}; the answer was {answer!r}"))
    end.send_bytes(message)
    if dist.is_initialized():
        dist.destroy_process_group()
