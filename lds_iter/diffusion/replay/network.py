"""The loop of a pipeline as the network of a `Denoising`."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.diffusion.coefficients import Coefficients
from lds_iter.diffusion.replay.loop import Loop
from lds_iter.diffusion.replay.refusal import PipelineNotMapped


class LoopNetwork:
    """What `scheduler.step` would be told, for images as the network would see them.

    Args:
        loop: the pipeline's, learned.
        table: of its scheduler.
    """

    whole = True

    def __init__(self, loop: Loop, table: Coefficients) -> None:
        self._loop, self._table = loop, table

    def __call__(self, images: Tensor, steps: Tensor, places: Tensor) -> Tensor:  # noqa: ARG002
        """Images `(N, *shape)` of whole steps, all places of each in order, to outputs."""
        first = self._loop.facts.first
        batch = len(first)
        rows = images.view(-1, batch, *first.shape[1:])
        at = steps[::batch].tolist()
        factor = self._table.size[:-1, 0] / self._table.gain
        samples = {step: row * factor[step] for step, row in zip(at, rows, strict=True)}
        outputs = self._loop.bodies(samples)
        told = torch.stack([outputs[step] for step in at]).to(images.dtype)
        if bool(told.isnan().any()):
            raise PipelineNotMapped(self._loop.pipe, "its loop carries more than its latents from one step to the next")
        return told.flatten(0, 1)
