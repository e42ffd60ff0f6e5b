"""One step of the cells of `torch.nn` for every row, in compiled code, with its gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lds_iter.kernels.cpu.cells import Tensors
from lds_iter.nn.cell_spec import BoundCell

Gradients = tuple[Tensor | None, ...]


class Step(Function):
    """One step of every row in compiled code. For the backward pass it saves its arguments only."""

    @staticmethod
    def forward(ctx: Any, f: BoundCell, s: Tensor, *leaves: Tensor) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(s, *leaves)
        f, u = f.with_leaves(leaves)
        done = f.spec.compiled.step(s, f.tensors(u), blocks=False)
        return f.plain(s, u).value if done is None else done[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:  # pyright: ignore[reportIncompatibleMethodOverride]
        s, *leaves = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        f, u = ctx.f.with_leaves(tuple(leaves))
        made, weights = _row_gradients(f, s, u, g, needed)
        return None, _to_state(f, made).reshape(s.shape) if needed[0] else None, *weights


def _row_gradients(f: BoundCell, s: Tensor, u: Any, g: Tensor, needed: tuple[bool, ...]) -> tuple[Tensors, Gradients]:
    """Map the gradient of the values to the tensors of `CompiledCell.gradients`, and to the gradients of inputs, `W_hh`
    and inner bias."""
    spec, tensors = f.spec, f.tensors(u)
    gates, width, matrices = spec.gates, f.width, needed[1 + spec.gates]
    done = spec.compiled.gradients(s, tensors, g, matrices=matrices)
    if done is None:  # to be differentiated again, or batched
        made = f.plain(s, u).gradients(g)
        h = s[..., :: spec.compiled.parts].reshape(-1, width)
        squares = tuple(slope.reshape(h.shape).T @ h for slope in made[:gates]) if matrices else ()
    else:
        made, squares = done
    inner = (made[gates - 1].reshape(-1, width).sum(0),) if spec.inner_bias else ()
    return made, (*(made[k] for k in spec.compiled.to_inputs), torch.cat(squares) if matrices else None, *inner)


def _to_state(f: BoundCell, made: Tensors) -> Tensor:
    """The gradient of the state before each row."""
    through = made[0] @ f.weights.gates[0]
    for slope, weight in zip(made[1 : f.spec.gates], f.weights.gates[1:], strict=True):
        through = through + slope @ weight
    parts = [torch.zeros_like(through) if k is None else made[k] for k in f.spec.to_state]
    parts[0] = parts[0] + through
    return parts[0] if len(parts) == 1 else torch.stack(parts, -1)
