"""Checks of the arguments of `Recurrent`, at construction and at each call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def check_cell(cell: Any) -> Any:
    """Check that `cell` is a module or a function."""
    if isinstance(cell, type) or not callable(cell):
        raise TypeError(f"`cell` must be a module or function, cell(x, state) -> state, got {cell!r}.")
    return cell


def check_input(cell: Any, input: Any) -> None:
    """Check that `input` is a tensor with time and features, of the width and dtype that one of torch's cells takes."""
    if not isinstance(input, Tensor):
        hint = ""
        if isinstance(input, list | tuple) and input and isinstance(input[0], Tensor):
            hint = " Type torch.stack(input)."
        elif hasattr(input, "__array__") or isinstance(input, list | tuple):
            hint = " Type torch.as_tensor(input, dtype=torch.float32)."
        raise TypeError(f"`input` must be a tensor (T, B, ...) or (T, D_in), got {type(input).__name__}.{hint}")
    if input.layout is not torch.strided or input.is_nested:
        raise TypeError(
            f"`input` must be an ordinary dense tensor, got one of layout {input.layout}: input.to_dense()."
        )
    if input.dim() < 2:
        raise ValueError(
            f"`input` must have shape (T, B, ...), or (T, D_in) for a single sequence, got {tuple(input.shape)}. For a "
            "sequence of numbers type input.unsqueeze(-1)."
        )
    if input.numel() == 0:
        raise ValueError(f"`input` is empty, {tuple(input.shape)}: there is nothing to evaluate.")
    if isinstance(cell, torch.nn.RNNCellBase):
        _check_input_of_torchs(cell, input)


def _check_input_of_torchs(cell: Any, input: Tensor) -> None:
    """The same for what is known of torch's cells: dtype, device, dimensions, width."""
    dtype = cell.weight_hh.dtype
    if input.dtype != dtype:
        raise TypeError(f"`input` must be {dtype} like the weights of the cell, got {input.dtype}: input.to({dtype}).")
    if input.device != cell.weight_hh.device:
        raise ValueError(f"`input` is on {input.device} but the weights of the cell on {cell.weight_hh.device}.")
    if input.dim() > 3:
        raise ValueError(
            f"`input` must have shape (T, B, D_in) or (T, D_in) for a {type(cell).__name__}, got {tuple(input.shape)}."
        )
    if input.shape[-1] != cell.input_size:
        raise ValueError(f"`input` must end with input_size={cell.input_size}, got {tuple(input.shape)}.")


def check_states(cell: Any, state: Any, x: Tensor) -> Any:
    """Check that the tensors of `state` lead with the batch, in the width and dtype that a cell of torch takes."""
    leaves = pytree.tree_leaves(state)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(f"`state` must be a tensor (B, D) or a pytree of such tensors, got {type(state).__name__}.")
    torchs = isinstance(cell, torch.nn.RNNCellBase)
    width: Any = cell.hidden_size if torchs else None
    for leaf in leaves:
        if leaf.dim() == 0 or leaf.shape[0] != x.shape[1] or (torchs and tuple(leaf.shape[1:]) != (width,)):
            expected = f"({x.shape[1]}, {width})" if torchs else f"({x.shape[1]}, ...)"
            raise ValueError(
                f"`state` must have shape {expected}, the batch of `input` first, got {tuple(leaf.shape)}. For one "
                f"state for all sequences type state.expand({x.shape[1]}, -1)."
            )
        if leaf.device != x.device:
            raise ValueError(f"`state` is on {leaf.device} but `input` on {x.device}: move one with `.to(...)`.")
        if torchs and leaf.dtype != x.dtype:
            raise TypeError(f"`state` must be {x.dtype} like `input`, got {leaf.dtype}: type state.to({x.dtype}).")
    if isinstance(cell, torch.nn.LSTMCell) and not (isinstance(state, tuple | list) and len(state) == 2):
        raise TypeError(f"`state` must be (h, c) for an LSTMCell, got {type(state).__name__}.")
    if torchs and not isinstance(cell, torch.nn.LSTMCell) and not isinstance(state, Tensor):
        raise TypeError(f"`state` must be one tensor for a {type(cell).__name__}, got {type(state).__name__}.")
    return state


def zeros(cell: Any, x: Tensor) -> Any:
    """The zero state with which torch's cells begin when none is given."""
    width = getattr(cell, "hidden_size", None)
    if not isinstance(width, int):
        raise ValueError(
            f"`state` is needed: {type(cell).__name__} has no `hidden_size` to tell the shape of its state. Pass what "
            "the cell takes, tensors that begin with the batch, such as torch.zeros(B, D)."
        )
    h = torch.zeros(x.shape[1], width, dtype=_dtype(cell, x), device=x.device)
    return (h, torch.zeros_like(h)) if isinstance(cell, torch.nn.LSTMCell) else h


def _dtype(cell: Any, x: Tensor) -> torch.dtype:
    """The dtype of states: that of the cell's parameters, because the input may be whole numbers such as tokens."""
    parameters = cell.parameters() if isinstance(cell, torch.nn.Module) else ()
    return next((one.dtype for one in parameters if one.is_floating_point()), x.dtype)
