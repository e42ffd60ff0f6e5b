"""The derivatives of a `Denoising`: the scheduler's part exactly, the network's by differences or by autodiff."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lds_iter.derivatives.autodiff import FunctionDerivatives
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.diffusion.memo import Evaluated

DIFFERENCE = 1e-2
"""Root mean square change of the network's argument, of size 1, in a difference that stands for a derivative."""


class DenoisingDerivatives(AbstractDerivatives):
    """The value from the remembered outputs; derivatives of the network by `torch.func` where a method asks for them.

    Attributes:
        recurrence: the `Denoising`.
        states: before each step, `(n, B, k * D)`.
        slots: what the scheduler's step is given of them, `(n, B, k, D)`.
        steps: which steps, `(n,)`.
        argument, output: what the network saw and said, `(n, B, D)`.
        seen: the evaluations behind `output`.
    """

    def __init__(
        self, recurrence: Any, states: Tensor, inputs: Any, argument: Tensor, told: Tensor, seen: Evaluated
    ) -> None:
        """`told`: the output, and the variance that the network tells, if it does, `(n, B, D or 2 * D)`."""
        width = recurrence.width
        self.recurrence, self.states, self.inputs, self.steps = recurrence, states, inputs, inputs["step"]
        self.slots = recurrence.entering(states.unflatten(-1, (recurrence.slots, width)), self.steps)
        self.argument, self.output, self.seen = argument, told[..., :width], seen
        self.value = recurrence.next(self.slots, self.output, told[..., width:], inputs)

    @cached_property
    def estimate(self) -> Tensor:
        """The scheduler's estimate of the image before clipping, `(n, B, D)`."""
        return self.recurrence.estimate(self.slots, self.output, self.steps)

    @cached_property
    def clipped(self) -> Tensor:
        """The same after clipping."""
        return self.recurrence.clip(self.estimate)

    @cached_property
    def mask(self) -> Tensor | None:
        """1 where the estimate of the image is not clipped, 0 where it is, `(n, B, D)`; None without clipping."""
        if self.recurrence.clipping is None:
            return None
        return (self.clipped == self.estimate).to(self.estimate.dtype)

    def push(self, row: int, slots: Tensor, output: Tensor) -> Tensor:
        """What small changes of slots `(B, k, D)` and of the network's output `(B, D)` do to one row's value.

        The derivative, `(B, k, D)`: numbers that are clipped pass nothing on.
        """
        slots, pushed = self._unclipped(row, slots, output)
        if self.mask is None:
            return pushed
        change = self.recurrence.table.estimate[self.steps[row]] @ torch.cat([slots, output.unsqueeze(-2)], -2)
        return self._with_clipped(row, pushed, self.mask[row] * change)

    def carried(self, row: int, slots: Tensor, output: Tensor) -> Tensor:
        """The same for changes of any size: as far as the scheduler goes, exactly what they do, clipping included."""
        slots, pushed = self._unclipped(row, slots, output)
        if self.recurrence.clipping is None:
            return pushed
        change = self.recurrence.table.estimate[self.steps[row]] @ torch.cat([slots, output.unsqueeze(-2)], -2)
        before = self.estimate[row : row + 1]
        after = self.recurrence.clip(before + change)
        return self._with_clipped(row, pushed, (after - self.clipped[row : row + 1])[0])

    def _unclipped(self, row: int, slots: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The change of the slots that the step is given, and what the linear part of the step makes of it."""
        table, step, between = self.recurrence.table, self.steps[row], self.recurrence.between
        if between is not None:
            slots = torch.cat([between.scale[step].unsqueeze(-2) * slots[:, :1], slots[:, 1:]], 1)
        return slots, table.linear[step] @ slots + table.model[step, :, None] * output.unsqueeze(-2)

    def _with_clipped(self, row: int, pushed: Tensor, change: Tensor) -> Tensor:
        """With the change `(B, D)` of the clipped estimate of the image."""
        return pushed + self.recurrence.table.clipped[self.steps[row], :, None] * change.unsqueeze(-2)

    def _exact(self, states: Tensor, inputs: Any) -> Tensor:
        """The recurrence itself, for `torch.func`; with the attention that has forward derivatives."""
        with sdpa_kernel(SDPBackend.MATH):
            return self.recurrence(states, inputs)

    @cached_property
    def _function(self) -> FunctionDerivatives:
        return FunctionDerivatives(self._exact, self.states, self.inputs)

    def jvp(self, v: Tensor) -> Tensor:
        """`J_t v_t`, of the network by a difference: not every layer has a forward derivative, and none is as cheap."""
        slots = v.unflatten(-1, (self.recurrence.slots, self.recurrence.width))
        change = slots[..., 0, :] * self.recurrence.table.gain[self.steps].view(-1, 1, 1)
        size = change.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
        n, batch = change.shape[:2]
        steps, places = self.steps.repeat_interleave(batch), torch.arange(batch, device=v.device).repeat(n)
        moved = (self.argument + DIFFERENCE * change / size).flatten(0, 1)
        output = self.recurrence.evaluate(moved, steps, places).view(n, batch, -1)[..., : change.shape[-1]]
        self.recurrence.work.products += n * batch
        through = (output - self.output) * (size / DIFFERENCE)
        return torch.stack([self.push(row, slots[row], through[row]) for row in range(n)]).flatten(-2)

    def vjp(self, w: Tensor) -> Tensor:
        return self._function.vjp(w)

    def jacobian(self) -> Tensor:
        """Column by column, a difference each: forward derivatives do not pass through the networks of diffusers."""
        basis = torch.eye(self.slots.shape[-2:].numel(), dtype=self.slots.dtype, device=self.slots.device)
        return torch.stack([self.jvp(e.expand_as(self.value)) for e in basis], -1)

    def diagonal(self) -> Tensor:
        return self.jacobian().diagonal(dim1=-2, dim2=-1)

    def block_diagonal(self, size: int) -> Tensor:
        blocks = self.jacobian().unflatten(-1, (-1, size)).unflatten(-3, (-1, size))  # (n, B, rows, size, cols, size)
        return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
