"""A network whose rows of a round the ranks of `torch.distributed` share: each evaluates a part, and all get all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter._torch import transformed
from lds_iter.distributed.call import begun
from lds_iter.distributed.meeting import group_of
from lds_iter.distributed.messages import Messages
from lds_iter.distributed.shards import TimeShards


class SharedRows(torch.nn.Module):
    """A network for `ParallelSampler` that several processes evaluate together, each its part of a round's rows.

    Every rank makes the same call of the sampler, with the same noise, conditioning and generator seeds, and gets the
    same samples, those of one process up to the rounding of batches of another size. A round sends each rank's outputs
    to all. Called like the network, it is the network of this rank. `max_batch` of the sampler holds for each rank.
    Where derivatives are taken through the network (`li.Newton()`, say), every rank evaluates all rows.

    Args:
        model: the network, with the same weights on every rank.
        mesh: a one-dimensional `DeviceMesh` or a `ProcessGroup`.

    Raises:
        TypeError, ValueError: when `mesh` is something else.

    Example:
        A program for `torchrun --nproc-per-node 4`:

            torch.distributed.init_process_group("gloo")
            sampler = ParallelSampler(SharedRows(unet, torch.distributed.group.WORLD), scheduler)
            image = sampler(noise, 50).sample
    """

    def __init__(self, model: torch.nn.Module, mesh: Any) -> None:
        super().__init__()
        self.module, self._group = model, group_of(mesh)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def spread(self, evaluate: Callable[..., Tensor], images: Tensor, *more: Tensor) -> Tensor:
        """The outputs for all rows, of which this rank evaluates its own.

        Args:
            evaluate: rows of the arguments to outputs, one for each.
            images, more: `(N, ...)` each, the same on every rank.

        Raises:
            ValueError: on every rank, where the ranks have different images.
            RankError: when another rank has failed or is gone.
        """
        if transformed() or (torch.is_grad_enabled() and images.requires_grad):
            return evaluate(images, *more)
        ranks = self._group.size()
        sizes = tuple(len(rows) for rows in torch.arange(len(images), device="cpu").tensor_split(ranks))
        shards = TimeShards(Messages(begun(self._group, "a round of a sampler")), sizes)
        self._check_alike(shards, images)
        own = shards.held if not shards.is_empty else slice(0, 1)  # one row tells the shape of an output
        with shards.telling():
            outputs = evaluate(images[own], *(one[own] for one in more))
        return shards.whole(outputs)

    @staticmethod
    def _check_alike(shards: TimeShards, images: Tensor) -> None:
        told = torch.stack([images.double().sum(), images.new_tensor(len(images), dtype=torch.float64)])
        (found,) = shards.gather(told)
        if not bool((found == found[0]).all() | found.isnan().any()):
            raise ValueError(
                "The ranks of `mesh` evaluate different images. Give every rank the same noise and conditioning, and "
                "generators of the same seed: torch.Generator().manual_seed(0)."
            )
