"""Lorenz-63, standardised, and how far a trajectory's attractor is from it."""

from __future__ import annotations

import torch
from torch import Tensor

import lds_iter as li

DT = 0.02
"""Time between two rows."""

EXPONENT = 0.9056
"""The system's largest Lyapunov exponent, nats per unit of time (Sprott, "Chaos and time-series analysis", 2003)."""


def slope(t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
    """Lorenz's equations at sigma = 10, rho = 28, beta = 8/3."""
    a, b, c = y.unbind(-1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


def lorenz(length: int, seed: int = 0, transient: int = 500) -> Tensor:
    """A trajectory on the attractor, every coordinate with mean 0 and variance 1, `(length, 3)`, float64.

    Args:
        length: rows, `DT` apart.
        seed: of the start.
        transient: rows before the first.
    """
    chance = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(3, generator=chance, dtype=torch.float64, device="cpu")
    y = torch.tensor([1.0, 1.0, 25.0], dtype=torch.float64, device="cpu") + drawn
    times = DT * torch.arange(length + transient, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        rows = li.sequential(*li.ode.recurrence(slope, y, times))[transient - 1 :]
    return (rows - rows.mean(0)) / rows.std(0)


def divergence(generated: Tensor, data: Tensor, bins: int = 30) -> float:
    """How far the places that a trajectory visits are from those of the data: the `D_stsp` of the GTF paper.

    It is a Kullback-Leibler divergence of two histograms, in nats. They count in `bins` per coordinate over two
    standard deviations and a half to either side, and 1e-5 is added to every count.

    Args:
        generated, data: `(n, 3)` each, standardised as the data are.
        bins: per coordinate.
    """

    def histogram(rows: Tensor) -> Tensor:
        places = ((rows.nan_to_num(10) + 2.5) / 5 * bins).floor().clamp(0, bins - 1).long()
        flat = (places * torch.tensor([bins * bins, bins, 1], device=rows.device)).sum(-1)
        counts = torch.bincount(flat, minlength=bins**3).double() + 1e-5
        return counts / counts.sum()

    truth, found = histogram(data), histogram(generated)
    return float((truth * (truth / found).log()).sum())
