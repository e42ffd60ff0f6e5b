"""The network of a sampler: conditioning, guidance, precision, and evaluations counted and split to fit memory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Work:
    """What sampling cost.

    Attributes:
        rounds: batched calls that had to wait for each other: the sequential model calls.
        evaluations: samples times time steps that went through the network; a guided one counts as one.
        products: products with the derivative, likewise, by a difference: one evaluation more for each.
    """

    rounds: int = 0
    evaluations: int = 0
    products: int = 0


@dataclass(frozen=True)
class Network:
    """A diffusers model as a function of images, times and places in the batch.

    Attributes:
        model: a `UNet2DModel`, `UNet2DConditionModel`, transformer, or any module called with the sample, the timestep,
            and the conditioning as keywords.
        conditioning: keywords for the model; tensors that lead with the batch are indexed by it, others pass as is.
        unconditional: the same for classifier-free guidance, or None for none.
        guidance_scale: `unconditional + guidance_scale * (conditional - unconditional)`.
        batch: how many samples there are.
        dtype: what the model computes in; images come and go in float32 or float64.
        max_batch: most images in one call of the model; None for no limit.
        timestep_scale: the model is told `timestep_scale * timestep`.
    """

    model: Any
    conditioning: Mapping[str, Any]
    unconditional: Mapping[str, Any] | None
    guidance_scale: float
    batch: int
    dtype: torch.dtype
    max_batch: int | None = None
    timestep_scale: float = 1.0

    def __call__(self, images: Tensor, timesteps: Tensor, places: Tensor) -> Tensor:
        """The model's outputs.

        Args:
            images: `(N, *shape)`, scaled as the scheduler scales them.
            timesteps: `(N,)`.
            places: which sample of the batch each belongs to, int64 `(N,)`.
        """
        limit = self.max_batch or len(images)
        if self.unconditional is not None:
            limit = max(1, limit // 2)
        pieces = zip(images.split(limit), timesteps.split(limit), places.split(limit), strict=True)
        outputs = [self._guided(*piece) for piece in pieces]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _guided(self, images: Tensor, timesteps: Tensor, places: Tensor) -> Tensor:
        conditioning = self._at(self.conditioning, places)
        if self.unconditional is None:
            return self._evaluate(images, timesteps, conditioning)
        other = self._at(self.unconditional, places)
        both = {name: _stacked(other[name], value) for name, value in conditioning.items()}
        without, given = self._evaluate(images.repeat(2, *[1] * (images.ndim - 1)), timesteps.repeat(2), both).chunk(2)
        return without + self.guidance_scale * (given - without)

    def _evaluate(self, images: Tensor, timesteps: Tensor, conditioning: dict[str, Any]) -> Tensor:
        names = list(inspect.signature(getattr(self.model, "forward", self.model)).parameters)
        told = self.timestep_scale * timesteps if self.timestep_scale != 1 else timesteps
        time = {"timestep": told} if "timestep" in names else {names[1]: told}
        output = self.model(**{names[0]: images.to(self.dtype)}, **time, **conditioning)
        output = output.sample if hasattr(output, "sample") else output[0] if isinstance(output, tuple) else output
        if output.shape != images.shape:
            raise ValueError(
                f"The model turns images {tuple(images.shape)} into {tuple(output.shape)}; noise, velocity or image "
                "must have the shape of the image. Models that also predict a variance: wrap the model and keep the "
                "first half of the channels, as `lambda x, t, **more: model(x, t, **more).sample.chunk(2, 1)[0]`."
            )
        return output.to(images.dtype)

    def _at(self, conditioning: Mapping[str, Any], places: Tensor) -> dict[str, Any]:
        return {name: self._rows(value, places) for name, value in conditioning.items()}

    def _rows(self, value: Any, places: Tensor) -> Any:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.batch:
            return value[places]
        return self._at(value, places) if isinstance(value, Mapping) else value


def _stacked(first: Any, second: Any) -> Any:
    if isinstance(second, Tensor):
        return torch.cat([first, second])
    return (
        {name: _stacked(first[name], value) for name, value in second.items()} if isinstance(second, dict) else second
    )
