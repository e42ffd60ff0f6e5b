"""The ranks meet before the first iteration: who holds how many time steps, and whether all got the same arguments."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.distributed.shards import TimeShards
from lds_iter.distributed.waiting import finished


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


def meet(group: dist.ProcessGroup, mine: dict[str, Any], error: Exception | None = None) -> list[dict[str, Any]]:
    """What all ranks have been given. An error of one rank's ends the meeting of all, which stay in step.

    Args:
        group: of the ranks.
        mine: what this rank has, by the names of arguments; names that begin with an underscore may differ.
        error: what is wrong with this rank's arguments, or None.

    Raises:
        ValueError: on every rank, where the arguments of two ranks differ, or those of another rank are wrong.
        Exception: `error`.
    """
    told = {"_error": None if error is None else f"{type(error).__name__}: {error}", **mine}
    found = _objects(group, told)
    if error is not None:
        raise error
    for rank, other in enumerate(found):
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
    finished(
        dist.broadcast(room, group=shards.group, group_src=shards.holders[0], async_op=True), shards.group, shards.key
    )
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


def _objects(group: dist.ProcessGroup, value: Any) -> list[Any]:
    """A value of each rank, as JSON: numbers, words, lists and dicts of them."""
    size = dist.get_world_size(group)
    everyone = TimeShards(group, (1,) * size)
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    message = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    (sizes,) = everyone.gather(torch.tensor([len(message)], device=device), patient=True)
    room = message.new_zeros(int(sizes.max()))
    room[: len(message)] = message
    (found,) = everyone.gather(room)
    return [json.loads(bytes(row[: int(n)].tolist())) for row, n in zip(found, sizes, strict=True)]
