"""Gibbs sampling by a user's conditional updates (Geman and Geman 1984), each a function of noise drawn beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.mcmc.acceptance import MoveInfo
from lds_iter.mcmc.sampler import AbstractSampler
from lds_iter.mcmc.target import Target
from lds_iter.methods.spelling import spelled

Conditional = Callable[[dict[str, Tensor], Tensor], Tensor]
Draw = Callable[[tuple[int, ...], torch.Generator | None], Tensor]


@dataclass(frozen=True)
class Gibbs(AbstractSampler):
    """See `gibbs`."""

    conditionals: Mapping[str, Conditional]
    draws: Mapping[str, Draw]
    logdensity: None = field(init=False, default=None)  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        if not self.conditionals or set(self.conditionals) != set(self.draws):
            raise ValueError(
                "`conditionals` and `draws` must have the same names, those of the position, got "
                f"{sorted(self.conditionals)} and {sorted(self.draws)}."
            )

    def noise(self, length: int, like: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        shape = (length, *like.shape[:-1])
        made = {name: draw(shape, generator) for name, draw in self.draws.items()}
        for name, drawn in made.items():
            if not isinstance(drawn, Tensor) or drawn.shape[: len(shape)] != shape:
                got = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
                raise ValueError(
                    f"`draws[{name!r}]` must return a tensor that begins with the shape {shape}, got {got}."
                )
        return {name: drawn.to(like) for name, drawn in made.items()}

    def move(self, target: Target, s: Tensor, noise: Any) -> tuple[Tensor, MoveInfo]:
        lead = s.shape[:-1]

        def sweep(s: Tensor, noise: dict[str, Tensor]) -> Tensor:
            position = dict(target.packing.unpack(s))
            for name, conditional in self.conditionals.items():
                position[name] = conditional(position, noise[name])
            return target.packing.pack(position, (), "The position after the conditional updates")

        rows = {name: part.flatten(0, len(lead) - 1) for name, part in noise.items()} if lead else noise
        moved = torch.func.vmap(sweep)(s.flatten(0, -2), rows).unflatten(0, lead) if lead else sweep(s, rows)
        sure = torch.ones_like(moved[..., 0])
        return moved, MoveInfo(sure > 0, sure, ~moved.isfinite().all(-1), torch.full_like(sure, torch.nan))


@spelled
def gibbs(conditionals: Mapping[str, Conditional], draws: Mapping[str, Draw]) -> Gibbs:
    """A Gibbs sampler: each part of the position in turn is drawn from its distribution given all others.

    Args:
        conditionals: by the names of a position that is a dict, in the order of a sweep: `(position, noise)` of one
            chain to the new value of that part. The position holds new values of parts that came before.
        draws: by the same names, the noise of that update: `(shape, generator)` to a tensor `(*shape, ...)`, such as
            `lambda shape, generator: torch.randn(*shape, 8, generator=generator)`.

    Raises:
        ValueError: for names that do not agree.

    Example:
        >>> pair = li.mcmc.gibbs(  # two normal numbers with correlation 0.5
        ...     {"x": lambda p, z: 0.5 * p["y"] + 0.75**0.5 * z, "y": lambda p, z: 0.5 * p["x"] + 0.75**0.5 * z},
        ...     {name: lambda shape, g: torch.randn(shape, generator=g) for name in "xy"},
        ... )
        >>> draws = li.mcmc.sample(pair, {"x": torch.zeros(4), "y": torch.zeros(4)}, 500)
        >>> draws.positions["x"].shape
        torch.Size([500, 4])
    """
    return Gibbs(dict(conditionals), dict(draws))
