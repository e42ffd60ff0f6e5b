"""The growth of an iteration count with the length of a sequence, as far as the counts of a prefix tell.

Time is causal, so one recorded solve of n steps gives the count `N(t)` of every shorter length. What it says about
`T > n` depends on whether the prefix is longer than the memory of the recurrence:

- Where differences have faded within the prefix, a long sequence is many short ones side by side, and the count is the
  largest of theirs: it has settled, up to a constant for every doubling of t (log T, as the largest of many random
  numbers with exponential tails). So theory has it for Newton (Gonzalez, Kozachkov et al. 2025: log T iterations at a
  negative exponent).
- Where differences grow, and for a method that carries along what it leaves out (Picard), a front moves through the
  sequence at its own pace: the count grows in proportion to t, at the slope of the last doubling.
- Where differences fade and the count still grows, it will settle between its present value and growth in proportion.
- Where the prefix is shorter than the memory, its counts say nothing about the rest, and the law is `UNKNOWN`.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch
from torch import Tensor

SETTLED_BY = 0.25
"""A count has settled when the last two doublings added at most this part of it, or two iterations: counts are whole,
and the largest of several random numbers moves by steps."""

STRAIGHT = (1.5, 2.7)
"""By how much growth must grow from one doubling to the next to be called linear; 2 on paper."""

PACE = 0.25
"""How much the pace beyond the prefix may differ from that of its last two doublings."""


class GrowthLaw(enum.IntEnum):
    """How a count grows with the length of the sequence."""

    UNKNOWN = 0
    """The prefix is too short to tell, or was not solved; the count of the prefix is a lower bound."""
    SETTLED = 1
    """At most by a constant for every doubling."""
    GROWING = 2
    """Still in the prefix, less than in proportion in the end."""
    LINEAR = 3
    """In proportion."""


@dataclass(frozen=True)
class Forecast:
    """The forecast of a law for a longer sequence.

    Attributes:
        law: `GrowthLaw` codes, int64, `(*batch)`.
        expected: the count that it expects, float64, `(*batch)`.
        low, high: the range that it gives, float64, `(*batch)`.
    """

    law: Tensor
    expected: Tensor
    low: Tensor
    high: Tensor


def forecast(counts: Tensor, length: int, fades: Tensor, persists: Tensor) -> Forecast:
    """The count of `length` steps from those of a prefix.

    Args:
        counts: `N(t)` for t = 1..n, `(n, *batch)`, float64.
        length: T, n or more.
        fades: whether differences fade within the prefix, bool, `(*batch)`.
        persists: whether they do not fade at all, bool, `(*batch)`.
    """
    n = counts.shape[0]
    now, half, quarter, eighth = (counts[max(0, n // part - 1)] for part in (1, 2, 4, 8))
    last, before, first = now - half, half - quarter, quarter - eighth
    doublings, more = math.log2(length / n), 2 * (length - n) / n

    settled = fades & (now - quarter <= (SETTLED_BY * now).clamp(min=2))
    straight = _doubles(before, last) & (before >= 3) & (persists | (fades & _doubles(first, before)))
    linear = straight & ~settled
    law = torch.where(linear, GrowthLaw.LINEAR, torch.where(fades, GrowthLaw.GROWING, GrowthLaw.UNKNOWN)).masked_fill(
        settled, GrowthLaw.SETTLED
    )

    step = (now - quarter) / 2
    front = now + last * more
    power = (now.clamp(min=1) / quarter.clamp(min=1)).log2() / 2
    slow, fast = torch.minimum(last, 2 * before), torch.maximum(last, 2 * before)
    laws = {
        GrowthLaw.SETTLED: (now + step * doublings, now, now + (step + 1) * doublings),
        GrowthLaw.LINEAR: (front, now + (1 - PACE) * slow * more, now + (1 + PACE) * fast * more),
        GrowthLaw.GROWING: (
            torch.minimum(now * (length / n) ** power, front),
            now,
            torch.maximum(front, now * length / n),
        ),
    }
    unknown = (now, now, torch.full_like(now, length) if length > n else now)
    expected, low, high = (
        _chosen(law, {key: values[i] for key, values in laws.items()}, unknown[i]).clamp(max=length) for i in range(3)
    )
    return Forecast(law, expected, low, high)


def _doubles(earlier: Tensor, later: Tensor) -> Tensor:
    return (later >= STRAIGHT[0] * earlier) & (later <= STRAIGHT[1] * earlier)


def _chosen(law: Tensor, values: dict[GrowthLaw, Tensor], otherwise: Tensor) -> Tensor:
    for key, value in values.items():
        otherwise = torch.where(law == key, value, otherwise)
    return otherwise
