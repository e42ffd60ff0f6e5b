"""A recurrence is what it says: called, it evaluates its network; and a network that is no function is found out."""

import pytest
import torch

import lds_iter as li

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

from small_denoisers import Denoiser, assert_same, both, noise_for  # noqa: E402

from lds_iter.diffusion import ParallelSampler, Secant  # noqa: E402
from lds_iter.diffusion.task import Task  # noqa: E402
from recipes.diffusion.choices import DIGITS  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "HeunDiscreteScheduler"])
def test_a_recurrence_is_the_loop_for_every_function_of_the_library(name):
    """Sequentially, and by `li.solve` with all its checks of `f`: the loop's samples, and its evaluations."""
    scheduler, calls = getattr(diffusers, name)(), []
    noise = noise_for(scheduler, 6)
    sampler = ParallelSampler(Denoiser(), scheduler)
    loop = sampler.step_by_step(noise, 6, generator=torch.Generator().manual_seed(2))
    sampler.model.register_forward_pre_hook(lambda _, args, kwargs: calls.append(1), with_kwargs=True)
    task = Task(noise=noise, num_inference_steps=6, generator=torch.Generator().manual_seed(2))
    recurrence, inputs, _ = sampler.recurrence(task)
    with torch.no_grad():
        states = li.sequential(recurrence, recurrence.initial(noise), inputs)
        assert len(calls) >= len(inputs["step"])  # evaluated, not remembered
        solution = li.solve(recurrence, recurrence.initial(noise), inputs, Secant(), rtol=0, atol=0)
    for found in states, solution.states:
        made = recurrence.samples(found)
        assert (made - loop.trajectory).abs().max() <= 1e-4 * loop.trajectory.abs().max()  # float32 in another order


def dropping():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Dropout(0.5))


def normalizing():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.BatchNorm2d(1, affine=False))


class Timed(torch.nn.Module):
    """A network of images alone, told the time as well."""

    def __init__(self, inside):
        super().__init__()
        torch.manual_seed(0)
        self.inside = inside()

    def forward(self, sample, timestep):
        return sample + self.inside(sample)


@pytest.mark.parametrize(("inside", "why"), [(dropping, "draws random numbers"), (normalizing, "one by one")])
def test_a_network_in_training_mode_is_found_out(inside, why):
    scheduler, model = diffusers.DDIMScheduler(clip_sample=False), Timed(inside)
    sampler, noise = ParallelSampler(model, scheduler, tol=0), noise_for(scheduler, 8)
    with pytest.raises(ValueError, match=why) as caught:
        sampler(noise, 8)
    assert "`model.eval()`" in str(caught.value)
    model.eval()
    assert_same(*both(sampler, noise, 8))


def test_the_look_at_a_network_costs_one_evaluation_and_no_round():
    scheduler, seen = diffusers.DDIMScheduler(clip_sample=False), []
    sampler = ParallelSampler(Denoiser(), scheduler, tol=0)
    sampler.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["sample"])), with_kwargs=True
    )
    sampled = sampler(noise_for(scheduler, 8), 8)
    assert len(seen) == sampled.work.rounds
    assert sum(seen) == sampled.work.evaluations


def test_a_step_reused_in_one_round_teaches_nothing_false_in_the_next():
    """A difference of an extended and an evaluated output over a tiny move was once taken for a slope of thousands."""
    unet = diffusers.UNet2DModel.from_pretrained(DIGITS, subfolder="unet", variant="fp16").float().eval()
    scheduler = diffusers.PNDMScheduler.from_pretrained(DIGITS, subfolder="scheduler")
    sampler, noise = (
        ParallelSampler(unet, scheduler),
        torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(500)),
    )
    labels = {"class_labels": torch.tensor([0, 2, 5, 8])}
    options = {"unconditional": {"class_labels": torch.full((4,), 10)}, "guidance_scale": 3.0}
    parallel, loop = both(sampler, noise, 50, labels, **options)
    assert (parallel.sample - loop.sample).square().mean((1, 2, 3)).sqrt().max() <= sampler.tol


def test_clipping_under_guidance_is_said_loudly():
    noise, options = noise_for(diffusers.DDIMScheduler(), 30), {"unconditional": {"class_labels": torch.tensor([0, 0])}}
    labels = {"class_labels": torch.tensor([1, 2])}
    with pytest.warns(li.PerformanceWarning, match=r"DDIMScheduler\.from_config\(scheduler\.config, clip_sample=False"):
        ParallelSampler(Denoiser(), diffusers.DDIMScheduler())(noise, 30, labels, **options, guidance_scale=3.0)
    for scheduler in (
        diffusers.DDIMScheduler(clip_sample=False),
        diffusers.DDPMScheduler(),
    ):  # a warning is an error here
        ParallelSampler(Denoiser(), scheduler)(noise, 30, labels, **options, guidance_scale=3.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*clips its images under guidance")
def test_clipping_under_guidance_takes_many_rounds_with_exact_derivatives_too():
    """So no better slope would help by much: errors that clipping hides grow along the trajectory.

    Seen on four samples: `Secant` 11 to 13 rounds, Newton's method 9 to 11, at 65 evaluations per step and round.
    """
    unet = diffusers.UNet2DModel.from_pretrained(DIGITS, subfolder="unet", variant="fp16").float().eval()
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(503))
    options = {"unconditional": {"class_labels": torch.tensor([10])}, "guidance_scale": 7.5}
    rounds = {}
    for method in Secant(), li.Newton():
        sampler = ParallelSampler(unet, diffusers.DDIMScheduler(), method)
        parallel, loop = both(sampler, noise, 20, {"class_labels": torch.tensor([3])}, **options)
        assert (parallel.sample - loop.sample).square().mean().sqrt() <= sampler.tol
        rounds[type(method)] = parallel.work.rounds
    assert rounds[li.Newton] >= 8  # of 20
    assert rounds[Secant] <= rounds[li.Newton] + 3


def test_options_of_no_task_are_refused():
    scheduler = diffusers.DDIMScheduler()
    with pytest.raises(TypeError, match="progress"):
        ParallelSampler(Denoiser(), scheduler).step_by_step(noise_for(scheduler, 5), 5, progress=True)
