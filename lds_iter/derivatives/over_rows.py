"""A user's function of one row, called for all rows: at once by `torch.func.vmap`, or in turn where it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.derivatives.refusals import Refusals
from lds_iter.errors import warn_of_slowness

IN_TURN = "one row after the other"
"""The way that serves where a function refuses `torch.func.vmap`."""

REFUSED = "does not have vmap support", "to use an autograd.Function with functorch transforms"
"""Torch's words about a `torch.autograd.Function`. A function that draws numbers or branches on one is not meant: there
the user has to decide."""


def over_rows(name: str, function: Callable[..., Any], rows: tuple[Any, ...], refusals: Refusals, advice: str) -> Any:
    """What a function of one row makes of each, stacked.

    Args:
        name: of the function, as users know it.
        function: from one row of each argument to a tensor, or a pytree of tensors.
        rows: the arguments, pytrees whose tensors lead with n.
        refusals: of the function.
        advice: for errors of `torch.func.vmap`.

    Raises:
        RuntimeError: by `torch.func.vmap`, with the advice as a note.
    """
    if IN_TURN in refusals.words:
        return _in_turn(function, rows)
    try:
        return torch.func.vmap(function)(*rows)
    except RuntimeError as error:
        if not any(words in str(error) for words in REFUSED):
            if "vmap" in str(error):
                error.add_note(advice)
            raise
        why = str(error).partition("\n")[0].partition(". ")[0]
    found = _in_turn(function, rows)
    refusals.words[IN_TURN] = why
    warn_of_slowness(
        f"`{name}` is called {IN_TURN}, for torch.func.vmap has no rule for a torch.autograd.Function in it ({why}). "
        "Give that class a static method `setup_context` and `generate_vmap_rule = True`."
    )
    return found


def _in_turn(function: Callable[..., Any], rows: tuple[Any, ...]) -> Any:
    count = len(next(leaf for leaf in pytree.tree_leaves(rows) if isinstance(leaf, Tensor)))
    found = [function(*pytree.tree_map(lambda leaf, i=i: leaf[i], rows)) for i in range(count)]
    return pytree.tree_map(lambda *parts: torch.stack(parts), *found)
