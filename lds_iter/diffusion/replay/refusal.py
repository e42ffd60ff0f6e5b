"""A pipeline whose loop cannot be run in parallel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

EXPECTED = ["model_output", "timestep", "sample"]
"""The first arguments of a `step` that loops call alike."""


class PipelineNotMapped(ValueError):
    """The loop of the pipeline is no recurrence over its scheduler's samples; the message says why.

    Args:
        pipe: which.
        why: what was found.
        instead: what to type.
    """

    def __init__(self, pipe: Any, why: str, instead: str = "Call the pipeline itself, `pipe(...)`.") -> None:
        super().__init__(f"`{type(pipe).__name__}` cannot be run in parallel: {why}. {instead}")


class PipelineInterrupted(RuntimeError):
    """The pipeline's `_interrupt` was set from outside while its steps were being solved."""


def check_pipeline(pipe: Any) -> tuple[Any, Callable[..., Any]]:
    """The scheduler of a pipeline, and its `step`.

    Raises:
        PipelineNotMapped: where it has none that is called as others are.
    """
    scheduler = getattr(pipe, "scheduler", None)
    step = getattr(scheduler, "step", None)
    if step is None:
        raise PipelineNotMapped(pipe, "it has no `scheduler` with a `step`")
    if list(inspect.signature(step).parameters)[:3] != EXPECTED:
        raise PipelineNotMapped(
            pipe,
            f"`{type(scheduler).__name__}.step` takes other arguments than {EXPECTED}",
            "Take another scheduler, such as `pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)`.",
        )
    return scheduler, step


def refuse_batch(pipe: Any, why: str, error: Exception | None = None) -> NoReturn:
    """Several steps of a network do not go into one call."""
    instead = "With max_batch=1 every step is a call of its own: right, at no gain. Else call `pipe(...)` itself."
    raise PipelineNotMapped(pipe, why, instead) from error


def refuse_two_schedulers(pipe: Any, *_: Any, **__: Any) -> NoReturn:
    """A second scheduler was stepped, or copied."""
    raise PipelineNotMapped(pipe, "its loop steps two schedulers, or a copy of its scheduler")


def refuse_random_network(pipe: Any, name: str) -> NoReturn:
    """A network drew random numbers."""
    component = getattr(pipe, name.partition(".")[0])
    if component.training:
        why, instead = f"`{name}` is in training mode and drops numbers at random", f"Type `pipe.{name}.eval()`."
        raise PipelineNotMapped(pipe, why, instead)
    raise PipelineNotMapped(pipe, f"`{name}` draws random numbers")


def refuse_drawing(pipe: Any) -> NoReturn:
    """The loop drew random numbers."""
    raise PipelineNotMapped(pipe, "its loop draws noise by itself, beside the scheduler's, at every step")


def refuse_unrepeatable(pipe: Any) -> NoReturn:
    """A walk began elsewhere than the first one."""
    raise PipelineNotMapped(
        pipe,
        "two calls with the same arguments start from different noise, which comes from no torch generator",
        "Hand the noise in, as `latents=...`.",
    )


def refuse_more_steps(pipe: Any) -> NoReturn:
    """The last walk was longer than the first."""
    raise PipelineNotMapped(pipe, "its loop has more steps than its scheduler has timesteps")
