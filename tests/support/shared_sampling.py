"""A small network sampled by several ranks, which share the rows of a round, or by one process."""

import diffusers
import torch
from small_denoisers import Denoiser, noise_for

import lds_iter as li
from lds_iter.diffusion import ParallelSampler, SharedRows

STEPS = 8


class Counting(torch.nn.Module):
    """A network that counts the rows it is given."""

    def __init__(self):
        super().__init__()
        self.inner, self.rows = Denoiser().double(), 0

    def forward(self, sample, timestep, class_labels=None):
        self.rows += len(sample)
        return self.inner(sample, timestep, class_labels)


def sampled(group=None, *, method=None, noise_seed=1, max_batch=None):
    """A guided sample by a scheduler that adds noise."""
    network, scheduler = Counting(), diffusers.DDPMScheduler()
    model = network if group is None else SharedRows(network, group)
    sampler = ParallelSampler(model, scheduler, tol=1e-6, max_batch=max_batch, **({"method": method} if method else {}))
    noise = noise_for(scheduler, STEPS, (3, 1, 4, 4)).double() * noise_seed
    found = sampler(
        noise,
        STEPS,
        {"class_labels": torch.tensor([0, 1, 2])},
        unconditional={"class_labels": torch.tensor([3, 3, 3])},
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(2),
    )
    return {"trajectory": found.trajectory, "rounds": found.work.rounds, "rows": network.rows}


def shared_samples(group):
    """Samples by the default method, in small calls, by Newton, and what ranks with different noise are told."""
    found = [sampled(group), sampled(group, max_batch=2), sampled(group, method=li.Newton())]
    try:
        sampled(group, noise_seed=1 + group.rank())
    except ValueError as error:
        return found, str(error)
    return found, ""
