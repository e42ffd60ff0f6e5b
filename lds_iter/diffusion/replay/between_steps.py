"""Find out what a loop does to the samples between two steps, without evaluating anything."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.diffusion.between import Between
from lds_iter.diffusion.replay.loop import Loop
from lds_iter.diffusion.replay.refusal import PipelineNotMapped

BETWEEN_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Relative: rounding of the loop's own arithmetic on random samples; in half precision 1e-2."""

RANDOM_SIZE = 10.0
"""Of the random samples: larger than whatever a loop may clip at."""


def between_steps(loop: Loop) -> Between | None:
    """`scale * sample + shift` for every number: from samples of zeros and of ones, and tried on random ones.

    Raises:
        PipelineNotMapped: where it is anything else.
    """
    first, steps = loop.facts.first, range(1, len(loop.facts.times))
    zeros, ones = torch.zeros_like(first), torch.ones_like(first)
    shift = _entered(loop, dict.fromkeys(steps, zeros))
    scale = _entered(loop, dict.fromkeys(steps, ones)) - shift
    generator = torch.Generator().manual_seed(0)
    tried = {step: RANDOM_SIZE * _random(first, generator) for step in steps}
    due = _entered(loop, tried)
    scale[0], shift[0] = 1, 0
    given = torch.stack([first, *tried.values()]).to(scale)
    due[0] = given[0]
    bound = BETWEEN_TOLERANCE.get(first.dtype, 1e-2)
    if not torch.allclose(scale * given + shift, due, rtol=bound, atol=bound * RANDOM_SIZE):  # false for NaN
        raise PipelineNotMapped(
            loop.pipe,
            "what its loop, or a callback, does to the latents between two steps is not linear, number by number",
            "Leave the callback out, or call the pipeline itself, `pipe(...)`.",
        )
    if bool(((scale - 1).abs() <= bound).all() and (shift.abs() <= bound).all()):
        return None
    return Between(scale.flatten(2), shift.flatten(2))


def _entered(loop: Loop, samples: dict[int, Tensor]) -> Tensor:
    dtype = torch.promote_types(loop.facts.first.dtype, torch.float32)
    return torch.stack(loop.entered(samples)).to(dtype)


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random samples; equal in both halves of a batch whose halves are equal, as a loop may copy one to the other."""
    numbers = torch.randn(like.shape, generator=generator, device="cpu")
    half = len(like) // 2
    if len(like) % 2 == 0 and torch.equal(like[:half], like[half:]):
        numbers[half:] = numbers[:half]
    return numbers.to(like)
