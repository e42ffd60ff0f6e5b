"""A carry of any structure, shapes and float dtypes as one tensor `(*batch, D)`, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


@dataclass(frozen=True)
class Packing:
    """How the leaves of a carry lie in the last dimension of a state.

    Attributes:
        spec: the structure.
        names: of the leaves, for errors.
        shapes: of the leaves, without batch dimensions.
        dtypes: of the leaves.
        batch: the batch dimensions that all leaves begin with.
        dtype: of the state: the widest of the leaves.
    """

    spec: Any
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    batch: torch.Size
    dtype: torch.dtype

    @property
    def narrowest(self) -> torch.dtype:
        """The float dtype that decides which tolerance the states can meet."""
        real = {REAL.get(dtype, dtype) for dtype in self.dtypes}
        return torch.float32 if torch.float32 in real else torch.float64

    def pack(self, carry: Any, lead: tuple[int, ...], who: str) -> Tensor:
        """A carry whose leaves begin with the dimensions `lead`, as `(*lead, *batch, D)`; `who` gave it.

        Raises:
            TypeError, ValueError: for another structure, other shapes or dtypes than those of `init`.
        """
        leaves, spec = pytree.tree_flatten(carry)
        if spec != self.spec:
            raise TypeError(f"{who} must have the structure of `init`, {self.spec}, got {spec}.")
        rows = []
        for name, shape, dtype, leaf in zip(self.names, self.shapes, self.dtypes, leaves, strict=True):
            expected = (*lead, *self.batch, *shape)
            if not isinstance(leaf, Tensor) or leaf.shape != expected or leaf.dtype != dtype:
                got = f"{leaf.dtype} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf)
                raise ValueError(
                    f"{who} must have the shapes and dtypes of `init`: `carry{name}` should be {dtype} {expected}, got "
                    f"{got}. Type `.to({dtype})` for another dtype, `.reshape({expected})` for another shape."
                )
            if dtype.is_complex:
                leaf = torch.stack([leaf.real, leaf.imag], -1)  # the gradient of a view would need aligned memory
            rows.append(leaf.reshape((*lead, *self.batch, -1)).to(self.dtype))
        return torch.cat(rows, -1)

    def unpack(self, states: Tensor) -> Any:
        """States `(..., D)` as carries whose leaves begin with the same dimensions."""
        sizes = [math.prod(shape) * (2 if dtype.is_complex else 1) for shape, dtype in self._leaves]
        leaves = []
        for part, (shape, dtype) in zip(states.split(sizes, -1), self._leaves, strict=True):
            part = part.to(REAL.get(dtype, dtype))
            if dtype.is_complex:
                part = torch.complex(*part.unflatten(-1, (-1, 2)).unbind(-1))
            leaves.append(part.reshape((*part.shape[:-1], *shape)))
        return pytree.tree_unflatten(leaves, self.spec)

    @property
    def _leaves(self) -> list[tuple[torch.Size, torch.dtype]]:
        return list(zip(self.shapes, self.dtypes, strict=True))


def as_tensors(init: Any) -> Any:
    """`init` with tensors in place of Python's floats, all of a dtype that the iteration can move.

    Raises:
        TypeError: for a carry without leaves, and leaves that are no float or complex tensors.
        ValueError: for leaves that are empty, not finite, or on several devices.
    """
    named = pytree.tree_flatten_with_path(init)[0]
    if not named:
        raise TypeError(f"`init` must have at least one tensor, got {init!r}. The carry is what one step hands on.")
    device = next((leaf.device for _, leaf in named if isinstance(leaf, Tensor)), torch.get_default_device())
    made = [_as_tensor(f"init{pytree.keystr(path)}", leaf, device) for path, leaf in named]
    return pytree.tree_unflatten(made, pytree.tree_structure(init))


def _as_tensor(name: str, leaf: Any, device: torch.device) -> Tensor:
    if isinstance(leaf, float):
        leaf = torch.tensor(leaf, device=device)
    if not isinstance(leaf, Tensor):
        hint = " A counter belongs into `xs`: torch.arange(T)." if isinstance(leaf, int) else ""
        raise TypeError(f"`{name}` must be a tensor, got {leaf!r}.{hint}")
    if leaf.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"`{name}` is {leaf.dtype}: residuals need at least float32. Type `.float()`, and cast inside of `step`."
        )
    if leaf.dtype not in (torch.float32, torch.float64, *REAL):
        raise TypeError(
            f"`{name}` is {leaf.dtype}: the iteration moves a carry by little, which whole numbers cannot. A counter "
            "belongs into `xs` (torch.arange(T)), random numbers too; what `step` decides at each step belongs into "
            "its output `y`. A carry that is a whole number by nature needs a plain loop."
        )
    if leaf.device != device:
        raise ValueError(f"`{name}` is on {leaf.device}, and other leaves are on {device}: move one with `.to(...)`.")
    if leaf.numel() == 0:
        raise ValueError(f"`{name}` is empty, shape {tuple(leaf.shape)}. Leave it out of the carry.")
    if not bool(leaf.isfinite().all()):
        raise ValueError(
            f"`{name}` contains inf or NaN. A running maximum can start from a number that no input is below, such as "
            "-1e30."
        )
    return leaf


def make_packing(init: Any, batch_dims: int) -> Packing:
    """The packing of a carry whose leaves begin with `batch_dims` batch dimensions.

    Raises:
        ValueError: for leaves of different batches.
    """
    named = pytree.tree_flatten_with_path(init)[0]
    names, leaves = tuple(pytree.keystr(path) for path, _ in named), [leaf for _, leaf in named]
    batch = leaves[0].shape[:batch_dims]
    if len(batch) < batch_dims or any(leaf.shape[:batch_dims] != batch for leaf in leaves):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(f"`init` must begin with the same {batch_dims} `batch_dims` in every tensor, got {shapes}.")
    dtypes = tuple(leaf.dtype for leaf in leaves)
    wide = any(REAL.get(dtype, dtype) == torch.float64 for dtype in dtypes)
    shapes = tuple(leaf.shape[batch_dims:] for leaf in leaves)
    return Packing(pytree.tree_structure(init), names, shapes, dtypes, batch, torch.float64 if wide else torch.float32)
