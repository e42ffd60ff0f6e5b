"""A small smooth network in place of a diffusion model, and a sampler's sample beside that of its loop."""

import torch

from lds_iter.diffusion.schedule import prepared

EXACT = 1e-4
"""Relative to the largest number: float32 rounding of another order of operations, carried through all steps."""


class Denoiser(torch.nn.Module):
    """A small smooth network that mixes pixels: cheap enough for a thousand steps, with nothing linear about it."""

    def __init__(self, channels=1):
        super().__init__()
        torch.manual_seed(0)
        self.inner = torch.nn.Conv2d(channels, 4, 3, padding=1)
        self.outer = torch.nn.Conv2d(4, channels, 3, padding=1)

    def forward(self, sample, timestep, class_labels=None, encoder_hidden_states=None):
        shift = timestep.to(sample).view(-1, 1, 1, 1) / 1000
        if class_labels is not None:
            shift = shift + 0.1 * class_labels.to(sample).view(-1, 1, 1, 1)
        if encoder_hidden_states is not None:
            shift = shift + encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1)
        return 0.8 * sample + self.outer(torch.tanh(self.inner(sample) + shift))


def noise_for(scheduler, steps, shape=(2, 1, 4, 4)):
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return start * float(getattr(prepared(scheduler, steps)[0], "init_noise_sigma", 1.0))


def both(sampler, noise, steps, conditioning=None, **options):
    """The sample in parallel and by the scheduler's own loop, from generators of one seed."""
    parallel = sampler(noise, steps, conditioning, generator=torch.Generator().manual_seed(2), **options)
    loop = sampler.step_by_step(noise, steps, conditioning, generator=torch.Generator().manual_seed(2), **options)
    return parallel, loop


def assert_same(parallel, loop, tolerance=EXACT):
    assert (parallel.trajectory - loop.trajectory).abs().max() <= tolerance * loop.trajectory.abs().max()
    assert (parallel.sample - loop.sample).abs().max() <= tolerance * max(1, loop.sample.abs().max())
