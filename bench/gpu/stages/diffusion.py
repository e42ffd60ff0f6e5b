"""Denoising by DDIM with all steps at once, without diffusers: a convolutional network with random weights.

What a step costs depends on the network's size, not on what it has learned; how many rounds it takes does, so rounds of
trained networks are counted elsewhere (`python -m bench.diffusion`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.timing import first_run_on, waiting
from bench.gpu.stages.base import Figures, Rows, Where
from bench.roofline.measure import seconds

PIXELS = 32


class Network(torch.nn.Module):
    """Predicts noise in images of three channels: residual blocks of convolutions, told the time."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.inner = torch.nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = torch.nn.ModuleList(torch.nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.outer = torch.nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.inner(x) + t.view(-1, 1, 1, 1)
        for block in self.blocks:
            h = h + torch.nn.functional.silu(block(h))
        return self.outer(torch.tanh(h))


def rows(where: Where) -> Rows:
    """One image, and four, at the numbers of steps that people use."""
    return {
        f"{steps} steps, batch {batch}": partial(measured, where, steps, batch)
        for steps, batch in ((50, 1), (100, 1), (50, 4), (250, 1))
    }


def ddim(network: Network, steps: int, device: str) -> tuple[Callable[[Tensor, Any], Tensor], tuple[Tensor, ...]]:
    """A step of DDIM (Song, Meng and Ermon, ICLR 2021, eq. 12 with eta = 0) on the cosine schedule, and its inputs."""
    times = torch.linspace(0.98, 0.02, steps + 1, device=device)
    kept = torch.cos(times * torch.pi / 2) ** 2

    def f(s: Tensor, u: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        t, now, after = (part.expand(s.shape[:-1]).reshape(-1, 1) for part in u)
        x = s.reshape(-1, 3, PIXELS, PIXELS)
        noise = network(x, t).flatten(1)
        clean = (x.flatten(1) - (1 - now).sqrt() * noise) / now.sqrt()
        return (after.sqrt() * clean + (1 - after).sqrt() * noise).view_as(s)

    return f, tuple(part.unsqueeze(-1) for part in (times[:-1], kept[:-1], kept[1:]))


def measured(where: Where, steps: int, batch: int) -> Figures:
    """Picard's rounds against the loop, to a relative error of 1e-2 or so of the sample."""
    torch.manual_seed(0)
    steps, rounds = where.size(steps, 8), 1 if where.tiny else 3
    network = Network(where.size(128, 4), where.size(8, 1)).to(where.device).requires_grad_(False)
    f, inputs = ddim(network, steps, where.device)
    noise = torch.randn(batch, 3 * PIXELS**2, device=where.device)

    @torch.no_grad()
    def loop() -> Tensor:
        return li.sequential(f, noise, inputs)

    @torch.no_grad()
    def parallel() -> li.Solution:
        return li.solve(f, noise, inputs, li.Picard(), rtol=1e-3, atol=1e-3)

    exact, first = loop(), first_run_on(parallel, where.device)
    error = float((first.result.states[-1] - exact[-1]).norm() / exact[-1].norm())
    assert error < 5e-2, f"a relative error of {error:.1e} of the sample"
    times = {name: 1e3 * seconds(waiting(run, where.device), where.device, rounds)
             for name, run in (("loop", loop), ("Picard()", parallel))}  # fmt: skip
    taken = int(first.result.iterations.max())
    words = f"{taken} rounds for {steps} steps, {times['Picard()']:.0f} ms, the loop {times['loop']:.0f} ms"
    return {"steps": steps, "batch": batch, "rounds": taken, "ms": times, "error": error,
            "peak_mib": first.peak_mib, "line": words}  # fmt: skip
