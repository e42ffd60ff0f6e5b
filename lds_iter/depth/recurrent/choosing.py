"""How the next token is chosen from logits: the likeliest, or a sample that depends on a seed and a place alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.depth.decoding.coupled_noise import CoupledNoise
from lds_iter.methods.spelling import Composable

Choose = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`choose(logits, positions, sequences)`: logits `(N, vocabulary)` of the tokens at `positions`, `(N,)`, of the
sequences of those numbers in the batch, `(N,)`, to tokens `(N,)`, int64. It must answer the same question alike every
time, since the logits of a token are computed several times."""


def most_likely(logits: Tensor, positions: Tensor, sequences: Tensor) -> Tensor:  # noqa: ARG001
    """Greedy decoding.

    Args:
        logits: `(N, vocabulary)`.
        positions: `(N,)`; not looked at.
        sequences: `(N,)`; not looked at.
    """
    return logits.argmax(-1)


@dataclass(frozen=True)
class Sample(Composable):
    """A sample from `softmax(logits / temperature)`, by noise that belongs to a seed, a sequence and a position.

    So the tokens are the same whatever way of generation computes the logits. Sequence i of a batch draws by
    `seed + i`: by itself with that seed it gets the same tokens.

    Attributes:
        seed: any whole number.
        temperature: above 0.

    Raises:
        ValueError: for a temperature that is not above 0.
    """

    seed: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"`temperature` must be above 0, got {self.temperature}. For the likeliest token leave `choose` out."
            )

    def __call__(self, logits: Tensor, positions: Tensor, sequences: Tensor) -> Tensor:
        """Tokens `(N,)`, int64; see `Choose`."""
        scores = logits.float() / self.temperature
        places = zip(positions.tolist(), sequences.tolist(), scores, strict=True)
        noise = [CoupledNoise(self.seed + sequence)(position, row) for position, sequence, row in places]
        return (scores + torch.stack(noise)).argmax(-1) if noise else scores.argmax(-1)


def chosen(choose: Choose, logits: Tensor, positions: Tensor, sequences: Sequence[int]) -> list[list[int]]:
    """The token after each of the tokens at `positions`, `(N, n)`, from logits `(N, n, vocabulary)`."""
    if not callable(choose):
        raise TypeError(f"`choose` must be a callable, got {choose!r}. Type `li.depth.Sample(seed)`, or leave it out.")
    numbers = torch.tensor(list(sequences), device=positions.device)[:, None].expand_as(positions)
    tokens = choose(logits.flatten(0, 1), positions.flatten() + 1, numbers.flatten())
    if tokens.shape != (positions.numel(),) or tokens.is_floating_point():
        raise ValueError(
            f"`choose` must return whole numbers ({positions.numel()},), one token for each row of the logits, got "
            f"{tuple(tokens.shape)} in {tokens.dtype}."
        )
    return tokens.view_as(positions).tolist()
