"""What a process holds while it solves and trains again and again: memory, descriptors, threads, objects."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import lds_iter as li

LENGTHS, WIDTHS, BATCHES = (5, 17, 40, 64, 101), (1, 3, 4, 8), ((), (2,), (3,))
WARM_UP = 0.2
"""The part of a run that may fill caches: of shapes, of kernels, of the allocator. Growth is counted after it."""

Action = Callable[[int], None]


@dataclass(frozen=True)
class Held:
    """What the process holds at a moment.

    Attributes:
        done: solves or training steps so far.
        mib: resident memory, in MiB.
        descriptors: open files and sockets.
        threads: of the system.
        objects: of Python, after a collection.
    """

    done: int
    mib: float
    descriptors: int
    threads: int
    objects: int


def held(done: int) -> Held:
    """Of this process, from Linux."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = len(list(Path("/proc/self/task").iterdir()))
    objects = len(gc.get_objects())
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return Held(done, round(pages * os.sysconf("SC_PAGESIZE") / 2**20, 1), descriptors, threads, objects)


def shapes(number: int) -> tuple[int, tuple[int, ...], int]:
    """Length, batch and width of one solve; all combinations come, in a fixed order that jumps about."""
    count = len(LENGTHS) * len(BATCHES) * len(WIDTHS)
    place = number * 37 % count
    length, rest = LENGTHS[place % len(LENGTHS)], place // len(LENGTHS)
    return length, BATCHES[rest % len(BATCHES)], WIDTHS[rest // len(BATCHES)]


def f(s: Tensor, u: Tensor) -> Tensor:
    """A contraction of any width."""
    return torch.tanh(0.5 * s + u)


def solving() -> Action:
    """One solve: methods, a kept `Auto`, windows, gradients and failures in turn."""
    auto = li.Auto()
    methods = (
        *(li.Newton(), li.QuasiNewton(), li.Jacobi(), li.Picard(), li.TrustRegion(li.Newton())),
        *(li.LevenbergMarquardt(10.0), li.Damped(li.QuasiNewton(), 0.1), li.QuasiNewton(li.Hutchinson()), auto),
    )

    def solve(number: int) -> None:
        length, batch, width = shapes(number)
        s0, u = torch.zeros(*batch, width), torch.randn(length, *batch, width)
        method = methods[number % len(methods)]
        if number % 50 == 0:
            assert not li.solve(f, s0, u, li.Jacobi(), max_iters=1, throw=False).converged
        elif number % 5 == 0:
            u.requires_grad_()
            li.solve(f, s0, u, method).states.sum().backward()
        else:
            window = 16 if number % 7 == 0 and not isinstance(method, li.Auto) else None
            assert li.solve(f, s0, u, method, window=window).converged

    return solve


def training() -> Action:
    """One step of Adam for a model of layers: lengths and batches vary, weights are kept."""
    layers = torch.nn.ModuleList(
        [
            li.nn.GRU(3, 4),
            li.nn.LSTM(3, 4, method=li.Newton()),
            li.nn.RNN(3, 4, method=li.QuasiNewton()),
            li.nn.GRU(3, 4, method=li.Auto()),
        ]
    )
    last = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*layers.parameters(), *last.parameters()], lr=1e-3)

    def step(number: int) -> None:
        length, batch, _ = shapes(number)
        x = torch.randn(length, *(batch or (1,)), 3)
        optimizer.zero_grad()
        loss = last(layers[number % len(layers)](x)[0]).square().mean()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()

    return step


def soak(action: Action, times: int, looks: int = 10) -> Iterator[Held]:
    """Do it so many times, and look so often at what is held."""
    for number in range(1, times + 1):
        action(number)
        if number * looks // times != (number - 1) * looks // times:
            yield held(number)


def growth(seen: list[Held]) -> dict[str, float]:
    """How much more is held at the end than at the most within the warm-up."""
    begin = [one for one in seen if one.done <= WARM_UP * seen[-1].done]
    names = ("mib", "descriptors", "threads", "objects")
    return {name: round(getattr(seen[-1], name) - max(getattr(one, name) for one in begin), 1) for name in names}
