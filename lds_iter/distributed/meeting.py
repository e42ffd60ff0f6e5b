"""The ranks meet before the first iteration: who holds how many time steps, and whether all got the same arguments."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.distributed.messages import Messages, all_gathered
from lds_iter.distributed.shards import TimeShards
from lds_iter.distributed.waiting import finished, telling
from lds_iter.errors import RankError


@dataclass(frozen=True)
class Backwards:
    """The ranks of a group in opposite order: for a trajectory that runs from the last rank to the first, as that of
    the second direction of a layer does.

    Attributes:
        group: each rank gives its rows with the latest time first.
    """

    group: dist.ProcessGroup


def group_of(mesh: Any) -> dist.ProcessGroup:
    """The process group of the argument `mesh`.

    Raises:
        TypeError, ValueError: for something that is no group of processes in one dimension.
    """
    if not dist.is_available():
        raise ValueError("`mesh` needs a torch that was built with torch.distributed.")
    from torch.distributed.device_mesh import DeviceMesh  # is missing where torch.distributed is

    if isinstance(mesh, DeviceMesh):
        if mesh.ndim != 1:
            names = mesh.mesh_dim_names or tuple(range(mesh.ndim))
            raise ValueError(
                f"`mesh` must have one dimension, that of time, got {mesh.ndim}: {names}. Type `mesh={names[-1]!r}` as "
                f"in `mesh=mesh[{names[-1]!r}]`."
            )
        return mesh.get_group()
    if not isinstance(mesh, dist.ProcessGroup):
        raise TypeError(
            "`mesh` must be a one-dimensional DeviceMesh, such as "
            'torch.distributed.device_mesh.init_device_mesh("cpu", (2,), mesh_dim_names=("time",)), or a ProcessGroup, '
            f"got {type(mesh).__name__}."
        )
    if dist.get_rank(mesh) < 0:
        raise ValueError(
            "`mesh` is a group that this process is not in. Call `solve` in the processes of the group alone."
        )
    return mesh


def meet(messages: Messages, mine: dict[str, Any], error: BaseException | None = None) -> list[dict[str, Any]]:
    """What all ranks have been given. An error of one rank's ends the meeting of all, which stay in step.

    Args:
        messages: of the solve that begins.
        mine: what this rank has, by the names of arguments; names that begin with an underscore may differ.
        error: what is wrong with this rank's arguments, or None.

    Raises:
        ValueError: on every rank, where the arguments of two ranks differ, or those of another rank are wrong.
        RankError: where another rank was interrupted, failed otherwise or is gone.
        BaseException: `error`.
    """
    words = None if error is None else f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    with telling(messages.call):
        found = _objects(messages, {"_error": words, "_interrupted": not isinstance(error, Exception | None), **mine})
    if error is not None:
        raise error
    for rank, other in enumerate(found):
        if other["_interrupted"]:
            raise RankError(f"Rank {rank} of `mesh` was interrupted before the solve began: {other['_error']}", rank)
        if other["_error"] is not None:
            raise ValueError(f"Rank {rank} of `mesh` has arguments that cannot work: {other['_error']}")
    for name, value in found[0].items():
        for rank, other in enumerate(found):
            if name[0] != "_" and other[name] != value:
                raise ValueError(
                    f"`{name}` must be the same on every rank of `mesh`, got {value} on rank 0 and {other[name]} on "
                    f"rank {rank}. Only the time steps of `inputs` and `guess` are each rank's own."
                )
    return found


def broadcast(shards: TimeShards, tensor: Tensor) -> Tensor:
    """The tensor of the rank that holds the first time step; of the same shape on all ranks."""
    room = tensor.detach().clone(memory_format=torch.contiguous_format)
    call = shards.messages.call
    finished(dist.broadcast(room, group=call.group, group_src=shards.holders[0], async_op=True), call, "a broadcast")
    return room


def with_a_row(shards: TimeShards, inputs: Any) -> Any:
    """The inputs, with the first time step's in place of none: a rank without time steps computes along with it."""

    def leaf(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        given = x.detach()[:1] if len(x) else x.detach().new_zeros(1, *x.shape[1:])
        first = broadcast(shards, given)
        return x if len(x) else torch.cat([x, first])  # a loss may still ask for the gradient of no rows

    return pytree.tree_map(leaf, inputs)


def _objects(messages: Messages, value: Any) -> list[Any]:
    """A value of each rank, as JSON: numbers, words, lists and dicts of them."""
    device = torch.device("cpu" if messages.call.waits_on_host else "cuda")
    text = json.dumps(value).encode()
    given = torch.tensor([len(text)], device=device)
    found = messages.all_gather(given.view(torch.uint8), "arguments", patient=True)
    sizes = found.contiguous().view(given.dtype).flatten().tolist()
    room = torch.frombuffer(bytearray(text.ljust(max(sizes))), dtype=torch.uint8).to(device)
    rows = all_gathered(messages.call, room, "arguments")  # as large on every rank, as all know now
    return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]
