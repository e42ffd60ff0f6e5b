"""What the model says of GPUs: one of them, several over links of each kind, and the rivals."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.mesh.model import fits, on_gpus
from bench.mesh.network import NETWORKS
from bench.mesh.work import Work

LENGTHS = 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000
WIDTH = 64

BATCH_LENGTH = 10_000_000
"""Time steps of each sequence of a batch."""

SHORTEST, LONGEST = 1e3, 1e12
"""Between which a crossing is looked for."""

Works = dict[tuple[str, int, bool], Work]
"""By kind, width, and whether a rank of a mesh does it."""


@dataclass(frozen=True)
class Fleet:
    """So many GPUs on a network of `NETWORKS`."""

    ranks: int
    network: str

    @property
    def name(self) -> str:
        """For a table."""
        return f"{self.ranks:,} {self.network}"


FLEETS = (
    Fleet(2, "NVLink"),
    Fleet(8, "NVLink"),
    Fleet(64, "InfiniBand"),
    Fleet(1024, "InfiniBand"),
    Fleet(1024, "Ethernet"),
)


@dataclass(frozen=True)
class Forecast:
    """Seconds of an iteration, and whether it fits without a window."""

    seconds: float
    fits: bool


def alone(kind: str, length: float, batch: int, found: Works) -> Forecast:
    """On one GPU without a mesh."""
    work = found[kind, WIDTH, False]
    return Forecast(on_gpus(kind, WIDTH, work, length, batch, 1, None), fits(work, WIDTH, length, batch, 1))


def shared(kind: str, length: float, batch: int, fleet: Fleet, found: Works) -> Forecast:
    """With the time steps spread over the GPUs."""
    work = found[kind, WIDTH, True]
    seconds = on_gpus(kind, WIDTH, work, length, batch, fleet.ranks, NETWORKS[fleet.network])
    return Forecast(seconds, fits(work, WIDTH, length, batch, fleet.ranks))


def forecasts(kind: str, length: float, found: Works) -> list[Forecast]:
    """Of one sequence on one GPU, then on each of `FLEETS`."""
    return [alone(kind, length, 1, found), *(shared(kind, length, 1, fleet, found) for fleet in FLEETS)]


def crossing(kind: str, fleet: Fleet, found: Works) -> float:
    """The shortest T at which the GPUs take less time than one; infinite where none does."""

    def gains(length: float) -> bool:
        return shared(kind, length, 1, fleet, found).seconds < alone(kind, length, 1, found).seconds

    if not gains(LONGEST):
        return math.inf
    low, high = SHORTEST, LONGEST
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if gains(middle) else (middle, high)
    return high


def over_a_batch(kind: str, batch: int, fleet: Fleet, found: Works) -> float:
    """How many times as fast as with whole sequences on each GPU: the busiest holds `ceil(batch / P)` of them."""
    busiest = alone(kind, BATCH_LENGTH, -(-batch // fleet.ranks), found).seconds
    return busiest / shared(kind, BATCH_LENGTH, batch, fleet, found).seconds


def batches(found: Works) -> list[tuple[str, list[float]]]:
    """Gains at several sizes of a batch: full matrices on each fleet from 8 GPUs to 1,024, then a diagonal."""
    sizes = {"1": lambda _: 1, "P / 8": lambda p: p // 8, "P / 2": lambda p: p // 2, "P": lambda p: p,
             "P + 1": lambda p: p + 1, "8 P": lambda p: 8 * p}  # fmt: skip
    return [
        (words, [over_a_batch(kind, size(fleet.ranks), fleet, found)
                 for kind in ("Newton, dense", "QuasiNewton") for fleet in FLEETS[1:4]])
        for words, size in sizes.items()
    ]  # fmt: skip
