"""Guesses of the tokens to come, for `parallel_generate`: right ones save passes, wrong ones change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lds_iter.methods.spelling import Composable

Draft = Callable[[Tensor, Tensor], Tensor]
"""`draft(tokens, said)`: all tokens so far, `(B, n)`, and the model's own words for the next ones from its last pass,
`(B, ahead)`, to a guess of the next ones, `(B, at most ahead)`. It is asked anew in every round."""


def own_words(tokens: Tensor, said: Tensor) -> Tensor:  # noqa: ARG001
    """The model's own words of its last pass, which it said after drafted tokens: Jacobi decoding.

    Args:
        tokens: all so far, `(B, n)`; not looked at.
        said: the model's own words for the next ones, `(B, ahead)`; returned.
    """
    return said


@dataclass(frozen=True)
class Lookup(Composable):
    """A draft from the text so far, looked up anew in every round (prompt lookup decoding, Saxena 2023).

    The draft is what followed the latest earlier occurrence of the last `match` tokens; behind it, and where there is
    none, the model's own words stand.

    Attributes:
        match: how many tokens have to agree.

    Raises:
        ValueError: for `match` below 1.
    """

    match: int = 3

    def __post_init__(self) -> None:
        if self.match < 1:
            raise ValueError(f"`match` must be at least 1, got {self.match}.")

    def __call__(self, tokens: Tensor, said: Tensor) -> Tensor:
        if tokens.shape[1] <= self.match:
            return said
        windows = tokens[:, :-1].unfold(1, self.match, 1)
        found = (windows == tokens[:, None, -self.match :]).all(-1)
        drafted = said.clone()
        for row, places in enumerate(found):
            where = places.nonzero().flatten()
            if len(where):
                following = tokens[row, int(where[-1]) + self.match :][: said.shape[1]]
                drafted[row, : len(following)] = following
        return drafted
