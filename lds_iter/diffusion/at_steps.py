"""A `Network` as a `Denoising` calls it, and looked at while it is called."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.diffusion.company import differs
from lds_iter.diffusion.network import Network


class AtSteps:
    """A network that is told steps, and looks up their timesteps.

    The first image that it is given is evaluated once more, beside the images of the second call. No call must draw
    random numbers. A network that breaks either has no trajectory of its own to be found.

    Args:
        network: the model.
        timesteps: `(T,)`.
    """

    whole = False

    def __init__(self, network: Network, timesteps: Tensor) -> None:
        self._network, self._timesteps = network, timesteps
        self._first: tuple[Tensor, ...] | None = None
        self.checks = 0

    def __call__(self, images: Tensor, steps: Tensor, places: Tensor) -> Tensor:
        """Images `(N, *shape)` at steps of places `(N,)` to outputs.

        Raises:
            ValueError: when the network draws random numbers, or mixes up the images of a batch.
        """
        again = () if self._first is None or self.checks else self._first
        if again:
            images, steps, places = (torch.cat(pair) for pair in zip((images, steps, places), again[:3], strict=True))
            self.checks = 1
        before = _random_states(images)
        outputs = self._network(images, self._timesteps[steps], places)
        if any(not torch.equal(*pair) for pair in zip(before, _random_states(images), strict=True)):
            raise ValueError(
                "The model draws random numbers, so that no two evaluations agree: dropout in training mode, most "
                "likely. Type `model.eval()`."
            )
        if self._first is None:
            self._first = tuple(tensor[:1].clone() for tensor in (images, steps, places, outputs))
        if not again:
            return outputs
        dtype = self._network.dtype
        if differs(outputs[-1:].to(dtype), again[3].to(dtype)):
            raise ValueError(
                "The model does not treat the images of a batch one by one: one image came out otherwise in other "
                "company. In order of likelihood: batch norm in training mode, type `model.eval()`; a mean or "
                "attention over the batch. max_batch=1 gives every image a call of its own: right, at no gain."
            )
        return outputs[:-1]


def _random_states(like: Tensor) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(like.device)] if like.is_cuda else [])]
