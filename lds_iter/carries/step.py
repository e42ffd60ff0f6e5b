"""A user's `step(carry, x) -> (carry, y)` as a recurrence `f(s, u)`, as `li.solve` takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.carries.packing import Packing
from lds_iter.errors import note_source, shapes_of

UserStep = Callable[[Any, Any], tuple[Any, Any]]
"""From a carry and the inputs of one time step to the next carry, in the same structure, and an output or None."""


class ScannedStep:
    """The recurrence of a step: `f(s, inputs)` on states `(n, *batch, D)`.

    Args:
        step: of the user.
        packing: of its carry.
        vectorized: whether `step` takes n time steps at once, its leaves `(n, ...)`; else `torch.func.vmap` calls it.
        has_xs: whether `step` gets inputs; else None.
    """

    def __init__(self, step: UserStep, packing: Packing, vectorized: bool, has_xs: bool) -> None:
        self.step, self.packing, self.vectorized, self.has_xs = step, packing, vectorized, has_xs
        self.__code__ = getattr(step, "__code__", None)  # `Auto` tells recurrences apart by their code

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:
        return self._evaluate(s, inputs)[0]

    def outputs(self, s0: Tensor, states: Tensor, inputs: Any, rows: int | None = None) -> Any:
        """The outputs `ys` along states `(T, *batch, D)`, each leaf `(T, ...)`; at most `rows` time steps at once."""
        prev = torch.cat([s0.unsqueeze(0), states[:-1]])
        length = len(prev)
        parts = []
        for start in range(0, length, rows or length):
            here = slice(start, start + (rows or length))
            parts.append(self._evaluate(prev[here], pytree.tree_map(lambda leaf, h=here: _cut(leaf, h), inputs))[1])
        return pytree.tree_map(_joined, *parts)

    def carries(self, states: Tensor) -> Any:
        """States `(..., D)` in the structure of the carry."""
        return self.packing.unpack(states)

    def _evaluate(self, s: Tensor, inputs: Any) -> tuple[Tensor, Any]:
        """The next states and the outputs of n rows."""
        if self.vectorized:
            return self._called(s, inputs, (len(s),))
        if len(s) == 1:  # a step costs half as much without vmap
            after, y = self._called(s[0], pytree.tree_map(lambda leaf: _cut(leaf, 0), inputs), ())
            return after.unsqueeze(0), pytree.tree_map(lambda leaf: _row(leaf, s.device), y)
        kept: list[Any] = []

        def one(row: Tensor, x: Any) -> tuple[Tensor, list[Tensor]]:
            after, y = self._called(row, x, ())
            leaves, spec = pytree.tree_flatten(y)
            made = [leaf if leaf is None else torch.as_tensor(leaf, device=s.device) for leaf in leaves]
            kept[:] = [spec, [leaf is None for leaf in made]]
            return after, [leaf for leaf in made if leaf is not None]

        dims = pytree.tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, inputs)
        try:
            after, tensors = torch.func.vmap(one, in_dims=(0, dims))(s, inputs)
        except RuntimeError as error:
            if "vmap" in str(error):
                error.add_note(
                    "`step` is called for all time steps at once by torch.func.vmap. In order of likelihood: it "
                    "branches on a value (`if x > 1:`; type torch.where(x > 1, a, b)); it reads one (`.item()`, "
                    "`float(x)`); it draws random numbers (draw them before, into `xs`); it writes into a tensor that "
                    "it did not make. A step that takes leaves (n, ...) of n time steps goes with vectorized=True."
                )
            raise
        given = iter(tensors)
        return after, pytree.tree_unflatten([None if none else next(given) for none in kept[1]], kept[0])

    def _called(self, s: Tensor, inputs: Any, lead: tuple[int, ...]) -> tuple[Tensor, Any]:
        carry, x = self.packing.unpack(s), inputs if self.has_xs else None
        try:
            return self._packed(self.step(carry, x), lead)
        except Exception as error:
            note_source(error, f"`step`, called with a carry {shapes_of(carry)} and x {shapes_of(x)}.")
            raise

    def _packed(self, answer: Any, lead: tuple[int, ...]) -> tuple[Tensor, Any]:
        """What `step` returned, with its carry as one tensor."""
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise TypeError(
                f"`step` must return a pair (carry, y), got {type(answer).__name__}. A step without outputs returns "
                "(carry, None)."
            )
        return self.packing.pack(answer[0], lead, "The carry that `step` returns"), answer[1]


def _cut(leaf: Any, rows: slice | int) -> Any:
    return leaf[rows] if isinstance(leaf, Tensor) else leaf


def _row(leaf: Any, device: torch.device) -> Any:
    return None if leaf is None else torch.as_tensor(leaf, device=device).unsqueeze(0)


def _joined(*leaves: Any) -> Any:
    return None if leaves[0] is None else leaves[0] if len(leaves) == 1 else torch.cat(leaves)
