"""A user's `func(t, y)` as a field over all times at once, and the user's states as one tensor `(*batch, D)`.

`func` is written for one time, as torchdiffeq calls it. `torch.func.vmap` calls it for all times of a grid at once, so
nothing in it has to know of time steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.carries.independent import shared_dims, untouched_dims
from lds_iter.derivatives.autodiff import FunctionDerivatives
from lds_iter.derivatives.over_rows import over_rows
from lds_iter.derivatives.pullback import pullback
from lds_iter.derivatives.refusals import Refusals
from lds_iter.errors import note_source, shapes_of
from lds_iter.recurrence import ravel

Func = Callable[[Tensor, Any], Any]
"""dy/dt from a time without dimensions and the state `y`, in the structure of `y`."""

FOR_ALL_TIMES = (
    "`func` is called for all times at once by torch.func.vmap. In order of likelihood: it branches on a value "
    "(`if t > 1:`; type torch.where(t > 1, a, b)); it reads one (`.item()`, `float(t)`); it draws random numbers (draw "
    "them before); it writes into a tensor that it did not make."
)
"""For errors of `torch.func.vmap`."""


@dataclass(frozen=True)
class Field:
    """`dy/dt` of many rows at once.

    Attributes:
        func: of the user.
        batch_dims: how many leading dimensions of `y` are batch.
        unravel: from `(..., D)` to the user's structure.
        refusals: what `func` has refused of autodiff, in all steps of a method and in all its iterations.
    """

    func: Func
    batch_dims: int
    unravel: Callable[[Tensor], Any]
    refusals: Refusals = field(default_factory=Refusals, repr=False, compare=False)

    def __call__(self, t: Tensor, s: Tensor) -> Tensor:
        """The slopes at times `t`, `(n)`, and states `s`, `(n, *batch, D)`: the shape of `s`.

        Raises:
            ValueError, TypeError: `func` returned another structure, other shapes, or no tensors.
        """
        if len(t) == 1:
            return self._at_one_time(t[0], s[0]).to(s.dtype).unsqueeze(0)
        return over_rows("func", self._at_one_time, (t, s), self.refusals, FOR_ALL_TIMES).to(s.dtype)

    def linearize(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes, `(n, *batch, D)`, and their Jacobians with respect to the state, `(n, *batch, D, D)`."""
        along = FunctionDerivatives(lambda rows, times: self(times, rows), s, t, self.refusals)
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
    refusals = Refusals()
    if batch_dims is None:
        batch_dims = _independent_dims(func, y0, t0, refusals)
    s0, unravel = ravel(y0, batch_dims)
    return Field(func, batch_dims, unravel, refusals), s0


def _independent_dims(func: Func, y0: Any, t0: Tensor, refusals: Refusals) -> int:
    """How many leading dimensions that all tensors share `func` treats as a batch.

    One reverse-mode product tells: the slope of the first batch element is differentiated with respect to all of
    `y0`, and other elements get a gradient where `func` mixes them. The last dimension of the widest tensor is never
    batch.
    """
    given = pytree.tree_map(lambda leaf: leaf.detach(), y0)
    leaves = pytree.tree_leaves(given)
    shared = shared_dims(leaves)
    if all(size == 1 for size in leaves[0].shape[:shared]):
        return shared
    first = (0,) * shared
    with torch.no_grad():
        seed = pytree.tree_map(torch.zeros_like, func(t0.detach(), given))
        for leaf in pytree.tree_leaves(seed):
            leaf[first] = torch.linspace(1.0, 2.0, leaf[first].numel(), dtype=leaf.dtype, device=leaf.device).view(
                leaf[first].shape
            )
        flat, unravel = ravel(given)
        pull = pullback(lambda y: ravel(func(t0.detach(), unravel(y)))[0], flat, refusals, attached=False)
        felt = [leaf.abs() > 0 for leaf in pytree.tree_leaves(unravel(pull(ravel(seed)[0])))]
    return untouched_dims(felt, shared)
