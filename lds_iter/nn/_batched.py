"""Torch may hand many gradients to one backward pass. This file takes such a batch apart.

`torch.autograd.grad(..., is_grads_batched=True)` and `jacobian(vectorize=True)` batch by torch's older `vmap`;
`torch.func.vmap` around a call of `torch.autograd.grad` batches by the newer one.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack


@dataclass(frozen=True)
class GradientBatch:
    """The level of the `vmap` that a tensor belongs to, and whether the newer one made it."""

    level: int
    newer: bool

    def unbind(self, x: Tensor) -> tuple[Tensor, ...]:
        """The list of ordinary tensors that a batched tensor `x` represents."""
        if self.newer:
            return _functorch.get_unwrapped(x).unbind(_functorch.maybe_get_bdim(x))
        return torch._remove_batch_dim(x, self.level, 1, 0).unbind()  # pyright: ignore

    def lowered(self) -> contextlib.AbstractContextManager[Any]:
        """A context that suspends that `vmap`."""
        return temporarily_pop_interpreter_stack() if self.newer else contextlib.nullcontext()

    def bind(self, x: Tensor) -> Tensor:
        """The inverse: a batched tensor from a stack of ordinary ones."""
        add = _functorch._add_batch_dim if self.newer else torch._add_batch_dim  # pyright: ignore
        return add(x, 0, self.level)


def batch_of(x: Tensor) -> GradientBatch | None:
    """The batch that `x` belongs to; None for an ordinary tensor."""
    if _functorch.is_batchedtensor(x):
        return GradientBatch(_functorch.maybe_get_level(x), True)
    level = torch._C._vmapmode_increment_nesting() - 1  # pyright: ignore
    torch._C._vmapmode_decrement_nesting()  # pyright: ignore
    return None if level == 0 or _has_memory(x) else GradientBatch(level, False)


def _has_memory(x: Tensor) -> bool:
    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return True
