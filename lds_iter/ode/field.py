"""A user's `func(t, y)` as a field over all times at once, and the user's states as one tensor `(*batch, D)`.

`func` is written for one time, as torchdiffeq calls it. `torch.func.vmap` calls it for all times of a grid at once, so
nothing in it has to know of time steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.carries.independent import shared_dims, untouched_dims
from lds_iter.derivatives.autodiff import FunctionDerivatives
from lds_iter.errors import note_source, shapes_of
from lds_iter.recurrence import ravel

Func = Callable[[Tensor, Any], Any]
"""dy/dt from a time without dimensions and the state `y`, in the structure of `y`."""


@dataclass(frozen=True)
class Field:
    """`dy/dt` of many rows at once.

    Attributes:
        func: of the user.
        batch_dims: how many leading dimensions of `y` are batch.
        unravel: from `(..., D)` to the user's structure.
    """

    func: Func
    batch_dims: int
    unravel: Callable[[Tensor], Any]

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        """The slopes at times `t`, `(n)`, and states `s`, `(n, *batch, D)`: the shape of `s`.

        Raises:
            ValueError, TypeError: `func` returned another structure, other shapes, or no tensors.
        """
        if len(t) == 1:
            return self._at_one_time(t[0], s[0]).to(s.dtype).unsqueeze(0)
        try:
            return torch.func.vmap(self._at_one_time)(t, s).to(s.dtype)
        except RuntimeError as error:
            if "vmap" in str(error):
                error.add_note(
                    "`func` is called for all times at once by torch.func.vmap. In order of likelihood: it branches "
                    "on a value (`if t > 1:`; type torch.where(t > 1, a, b)); it reads one (`.item()`, `float(t)`); it "
                    "draws random numbers (draw them before); it writes into a tensor that it did not make."
                )
            raise

    def linearize(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes, `(n, *batch, D)`, and their Jacobians with respect to the state, `(n, *batch, D, D)`."""
        along = FunctionDerivatives(lambda rows, times: self(times, rows), s, t)
        return along.value, along.jacobian()

    def _at_one_time(self, t: Tensor, s: Tensor) -> Tensor:
        y = pytree.tree_map(lambda leaf: leaf[0], self.unravel(s.unsqueeze(0)))
        try:
            return self._flat(self.func(t, y), s)
        except Exception as error:
            note_source(error, f"`func(t, y)`, called with y {shapes_of(y)} at one time.")
            raise

    def _flat(self, slope: Any, s: Tensor) -> Tensor:
        """What `func` returned as one tensor, of the shape of `s`."""
        if isinstance(slope, Tensor):
            slope = slope.reshape(*slope.shape[: self.batch_dims], -1)
        else:
            slope = ravel(slope, self.batch_dims)[0]
        if slope.shape != s.shape:
            raise ValueError(
                f"`func` must return the shape of its state: with {self.batch_dims} batch dimension(s) the state is "
                f"{tuple(s.shape)} in one tensor, and dy/dt came as {tuple(slope.shape)}."
            )
        return slope


def make_field(func: Func, y0: Any, t0: Tensor, batch_dims: int | None) -> tuple[Field, Tensor]:
    """The field of `func`, and `y0` as one tensor `(*batch, D)`."""
    leaves = pytree.tree_leaves(y0)
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
        raise TypeError("`y0` must be a floating point tensor, or a tuple of them. Type torch.as_tensor(y0).")
    if batch_dims is None:
        batch_dims = _independent_dims(func, y0, t0, leaves)
    s0, unravel = ravel(y0, batch_dims)
    return Field(func, batch_dims, unravel), s0


def _independent_dims(func: Func, y0: Any, t0: Tensor, leaves: list[Tensor]) -> int:
    """How many leading dimensions that all tensors share `func` treats as a batch.

    One reverse-mode product tells: the slope of the first batch element is differentiated with respect to all of
    `y0`, and other elements get a gradient where `func` mixes them. The last dimension of the widest tensor is never
    batch.
    """
    shared = shared_dims(leaves)
    if all(size == 1 for size in leaves[0].shape[:shared]):
        return shared
    first = (0,) * shared
    with torch.no_grad():
        given = pytree.tree_map(lambda leaf: leaf.detach(), y0)
        slope, pull = torch.func.vjp(lambda y: func(t0.detach(), y), given)  # pyright: ignore[reportAssignmentType]
        seed = pytree.tree_map(torch.zeros_like, slope)
        for leaf in pytree.tree_leaves(seed):
            leaf[first] = torch.linspace(1.0, 2.0, leaf[first].numel(), dtype=leaf.dtype, device=leaf.device).view(
                leaf[first].shape
            )
        felt = [leaf.abs() > 0 for leaf in pytree.tree_leaves(pull(seed)[0])]
    return untouched_dims(felt, shared)
