"""The solve itself, of a `Denoising` however its network is evaluated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.observers import Observers, Remembered
from lds_iter.diffusion.recurrence import Denoising
from lds_iter.diffusion.sampled import Sampled
from lds_iter.diffusion.secant import Secant
from lds_iter.diffusion.settings import Settings
from lds_iter.diffusion.structured import Structured
from lds_iter.solution import Progress, Solution
from lds_iter.solve import solve


@dataclass(frozen=True)
class Watch:
    """What is seen of a solve while it goes on.

    Attributes:
        progress: show a bar.
        record: keep `Sampled.solution.history`.
        callback: called with a `li.Progress` after every round.
    """

    progress: bool = False
    record: bool = False
    callback: Callable[[Progress], object] | None = None


@torch.no_grad()
def denoise(
    recurrence: Denoising,
    noise: Tensor,
    inputs: Any,
    settings: Settings,
    watch: Watch,
    warm: Tensor | None = None,
) -> Sampled:
    """Solve from the samples before the first step, `(B, *shape)`.

    Args:
        recurrence: new, with nothing remembered but what is known of the first step.
        noise: what the first step gets.
        inputs: of the recurrence.
        settings: see there.
        watch: see there.
        warm: a trajectory `(T, B, *shape)` to start from, such as `Sampled.trajectory`; the one of Gaussian images when
            None.
    """
    observers = Observers((recurrence.count, *(() if watch.callback is None else (watch.callback,))))
    carries: list[Any] = []
    start = recurrence.initial(noise.to(recurrence.table.gain.dtype))
    guess = recurrence.guess(start, inputs) if warm is None else recurrence.warm(start, warm)
    if warm is not None:
        recurrence.thin = 0
    recurrence.prefetch(start, guess, inputs, settings.window)
    run = functools.partial(
        solve,
        recurrence,
        start,
        inputs,
        Remembered(settings.method, carries),
        rtol=0,
        atol=settings.tol * min(5, 250 / len(recurrence.table.gain)),
        callback=observers,
        progress=watch.progress,
        record=watch.record,
        window=settings.window,
    )
    solution = run(guess=guess)
    if recurrence.thinned:  # solved, at a tolerance as wide as that, for interpolated outputs
        recurrence.thin = 0
        solution = run(guess=solution.states)
    correction = _last_update(recurrence, start, solution, inputs, carries[0], settings)
    trajectory = recurrence.samples(solution.states + correction)
    size = correction[..., : recurrence.width].abs().amax((0, -1))
    sample = trajectory[-1].to(noise.dtype, copy=True)
    return Sampled(sample, trajectory, recurrence.table.timesteps, recurrence.work, size, solution)


def _last_update(
    recurrence: Denoising, start: Tensor, solution: Solution, inputs: Any, carry: Any, settings: Settings
) -> Tensor:
    """One more update of a solution, from outputs that the solve has evaluated already."""
    if not isinstance(settings.method, Secant):
        return solution.error_estimate(settings.method if isinstance(settings.method, Structured) else Structured())
    known = recurrence.linearize(torch.cat([start.unsqueeze(0), solution.states[:-1]]), inputs)
    return settings.method.last(known, known.value - solution.states, carry)
