"""A pipeline and its parallel form, compared in all that a call returns and leaves behind."""

import numpy as np
import torch

from lds_iter.diffusion import parallelize

EXACT = 1e-5
"""Relative to the largest number: float32 rounding of other batch sizes through the steps; 2e-6 is seen."""


def result(returned):
    """The images, latents or sounds of a pipeline's output."""
    value = next(iter(returned.values())) if isinstance(returned, dict) else returned[0]
    value = value[0] if isinstance(value, list) and not isinstance(value[0], torch.Tensor) else value
    return torch.as_tensor(np.asarray(value)).float() if not isinstance(value, torch.Tensor) else value.float()


def state_of(pipe):
    """What a call may leave changed: attributes of the pipeline, its scheduler and its modules."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return (
        set(vars(pipe)) - {"_interrupt"},
        {name: value for name, value in vars(pipe.scheduler).items() if isinstance(value, int | float | str)},
        "step" in vars(pipe.scheduler),
        [(sorted(vars(module)), module._compiled_call_impl, module.training) for module in modules],
    )


def close(one, other, bound=EXACT):
    assert one.shape == other.shape
    assert float((one - other).abs().max()) <= bound * float(other.abs().max())


def assert_as_pipe(pipe, given, bound=EXACT, **settings):
    """In parallel, twice, as the pipeline; returns the parallel one."""
    mine, theirs = given(), given()
    due = result(pipe(**theirs))
    left = state_of(pipe)
    fast = parallelize(pipe, **{"tol": 0, **settings})
    close(result(fast(**mine)), due, bound)
    if isinstance(mine["generator"], torch.Generator):
        assert torch.equal(mine["generator"].get_state(), theirs["generator"].get_state())
    assert state_of(pipe) == left
    return fast
