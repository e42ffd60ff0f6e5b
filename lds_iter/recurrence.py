"""Adapters between what users have and the layout of `solve`: one state tensor, D last, any leading dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def ravel(state: Any, batch_dims: int = 0) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Turn a structured state, such as an LSTM's (h, c), an image or a sequence of tokens, into one `(*batch, D)`.

    Args:
        state: a pytree of tensors that all begin with the same `batch_dims` batch dimensions.
        batch_dims: how many leading dimensions are batch.

    Returns:
        The tensor, and the inverse, which takes `(..., D)` with any leading dimensions back to the structure.

    Example:
        >>> flat, unravel = li.ravel((torch.zeros(2, 3), torch.ones(2, 4)), batch_dims=1)
        >>> flat.shape, [leaf.shape for leaf in unravel(flat)]
        (torch.Size([2, 7]), [torch.Size([2, 3]), torch.Size([2, 4])])
    """
    leaves, spec = pytree.tree_flatten(state)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(f"`state` must be a pytree of tensors, with at least one, got {type(state).__name__}.")
    batch = leaves[0].shape[:batch_dims]  # compared, not put into a set: what is hashed, a compiler takes for fixed
    if len(batch) < batch_dims or any(leaf.shape[:batch_dims] != batch for leaf in leaves[1:]):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(f"`state` must have the same first {batch_dims} dimension(s) in every tensor, got {shapes}.")
    if len({leaf.dtype for leaf in leaves}) > 1:
        raise TypeError(f"`state` must have one dtype, got {sorted({str(leaf.dtype) for leaf in leaves})}.")
    shapes = [leaf.shape[batch_dims:] for leaf in leaves]
    sizes = [shape.numel() for shape in shapes]
    flat = torch.cat([leaf.reshape(*leaf.shape[:batch_dims], -1) for leaf in leaves], dim=-1)

    def unravel(tensor: Tensor) -> Any:
        parts = tensor.split(sizes, dim=-1) if len(sizes) > 1 else [tensor]
        shaped = [part.reshape(*part.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]
        return pytree.tree_unflatten(shaped, spec)

    return flat, unravel


def take_rows(inputs: Any, start: int, stop: int) -> Any:
    """The rows `[start, stop)` of every tensor of a pytree that leads with time."""
    return pytree.tree_map(lambda leaf: leaf[start:stop] if isinstance(leaf, Tensor) else leaf, inputs)


def detached(inputs: Any) -> Any:
    """The same pytree, cut off from autograd."""
    return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, inputs)


def check_order(f: Any) -> None:
    """`f`: not a cell of `torch.nn`, which takes the input first."""
    if isinstance(f, torch.nn.RNNCellBase):
        swapped = "" if isinstance(f, torch.nn.LSTMCell) else ", or `li.fold(lambda s, u: cell(u, s))`"
        raise TypeError(
            f"torch.nn.{type(f).__name__} takes (input, state), and `f` must take (state, input). Type "
            f"`li.nn.Recurrent(cell)` for a layer of it{swapped}."
        )


def fold(f: Callable[[Tensor, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    """Adapt a function or module that takes states `(N, D)` and inputs `(N, ...)` to any number of leading dimensions.

    Example:
        >>> cell = torch.nn.GRUCell(3, 4)
        >>> step = li.fold(lambda h, x: cell(x, h))
        >>> step(torch.zeros(5, 2, 4), torch.zeros(5, 2, 3)).shape
        torch.Size([5, 2, 4])

    Raises:
        TypeError: for a cell of `torch.nn`, which takes the input first and the state second.
    """
    check_order(f)

    def folded(s: Tensor, inputs: Any) -> Tensor:
        lead = s.shape[:-1]

        def flatten(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if leaf.shape[: len(lead)] != lead:
                raise ValueError(
                    f"`fold` needs inputs that begin with the state's leading dimensions {tuple(lead)}, got a tensor "
                    f"of shape {tuple(leaf.shape)}. Expand it, or index it inside your own function instead of `fold`."
                )
            return leaf.reshape(-1, *leaf.shape[len(lead) :])

        out = f(s.reshape(-1, s.shape[-1]), pytree.tree_map(flatten, inputs))
        return out.reshape(*lead, *out.shape[1:])

    return folded
