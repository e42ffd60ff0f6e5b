"""What a function refuses of autodiff: found out once, and remembered.

Reverse mode is the way that every differentiable function has. Forward mode and `vmap`, which are faster, are not:
fused cells on a GPU (`aten::_thnn_fused_gru_cell`), attention kernels, a `torch.autograd.Function` without `jvp` and
much else refuse them. So the faster way is asked first, and where it refuses, the other one serves from then on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

NOT_REFUSALS = (
    "random operation",  # a function that draws numbers has no derivative, whatever the way
    "doesn't have storage",  # nor has one that leaves torch, and backpropagation would not see that
    "INTERNAL ASSERT FAILED",  # an interrupt while torch entered a level of `torch.func`
)
"""Words of errors after which no other way is tried."""

KINDS = RuntimeError, AssertionError
"""Kinds of errors that refusals come as. `torch.func` trips over its own assertions where one of its transforms is
around a function that refuses another one."""

BOTH_REFUSED = (
    "`f` refuses this derivative in forward mode and in reverse mode. In order of likelihood: a fused kernel in it can "
    "be differentiated once and not twice (attention: call it within torch.nn.attention.sdpa_kernel(SDPBackend.MATH); "
    "a torch.autograd.Function with `once_differentiable`), or not at all; it leaves torch on the way. For a cell of "
    "torch.nn type `li.nn.Recurrent(cell)`, which knows its derivatives; an `f` may also bring its own, by a method "
    "`linearize`. `li.Jacobi()` and `li.Picard()` need none."
)


def reason(error: Exception) -> str | None:
    """Torch's words for a refusal, the first sentence; None for errors that are none."""
    if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NOT_REFUSALS):
        return None
    if isinstance(error, AssertionError) and not _of_torch(error):
        return None
    return str(error).partition("\n")[0].partition(". ")[0]


def _of_torch(error: Exception) -> bool:
    """Whether it was raised in code of torch itself."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith("torch.")


class Refusals:
    """What one function has refused of autodiff.

    Attributes:
        words: by the way that serves instead, such as `"J v in reverse mode"`, why: torch's words.
    """

    def __init__(self) -> None:
        self.words: dict[str, str] = {}

    def ask(self, way: str, preferred: Callable[[], T], other: Callable[[], T]) -> T:
        """What `preferred` gives; if the function refuses that, what `other` gives, and from then on nothing else.

        Args:
            way: the name of `other`.
            preferred: the faster way.
            other: the way that serves instead.

        Raises:
            RuntimeError: where both ways are refused.
        """
        if way in self.words:
            return _instead(other, None)
        try:
            return preferred()
        except KINDS as error:
            found = reason(error)
            if found is None:
                raise
            words, refused = found, error
        answer = _instead(other, refused)
        self.words[way] = words
        return answer


def _instead(other: Callable[[], T], refused: Exception | None) -> T:
    """What the other way gives; its error says that there is none."""
    try:
        return other()
    except KINDS as error:
        if reason(error) is not None and BOTH_REFUSED not in getattr(error, "__notes__", ()):
            error.add_note(BOTH_REFUSED)
        if refused is None:
            raise
        raise error from refused


def refusals_of(f: object) -> Refusals:
    """What a function has refused so far, where it keeps that; else an empty record."""
    found = getattr(f, "refusals", None)
    return found if isinstance(found, Refusals) else Refusals()
