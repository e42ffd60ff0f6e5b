"""The solve itself, of a `Denoising` however its network is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.recurrence import Denoising
from lds_iter.diffusion.remembered import Remembered
from lds_iter.diffusion.sampled import Sampled
from lds_iter.diffusion.secant import Secant
from lds_iter.diffusion.settings import Settings
from lds_iter.diffusion.structured import Structured
from lds_iter.errors import SolveError, explain_failure
from lds_iter.loop.observers import Recorder, calls, progress_bar
from lds_iter.loop.run import Interrupted, run
from lds_iter.loop.state import LoopOptions, Problem
from lds_iter.methods.advice import advice
from lds_iter.solution import Progress, Solution
from lds_iter.solve import interruption, solution_of


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
    carries: list[Any] = []
    start = recurrence.initial(noise.to(recurrence.table.gain.dtype))
    guess = recurrence.guess(start, inputs) if warm is None else recurrence.warm(start, warm)
    if warm is not None:
        recurrence.memo.stride = 1
    problem = Problem(recurrence, start, inputs, len(guess))
    method = Remembered(settings.method, carries)
    solution = _solved(recurrence, problem, method, guess, settings, watch)
    if recurrence.memo.thinned:  # solved, at a tolerance as wide as that, for interpolated outputs
        recurrence.memo.stride = 1
        solution = _solved(recurrence, problem, method, solution.states, settings, watch)
    correction = _last_update(recurrence, start, solution, inputs, carries[0], settings)
    recurrence.count()
    trajectory = recurrence.samples(solution.states + correction)
    size = correction[..., : recurrence.width].abs().amax((0, -1))
    sample = trajectory[-1].to(noise.dtype, copy=True)
    return Sampled(sample, trajectory, recurrence.table.timesteps, recurrence.work, size, solution)


def _solved(
    recurrence: Denoising, problem: Problem, method: Remembered, guess: Tensor, settings: Settings, watch: Watch
) -> Solution:
    """As `li.solve`, but for its look at `f`, which would call the network for a step here and a step there.

    `f` is no function of a user's here, and its network is looked at in the rounds that are made anyway.

    Raises:
        SolveError: when a sample does not converge.
        KeyboardInterrupt: with the solution reached.
    """
    length = problem.length
    bound = settings.residual(length, careful=recurrence.guided or recurrence.clipping is not None)
    options = LoopOptions(0.0, bound, length, settings.window or length)
    recorder = Recorder() if watch.record else None
    with progress_bar(length, watch.progress) as bar:
        watching = (recorder, bar, calls(recurrence.count), None if watch.callback is None else calls(watch.callback))
        try:
            state = run(problem, method, guess, options, [each for each in watching if each is not None])
        except Interrupted as interrupted:
            ended = interruption(problem, interrupted)
            raise ended from ended.__cause__
    solution = solution_of(problem, state, recorder)
    if solution.failed:
        message = explain_failure(solution, advice(method), options.rtol, options.atol, length, length)
        raise SolveError(message, solution)
    return solution


def _last_update(
    recurrence: Denoising, start: Tensor, solution: Solution, inputs: Any, carry: Any, settings: Settings
) -> Tensor:
    """One more update of a solution, from outputs that the solve has evaluated already."""
    if not isinstance(settings.method, Secant):
        return solution.error_estimate(settings.method if isinstance(settings.method, Structured) else Structured())
    known = recurrence.linearize(torch.cat([start.unsqueeze(0), solution.states[:-1]]), inputs)
    return settings.method.last(known, known.value - solution.states, carry)
