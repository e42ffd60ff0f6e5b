"""Several processes of torch.distributed on this machine, joined by gloo."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

R = TypeVar("R")


def on_ranks(count: int, job: Callable[..., R], *given: Any) -> list[R]:
    """What `job(group, *given)` returns on each of `count` ranks, which meet by a file and have a thread each.

    Args:
        count: of ranks.
        job: a function of a module, so that processes find it.
        given: further arguments.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "lds_iter"])
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(count, context) as pool:
        meeting = str(Path(folder) / "meeting")
        jobs = [pool.submit(_on_rank, rank, count, meeting, job, given) for rank in range(count)]
        return [one.result() for one in jobs]


def _on_rank(rank: int, count: int, meeting: str, job: Callable[..., R], given: tuple[Any, ...]) -> R:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        assert dist.group.WORLD is not None
        return job(dist.group.WORLD, *given)
    finally:
        dist.destroy_process_group()
