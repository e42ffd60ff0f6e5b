"""A scheduler and a network as one recurrence for `li.solve`: `s_t = f(s_{t-1}, u_t)`.

A state holds the slots of the `Schedule`, flattened, each divided by its size (`variance_preserving`), so that one
tolerance on the state means the same relative error in every step: a tolerance scaled by the noise level. Outputs of
the network are remembered, one per time step: a row whose argument has not changed is not evaluated again, so that the
rows at the end of a solve and the error estimate cost nothing. Nor is one that has moved by
less than `reuse`, whose output is extended by the slope of Gaussian images instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from lds_iter.diffusion.between import Between
from lds_iter.diffusion.coefficients import Coefficients
from lds_iter.diffusion.derivatives import DenoisingDerivatives
from lds_iter.diffusion.memo import Memo
from lds_iter.diffusion.sampled import Work
from lds_iter.diffusion.slopes import VARIANCE


class Evaluate(Protocol):
    """The network along the steps: images `(N, *shape)` as the scheduler scales them for it, their steps and their
    places in the batch, int64 `(N,)`, to outputs `(N, *shape)`, or `(N, 2, *shape)` where it tells a variance too.

    `whole` says whether the samples of a step are only ever evaluated together, steps in order, all places of each.
    """

    @property
    def whole(self) -> bool: ...

    def __call__(self, images: Tensor, steps: Tensor, places: Tensor) -> Tensor: ...


class Denoising:
    """`f(s, u)`: states `(n, B, k * D)`, inputs `{"step": (n,), "offset": (n, B, k * D)}`, the latter only with noise.

    Args:
        table: what the scheduler does.
        clip: what it does to its estimate of the image, or None.
        evaluate: what the model does; see `Evaluate`.
        noise: like what the first step gets, `(B, *shape)`, float32 or float64.
        stride: in the first sweep evaluate one of so many steps, in each further one of half as many, and interpolate
            the outputs in between: iterates that are far off yet deserve no more. 1 evaluates all steps in every sweep.
        reuse: an argument that has moved by no more than this, root mean square, since the network last saw it is not
            evaluated again; the output is extended along the move by the slope of Gaussian images. 0: evaluate all that
            has moved.
        between: what happens to the samples before each step, in the scheduler's units; None for nothing.
        guided: whether the model's outputs are extrapolated from several predictions, which multiplies errors.
    """

    def __init__(
        self,
        table: Coefficients,
        clip: Callable[[Tensor], Tensor] | None,
        evaluate: Evaluate,
        noise: Tensor,
        *,
        stride: int = 1,
        reuse: float = 0.0,
        between: Between | None = None,
        guided: bool = False,
    ) -> None:
        self.table, self.clipping, self.between, self.guided = table, clip, between, guided
        self._evaluate = evaluate
        self.shape = noise.shape[1:]
        self.slots, self.width = table.model.shape[1], self.shape.numel()
        told = self.width * (1 if table.spread is None else 2)
        self.memo = Memo(len(table.model), noise.flatten(1), told, stride=stride, reuse=reuse)
        self.work = Work()
        self._counted = 0

    def count(self, _: object = None) -> None:
        """Call it a round if the network has been called since the last time; serves as callback of the loop."""
        self.work.rounds += self.work.evaluations > self._counted
        self._counted = self.work.evaluations
        self.memo.sweep += 1

    def initial(self, sample: Tensor) -> Tensor:
        """The state before the first step, `(B, k * D)`, from a sample `(B, *shape)`; nothing remembered."""
        state = sample.new_zeros(sample.shape[0], self.slots, self.width)
        state[:, 0] = sample.flatten(1) / self.table.size[0, 0]
        return state.flatten(1)

    def guess(self, start: Tensor, inputs: Any, variance: float = VARIANCE) -> Tensor:
        """The whole trajectory from `start` if images were Gaussian, `(T, B, k * D)`: known at no evaluation.

        Where nothing is known of the network's outputs, `start` at every step. The first row always repeats it.
        """
        slopes = self.slopes(variance) * self.table.gain.view(-1, 1, 1)
        rows = [start]
        for step in range(1, len(slopes)):
            slots = rows[-1].unflatten(-1, (self.slots, self.width))[None]
            row = {name: value[step : step + 1] for name, value in inputs.items()}
            output = slopes[step] * slots[..., 0, :]
            rows.append(self.next(self.entering(slots, row["step"]), output, torch.zeros_like(output), row)[0])
        return torch.stack(rows) if self.table.levels.kind else start.expand(len(slopes), *start.shape)

    def warm(self, start: Tensor, trajectory: Tensor) -> Tensor:
        """States along samples `(T, B, *shape)` found before; what a scheduler remembers is as in `guess`."""
        first = self.samples(start[None], 0)
        rows = self.table.size[1:, 0].view(-1, 1, 1)
        if trajectory.shape != (len(rows), *first.shape[1:]):
            raise ValueError(
                f"A trajectory to start from must be `(T, B, *shape)` = {(len(rows), *first.shape[1:])}, "
                f"got {(*trajectory.shape,)}."
            )
        states = start.expand(len(rows), *start.shape).unflatten(-1, (self.slots, self.width)).clone()
        states[..., 0, :] = trajectory.flatten(2).to(states) / rows
        states[0, ...] = start.unflatten(-1, (self.slots, self.width))
        return states.flatten(-2)

    def samples(self, states: Tensor, first: int = 1) -> Tensor:
        """The scheduler's samples `(n, B, *shape)` in states `(n, B, k * D)`, the first of them `s_first`."""
        n = states.shape[0]
        size = self.table.size[first : first + n, 0].view(-1, 1, 1)
        return (states[..., : self.width] * size).unflatten(-1, self.shape)

    def __call__(self, states: Tensor, inputs: Any) -> Tensor:
        """The value, with the network evaluated at these states; nothing remembered, reused or counted."""
        slots, steps = states.unflatten(-1, (self.slots, self.width)), inputs["step"]
        argument = slots[..., 0, :] * self.table.gain[steps].view(-1, 1, 1)
        n, batch = argument.shape[:2]
        places = torch.arange(batch, device=states.device).repeat(n)
        told = self.evaluate(argument.flatten(0, 1), steps.repeat_interleave(batch), places).view(n, batch, -1)
        return self.next(self.entering(slots, steps), told[..., : self.width], told[..., self.width :], inputs)

    def linearize(self, states: Tensor, inputs: Any) -> DenoisingDerivatives:
        slots, steps = states.unflatten(-1, (self.slots, self.width)), inputs["step"]
        argument = slots[..., 0, :] * self.table.gain[steps].view(-1, 1, 1)
        told, fresh = self.memo.recall(
            argument, steps, self.slopes(VARIANCE)[steps], self.evaluate, self._evaluate.whole
        )
        self.work.evaluations += fresh
        seen = self.memo.evaluated(steps, argument)
        return DenoisingDerivatives(self, states, inputs, argument, told, seen)

    def entering(self, slots: Tensor, steps: Tensor) -> Tensor:
        """The slots `(n, B, k, D)` that the scheduler's step is given, from those that the step before has left."""
        if self.between is None:
            return slots
        size = self.table.size[steps, 0].view(-1, 1, 1)
        sample = self.between.scale[steps] * slots[..., 0, :] + self.between.shift[steps] / size
        return torch.cat([sample.unsqueeze(-2), slots[..., 1:, :]], -2)

    def evaluate(self, argument: Tensor, steps: Tensor, places: Tensor) -> Tensor:
        """The network at `(N, D)`, without memory or account."""
        return self._evaluate(argument.unflatten(-1, self.shape), steps, places).flatten(1)

    def next(self, slots: Tensor, output: Tensor, variance: Tensor, inputs: Any) -> Tensor:
        """What the scheduler makes of slots `(n, B, k, D)` and outputs `(n, B, D)`: states `(n, B, k * D)`.

        `variance`: what the network tells of it, `(n, B, D)`, where the scheduler wants to be told.
        """
        table, steps = self.table, inputs["step"]
        after = torch.einsum("tij,tbjd->tbid", table.linear[steps], slots)
        after = after + table.model[steps][:, None, :, None] * output.unsqueeze(-2)
        if self.clipping is not None:
            clipped = self.clip(self.estimate(slots, output, steps))
            after = after + table.clipped[steps][:, None, :, None] * clipped.unsqueeze(-2)
        after = after.flatten(-2)
        if "offset" not in inputs:
            return after
        if table.spread is None:
            return after + inputs["offset"]
        spread = table.spread.deviation(steps, variance)
        return after + (spread.unsqueeze(-2) * inputs["offset"].unflatten(-1, (self.slots, -1))).flatten(-2)

    def estimate(self, slots: Tensor, output: Tensor, steps: Tensor) -> Tensor:
        """The scheduler's estimate of the image before clipping, `(n, B, D)`."""
        both = torch.cat([slots, output.unsqueeze(-2)], -2)
        return torch.einsum("tj,tbjd->tbd", self.table.estimate[steps], both)

    def slopes(self, variance: float | None) -> Tensor:
        """The network's slope for Gaussian images of that variance, `(T, 1, 1)`, or `(T, B, D)` of a masked image."""
        slopes = self.table.levels.slopes(variance).view(-1, 1, 1)
        return slopes if self.between is None else slopes * self.between.scale

    def clip(self, estimate: Tensor) -> Tensor:
        """The scheduler's clipping or thresholding, `(n, B, D)`."""
        assert self.clipping is not None
        return self.clipping(estimate.unflatten(-1, self.shape).flatten(0, 1)).view_as(estimate)
