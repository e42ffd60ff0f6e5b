"""A scheduler and a network as one recurrence for `li.solve`: `s_t = f(s_{t-1}, u_t)`.

A state holds the slots of the `Schedule`, flattened, each divided by its size (`variance_preserving`), so that one
tolerance on the state means the same relative error in every step: a tolerance scaled by the noise level. Outputs of
the network are remembered, one per time step: a row whose argument has not changed is not evaluated again, so that the
rows at the end of a solve, the check of `li.solve`, and the error estimate cost nothing. Nor is one that has moved by
less than `reuse`, whose output is extended by the slope of Gaussian images instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recipes.diffusion.coefficients import Coefficients, interpolated
from recipes.diffusion.derivatives import DenoisingDerivatives
from recipes.diffusion.network import Network, Work
from recipes.diffusion.slopes import VARIANCE


class Memo:
    """The last argument and output of the network at every time step and sample, `(T, B, D)`."""

    def __init__(self, length: int, like: Tensor) -> None:
        self.argument = like.new_full((length, *like.shape), torch.nan)
        self.output = like.new_zeros((length, *like.shape))


class Denoising:
    """`f(s, u)`: states `(n, B, k * D)`, inputs `{"step": (n,), "offset": (n, B, k * D)}`, the latter only with noise.

    Args:
        table: what the scheduler does.
        clip: what it does to its estimate of the image, or None.
        network: what the model does.
        noise: like what the first step gets, `(B, *shape)`, float32 or float64.
        thin: in the first sweep evaluate about so many steps, in each further one twice as many, and interpolate the
            outputs in between: iterates that are far off yet deserve no more. 0 evaluates all steps in every sweep.
        reuse: an argument that has moved by no more than this, root mean square, since the network last saw it is not
            evaluated again; the output is extended along the move by the slope of Gaussian images. 0: evaluate all that
            has moved.
    """

    def __init__(
        self,
        table: Coefficients,
        clip: Callable[[Tensor], Tensor] | None,
        network: Network,
        noise: Tensor,
        *,
        thin: int = 0,
        reuse: float = 0.0,
    ) -> None:
        self.table, self.clipping, self.network, self.thin, self.reuse = table, clip, network, thin, reuse
        self.shape = noise.shape[1:]
        self.slots, self.width = table.model.shape[1], self.shape.numel()
        self.memo = Memo(len(table.model), noise.flatten(1))
        self.work = Work()
        self._counted = 0
        self._sweep = 0

    def prefetch(self, start: Tensor, guess: Tensor, inputs: Any, window: int | None) -> None:
        """Evaluate the network along a guess in one round, so that `li.solve` begins and checks at no cost.

        The checks look at the first two rows at `start`, which is where `guess` has them.
        """
        rows = slice(0, window)
        prev = torch.cat([start.unsqueeze(0), guess[:-1]])[rows]
        self.linearize(prev, {name: value[rows] for name, value in inputs.items()})
        self.work.rounds, self._counted = 1, self.work.evaluations

    def count(self, _: object = None) -> None:
        """Call it a round if the network has been called since the last time; serves as callback of `li.solve`."""
        self.work.rounds += self.work.evaluations > self._counted
        self._counted = self.work.evaluations
        self._sweep += 1

    def initial(self, sample: Tensor) -> Tensor:
        """The state before the first step, `(B, k * D)`, from a sample `(B, *shape)`; nothing remembered."""
        state = sample.new_zeros(sample.shape[0], self.slots, self.width)
        state[:, 0] = sample.flatten(1) / self.table.size[0, 0]
        return state.flatten(1)

    def guess(self, start: Tensor, inputs: Any, variance: float = VARIANCE) -> Tensor:
        """The whole trajectory from `start` if images were Gaussian, `(T, B, k * D)`: known at no evaluation.

        Where nothing is known of the network's outputs, `start` at every step. The first row always repeats it.
        """
        slopes = self.slopes(variance) * self.table.gain
        rows = [start]
        for step in range(1, len(slopes)):
            slots = rows[-1].unflatten(-1, (self.slots, self.width))[None]
            row = {name: value[step : step + 1] for name, value in inputs.items()}
            rows.append(self.next(slots, slopes[step] * slots[..., 0, :], row)[0])
        return torch.stack(rows) if self.table.levels.kind else start.expand(len(slopes), *start.shape)

    def samples(self, states: Tensor, first: int = 1) -> Tensor:
        """The scheduler's samples `(n, B, *shape)` in states `(n, B, k * D)`, the first of them `s_first`."""
        n = states.shape[0]
        size = self.table.size[first : first + n, 0].view(-1, 1, 1)
        return (states[..., : self.width] * size).unflatten(-1, self.shape)

    def __call__(self, states: Tensor, inputs: Any) -> Tensor:
        return self.linearize(states, inputs).value

    def linearize(self, states: Tensor, inputs: Any) -> DenoisingDerivatives:
        slots = states.unflatten(-1, (self.slots, self.width))
        argument = slots[..., 0, :] * self.table.gain[inputs["step"]].view(-1, 1, 1)
        output = self._remembered(argument, inputs["step"])
        return DenoisingDerivatives(self, slots, inputs, argument, output)

    def _remembered(self, argument: Tensor, steps: Tensor) -> Tensor:
        """The network's outputs, evaluated where the argument is not (nearly) the one remembered."""
        batch = argument.shape[1]
        known, output = self.memo.argument[steps, :batch], self.memo.output[steps, :batch]
        nodes = self._nodes(steps)
        moved = argument - known
        near = moved.square().mean(-1).sqrt() <= self.reuse  # false for NaN: never evaluated
        slopes = self.slopes(VARIANCE)[steps].view(-1, 1, 1)
        output = torch.where(near.unsqueeze(-1), output + slopes * moved, output)
        new = ~near & nodes.unsqueeze(-1)
        rows, places = new.nonzero(as_tuple=True)
        if len(rows):
            fresh = argument[rows, places]
            computed = self.evaluate(fresh, steps[rows], places)
            self.memo.argument[steps[rows], places] = fresh
            self.memo.output[steps[rows], places] = computed
            output[rows, places] = computed
            self.work.evaluations += len(rows)
        return output if bool(nodes.all()) else interpolated(output, nodes)

    def _stride(self, sweep: int) -> int:
        return max(1, len(self.memo.output) // (self.thin << sweep)) if self.thin else 1

    @property
    def thinned(self) -> bool:
        """Whether the last sweep interpolated outputs."""
        return self._stride(max(0, self._sweep - 1)) > 1

    def _nodes(self, steps: Tensor) -> Tensor:
        """The rows to evaluate: all, or of a thinned sweep about `thin * 2**sweep` of T, evenly spaced.

        The rows that `li.solve` may accept in the sweep are always among them.
        """
        nodes = (steps % self._stride(self._sweep) == 0) | (steps <= self._sweep + 1)
        nodes[0] = nodes[-1] = True
        return nodes

    def evaluate(self, argument: Tensor, steps: Tensor, places: Tensor) -> Tensor:
        """The network at `(N, D)`, without memory or account."""
        images = argument.unflatten(-1, self.shape)
        return self.network(images, self.table.timesteps[steps], places).flatten(1)

    def next(self, slots: Tensor, output: Tensor, inputs: Any) -> Tensor:
        """What the scheduler makes of slots `(n, B, k, D)` and outputs `(n, B, D)`: states `(n, B, k * D)`."""
        table, steps = self.table, inputs["step"]
        after = torch.einsum("tij,tbjd->tbid", table.linear[steps], slots)
        after = after + table.model[steps][:, None, :, None] * output.unsqueeze(-2)
        if self.clipping is not None:
            clipped = self.clip(self.estimate(slots, output, steps))
            after = after + table.clipped[steps][:, None, :, None] * clipped.unsqueeze(-2)
        after = after.flatten(-2)
        return after + inputs["offset"] if "offset" in inputs else after

    def estimate(self, slots: Tensor, output: Tensor, steps: Tensor) -> Tensor:
        """The scheduler's estimate of the image before clipping, `(n, B, D)`."""
        both = torch.cat([slots, output.unsqueeze(-2)], -2)
        return torch.einsum("tj,tbjd->tbd", self.table.estimate[steps], both)

    def slopes(self, variance: float | None) -> Tensor:
        """The network's slope for Gaussian images of that variance, `(T,)`."""
        return self.table.levels.slopes(variance)

    def clip(self, estimate: Tensor) -> Tensor:
        """The scheduler's clipping or thresholding, `(n, B, D)`."""
        assert self.clipping is not None
        return self.clipping(estimate.unflatten(-1, self.shape).flatten(0, 1)).view_as(estimate)
