"""The network of a sampler: conditioning, guidance, precision, and calls split to fit memory."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.conditioning import appended, mapped
from lds_iter.diffusion.replicas import calls_of, in_lanes
from lds_iter.diffusion.shared_rows import SharedRows
from lds_iter.errors import note_source, shapes_of


def unwrapped(model: Any) -> Any:
    """The module or function inside of `torch.compile`, `DataParallel`, PEFT and `functools.partial`."""
    while True:
        if isinstance(model, functools.partial):
            model = model.func
        elif isinstance(model, torch.nn.Module) and isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = getattr(model, "get_base_model")()  # noqa: B009  a module's attributes have the type of a tensor
        elif isinstance(model, torch.nn.Module) and isinstance(getattr(model, "module", None), torch.nn.Module):
            model = model.module
        else:
            return model


def argument_names(model: Any) -> tuple[str, str] | None:
    """How the model calls image and time; None where its signature does not say, and they are passed by position."""
    inner = unwrapped(model)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(getattr(inner, "forward", inner)).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in by_name]
    if len(names) < 2:
        return None
    return names[0], "timestep" if "timestep" in names else names[1]


@dataclass(frozen=True)
class Network:
    """A diffusers model as a function of images, times and places in the batch.

    Attributes:
        model: a `UNet2DModel`, `UNet2DConditionModel`, transformer, or any module called with the sample, the timestep,
            and the conditioning as keywords.
        conditioning: keywords for the model; every tensor leads with the batch.
        unconditional: the same for classifier-free guidance, or None for none.
        guidance_scale: `unconditional + guidance_scale * (conditional - unconditional)`; one for all, or `(B,)`.
        dtype: what the model computes in; images come and go in float32 or float64.
        max_batch: most images in one call of the model; None for no limit.
        timestep_scale: the model is told `timestep_scale * timestep`.
        shared: keys of the conditioning that are the same for all samples.
        guidance_rescale: as in diffusers: how much of the guided output's own size gives way to the conditional one's.
        told: whether the scheduler asks for a variance, which the second half of the channels tells. A second half that
            nobody asks for is left out.
    """

    model: Any
    conditioning: Mapping[str, Any]
    unconditional: Mapping[str, Any] | None
    guidance_scale: float | Tensor
    dtype: torch.dtype
    max_batch: int | None = None
    timestep_scale: float = 1.0
    shared: Collection[str] = ()
    guidance_rescale: float = 0.0
    told: bool = False

    def __call__(self, images: Tensor, timesteps: Tensor, places: Tensor) -> Tensor:
        """The model's outputs, `(N, *shape)`; `(N, 2C, ...)` where they tell a variance.

        Args:
            images: `(N, *shape)`, scaled as the scheduler scales them.
            timesteps: `(N,)`.
            places: which sample of the batch each belongs to, int64 `(N,)`.
        """
        if isinstance(self.model, SharedRows):
            return self.model.spread(self._in_pieces, images, timesteps, places)
        return self._in_pieces(images, timesteps, places)

    def _in_pieces(self, images: Tensor, timesteps: Tensor, places: Tensor) -> Tensor:
        """The same by this process, in calls that fit memory."""
        limit = self.max_batch or len(images)
        if self.unconditional is not None:
            limit = max(1, limit // 2)
        calls = calls_of(self.model)
        limit = min(limit, -(-len(images) // len(calls)))
        pieces = zip(images.split(limit), timesteps.split(limit), places.split(limit), strict=True)
        jobs = [functools.partial(self._guided, calls, piece) for piece in pieces]
        try:
            outputs = in_lanes(jobs, len(calls))
        except Exception as error:
            note_source(error, f"the network, called with images {shapes_of(images)} in calls of at most {limit}.")
            raise
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _guided(self, calls: Sequence[Any], piece: tuple[Tensor, Tensor, Tensor], lane: int) -> Tensor:
        """The outputs for a piece of a batch, by the call of one lane."""
        images, timesteps, places = piece
        conditioning = self._at(self.conditioning, places)
        if self.unconditional is None:
            return self._evaluate(calls[lane], images, timesteps, conditioning)
        both = appended(self._at(self.unconditional, places), conditioning, self.shared)
        twice = images.repeat(2, *[1] * (images.ndim - 1))
        without, given = self._evaluate(calls[lane], twice, timesteps.repeat(2), both).chunk(2)
        scale = self.guidance_scale
        if isinstance(scale, Tensor):
            scale = scale.to(given)[places].view(-1, *[1] * (images.ndim - 1))
        channels = images.shape[1]
        guided = without[:, :channels] + scale * (given[:, :channels] - without[:, :channels])
        if self.guidance_rescale:
            guided = rescaled(guided, given[:, :channels], self.guidance_rescale)
        return torch.cat([guided, given[:, channels:]], 1)

    def _evaluate(self, call: Any, images: Tensor, timesteps: Tensor, conditioning: dict[str, Any]) -> Tensor:
        names = argument_names(self.model)
        told = self.timestep_scale * timesteps if self.timestep_scale != 1 else timesteps
        pair = (images.to(self.dtype), told)
        output = (
            call(*pair, **conditioning)
            if names is None
            else call(**dict(zip(names, pair, strict=True)), **conditioning)
        )
        output = output.sample if hasattr(output, "sample") else output[0] if isinstance(output, tuple) else output
        wide = (len(images), 2 * images.shape[1], *images.shape[2:])
        if output.shape not in (images.shape, wide) or (self.told and output.shape != wide):
            due = f"{wide}, since the scheduler asks for a variance" if self.told else f"{(*images.shape,)}"
            raise ValueError(
                f"The model turns images {(*images.shape,)} into {(*output.shape,)}; noise, velocity or image must "
                f"have the shape of the image, here {due}. Wrap the model if it predicts more: "
                "`lambda x, t, **more: model(x, t, **more).sample[:, :4]`."
            )
        return (output if self.told else output[:, : images.shape[1]]).to(images.dtype)

    def _at(self, conditioning: Mapping[str, Any], places: Tensor) -> dict[str, Any]:
        return mapped(conditioning, self.shared, lambda value: value[places.to(value.device)])


def rescaled(guided: Tensor, given: Tensor, share: float) -> Tensor:
    """Guidance makes an output larger; draw its size back to that of the conditional one (arXiv 2305.08891, 3.4)."""
    axes = tuple(range(1, given.ndim))
    whole = guided * (given.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * whole + (1 - share) * guided
