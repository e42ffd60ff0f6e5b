"""The recipe `diffusion`: every scheduler as a recurrence, samplers and pipelines against diffusers' own loops."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lds_iter as li

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

from small_denoisers import EXACT, Denoiser, assert_same, both, noise_for  # noqa: E402

from bench.diffusion.paradigms import paradigms  # noqa: E402
from bench.diffusion.parataa import parataa  # noqa: E402
from bench.diffusion.srds import ddim_solvers, srds  # noqa: E402
from bench.diffusion_tolerance.measure import TOLERANCE  # noqa: E402
from bench.diffusion_tolerance.measure import run as tolerance_run  # noqa: E402
from lds_iter.diffusion.noise import drawn  # noqa: E402
from lds_iter.diffusion.probe import schedule_of  # noqa: E402
from lds_iter.diffusion.sampler import ParallelSampler  # noqa: E402
from lds_iter.diffusion.schedule import SchedulerNotMapped, prepared  # noqa: E402
from lds_iter.diffusion.secant import Secant  # noqa: E402
from lds_iter.diffusion.settings import Settings  # noqa: E402
from lds_iter.diffusion.structured import Structured  # noqa: E402
from lds_iter.diffusion.task import Task  # noqa: E402
from recipes.diffusion.choices import load  # noqa: E402
from recipes.diffusion.film import filmed  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
DIGITS = ROOT / "recipes" / "diffusion" / "digits"

# diffusers' schedulers convert tensors by `np.array`, and announce what they will remove.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

SDE = {"algorithm_type": "sde-dpmsolver++"}
SCHEDULERS = [
    ("DDIMScheduler", {}, {}),
    ("DDIMScheduler", {"clip_sample": False}, {}),
    ("DDIMScheduler", {"thresholding": True, "sample_max_value": 2.0}, {}),
    ("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False, "prediction_type": "v_prediction"}, {}),
    ("DDIMScheduler", {"clip_sample": False}, {"eta": 0.7}),
    ("DDIMScheduler", {"prediction_type": "sample", "clip_sample": False}, {}),
    ("DDIMParallelScheduler", {"clip_sample": False}, {}),
    ("DDPMScheduler", {}, {}),
    ("DDPMScheduler", {"thresholding": True}, {}),
    ("DDPMScheduler", {"clip_sample": False, "beta_schedule": "squaredcos_cap_v2"}, {}),
    ("DDPMParallelScheduler", {"clip_sample": False}, {}),
    ("EulerDiscreteScheduler", {}, {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "prediction_type": "v_prediction"}, {}),
    ("EulerAncestralDiscreteScheduler", {}, {}),
    *[("DPMSolverMultistepScheduler", {"solver_order": order}, {}) for order in (1, 2, 3)],
    *[("DPMSolverMultistepScheduler", {"solver_order": order} | SDE, {}) for order in (1, 2, 3)],
    ("DPMSolverMultistepScheduler", {"thresholding": True}, {}),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, {}),
    ("DPMSolverSinglestepScheduler", {}, {}),
    ("HeunDiscreteScheduler", {}, {}),
    ("DEISMultistepScheduler", {}, {}),
    ("DEISMultistepScheduler", {"solver_order": 3}, {}),
    ("UniPCMultistepScheduler", {}, {}),
    ("UniPCMultistepScheduler", {"solver_order": 3}, {}),
    ("PNDMScheduler", {}, {}),
    ("PNDMScheduler", {"skip_prk_steps": True}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}),
    ("FlowMatchHeunDiscreteScheduler", {}, {}),
    ("LCMScheduler", {}, {}),
    ("TCDScheduler", {}, {}),
    ("TCDScheduler", {}, {"eta": 0.0}),
    ("KDPM2DiscreteScheduler", {}, {}),
    ("KDPM2AncestralDiscreteScheduler", {}, {}),
    ("LMSDiscreteScheduler", {}, {}),
    ("IPNDMScheduler", {}, {}),
    ("EDMEulerScheduler", {}, {}),
    ("SASolverScheduler", {}, {}),
    ("CogVideoXDDIMScheduler", {}, {}),
    ("EDMDPMSolverMultistepScheduler", {}, {}),
    ("DPMSolverMultistepInverseScheduler", {}, {}),
    ("FlowMatchLCMScheduler", {}, {}),
    ("FlowMapEulerDiscreteScheduler", {}, {}),
    ("LTXEulerAncestralRFScheduler", {}, {}),
    ("MiniMaxH3Scheduler", {}, {}),
]  # fmt: skip


@pytest.mark.parametrize("case", SCHEDULERS, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def test_a_scheduler_in_parallel_is_its_own_loop(case):
    name, config, options = case
    if not hasattr(diffusers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy", reason="diffusers asks for it there")
    scheduler = getattr(diffusers, name)(**config)
    sampler = ParallelSampler(Denoiser(), scheduler, tol=0)
    parallel, loop = both(sampler, noise_for(scheduler, 12), 12, step_options=options)
    assert_same(parallel, loop)


SPACED = {"timestep_spacing": "trailing"}
"""A thousand of its default timesteps repeat one, and its own loop divides by the zero in between."""


@pytest.mark.parametrize("steps", [2, 3, 7, 100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDIMScheduler", {}),
        ("DDPMScheduler", {}),
        ("DPMSolverMultistepScheduler", SPACED),
        ("EulerDiscreteScheduler", {}),
    ],
)
def test_any_number_of_steps(name, config, steps):
    """A tolerance at rounding level; zero would only let a thousand sequential rounds settle the last digit."""
    scheduler = getattr(diffusers, name)(**config)
    noise = noise_for(scheduler, steps, (1, 1, 4, 4))
    sampler = ParallelSampler(Denoiser(), scheduler, Structured(), tol=0 if steps < 10 else 1e-6)
    parallel, loop = both(sampler, noise, steps)
    assert_same(parallel, loop)


@settings(max_examples=6, deadline=None)
@given(
    name=st.sampled_from(["DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]),
    steps=st.integers(2, 15),
    start=st.floats(1e-5, 2e-3),
    end=st.floats(5e-3, 3e-2),
    schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
)
def test_any_schedule(name, steps, start, end, schedule, spacing):
    scheduler = getattr(diffusers, name)(
        beta_start=start, beta_end=end, beta_schedule=schedule, timestep_spacing=spacing
    )
    parallel, loop = both(ParallelSampler(Denoiser(), scheduler, tol=0), noise_for(scheduler, steps), steps)
    assert_same(parallel, loop)


METHODS = [
    Secant(),
    Secant(depth=2, neighbours=0),
    Structured(),
    Structured(None),
    li.Picard(),
    li.Jacobi(),
    li.Clipped(li.QuasiNewton(li.Hutchinson()), 1.1),
    li.Newton(),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("window", [None, 5])
def test_any_method_and_window(method, window):
    scheduler = diffusers.DDIMScheduler()
    sampler = ParallelSampler(Denoiser(), scheduler, method, window, tol=0)
    parallel, loop = both(sampler, noise_for(scheduler, 11), 11)
    assert_same(parallel, loop)


@pytest.mark.parametrize("name", ["DDIMScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_structured_is_the_scheduler_exactly_where_the_network_is_nothing(name):
    """With an output of zero the scheduler's linear part is all there is, so its exact transition needs one update."""
    scheduler = getattr(diffusers, name)(**({"clip_sample": False} if name == "DDIMScheduler" else {}))
    # Samples grow to some hundreds here, so that rounding alone is 1e-5.
    sampler = ParallelSampler(lambda sample, timestep: 0 * sample, scheduler, Structured(None), tol=1e-4)
    parallel, loop = both(sampler, noise_for(scheduler, 30), 30)
    assert_same(parallel, loop)
    assert int(parallel.solution.iterations.max()) <= 1  # none for Heun, whose samples stand still then


def test_thinning_and_history_save_work_and_rounds():
    """On the trained network, at equal tolerance: the counts are exact on every machine up to rounding."""
    unet, conditioning = trained(), {"class_labels": torch.tensor([3])}
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    sampler = ParallelSampler(unet, scheduler)
    noise = noise_for(scheduler, 50, (1, 1, 8, 8))
    truth = sampler.step_by_step(noise, 50, conditioning).sample
    runs = {
        name: replace(sampler, method=method, thin=thin, reuse=reuse)(noise, 50, conditioning)
        for name, method, thin, reuse in [
            ("default", Secant(), 16, 0.5),
            ("thin", Secant(), 16, 0),
            ("secant", Secant(), 0, 0),
            ("picard", li.Picard(), 0, 0),
        ]
    }
    assert runs["secant"].work.rounds < runs["picard"].work.rounds
    assert runs["default"].work.evaluations < runs["thin"].work.evaluations < runs["secant"].work.evaluations
    assert runs["default"].work.rounds <= runs["secant"].work.rounds
    for run in runs.values():
        assert (run.sample - truth).square().mean().sqrt() < 1e-2  # what `tol` aims at


def test_first_rounds_evaluate_few_steps_unless_noise_is_added():
    """The stride grows as the square root of T; `thin` sets it, and 0 turns it off."""

    def stride(name, steps, thin=None):
        return Settings(thin=thin).stride(schedule_of(*prepared(getattr(diffusers, name)(), steps)))

    assert [stride("DDIMScheduler", steps) for steps in (1, 20, 50, 250)] == [1, 3, 5, 10]
    assert stride("DDIMScheduler", 50, 16) == 4
    assert stride("DDIMScheduler", 50, 0) == 1
    assert stride("DDPMScheduler", 50) == 1
    schedule = schedule_of(*prepared(diffusers.DDIMScheduler(), 50))
    assert Settings(li.Newton()).stride(schedule) == 1  # its derivatives are of evaluated steps


@pytest.mark.parametrize(
    ("name", "clip", "guided", "steps", "tolerances"),
    [
        ("DDIMScheduler", False, False, 50, 0.5),
        ("DDIMScheduler", False, False, 20, 0.2),
        ("DDIMScheduler", False, True, 50, 0.05),
        ("DDIMScheduler", True, True, 50, 0.0),
        ("DDPMScheduler", True, False, 50, 0.05),
        ("DDPMScheduler", True, True, 50, 0.01),
    ],
)
def test_less_is_reused_where_errors_grow(name, clip, guided, steps, tolerances):
    schedule = schedule_of(*prepared(getattr(diffusers, name)(clip_sample=clip), steps))
    assert Settings(tol=1e-2).radius(schedule, guided=guided) == pytest.approx(tolerances * 1e-2)
    assert Settings(tol=1e-2, reuse=0.3).radius(schedule, guided=guided) == pytest.approx(3e-3)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_gaussian_images_are_known_at_the_guess(name):
    """One evaluation per step confirms the guess, where the network is the best denoiser of Gaussian images."""
    scheduler = getattr(diffusers, name)(clip_sample=False)

    def network(sample, timestep):
        signal = scheduler.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return (1 - signal).sqrt() * sample / (0.25 * signal + 1 - signal)

    parallel, loop = both(ParallelSampler(network, scheduler, thin=0, tol=1e-3), noise_for(scheduler, 40), 40)
    assert_same(parallel, loop, 1e-3)
    assert parallel.work.rounds <= 2  # the first row repeats the noise, and the second moves by what that is off
    assert parallel.work.evaluations <= 2 * 2 * 40


def test_a_tolerance_wide_enough_for_interpolated_outputs_gets_evaluated_ones():
    scheduler = diffusers.DDIMScheduler()
    sampler = ParallelSampler(Denoiser(), scheduler, tol=10.0)
    sampled = sampler(noise_for(scheduler, 100, (1, 1, 4, 4)), 100)
    assert sampled.work.evaluations >= 100
    assert sampled.work.rounds <= 3


def trained():
    unet = diffusers.UNet2DModel.from_pretrained(DIGITS, subfolder="unet", variant="fp16")
    return unet.float().eval()


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_the_trained_network(name):
    scheduler = getattr(diffusers, name).from_pretrained(DIGITS, subfolder="scheduler")
    sampler = ParallelSampler(trained(), scheduler, tol=0)
    parallel, loop = both(sampler, noise_for(scheduler, 10, (2, 1, 8, 8)), 10, {"class_labels": torch.tensor([1, 7])})
    assert_same(parallel, loop)


@pytest.mark.parametrize(
    "method",
    [li.Clipped(li.QuasiNewton(li.Hutchinson()), 1.1), pytest.param(li.Newton(), marks=pytest.mark.slow)],
    ids=str,
)
def test_products_with_the_derivative_go_through_any_network_and_are_counted(method):
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    sampler = ParallelSampler(trained(), scheduler, method, tol=0)
    parallel, loop = both(sampler, noise_for(scheduler, 3, (1, 1, 8, 8)), 3, {"class_labels": torch.tensor([5])})
    assert_same(parallel, loop)
    assert parallel.work.products > 0
    assert loop.work.products == 0


@pytest.mark.slow
def test_the_trained_network_draws_digits():
    """A nearest-neighbour judge on the real digits; 85 of 100 right would be unusual for a broken network."""
    from recipes.diffusion.train import digits

    labels = torch.arange(50) % 10
    scheduler = diffusers.DDIMScheduler.from_pretrained(DIGITS, subfolder="scheduler")
    noise = noise_for(scheduler, 20, (50, 1, 8, 8))
    drawn = ParallelSampler(trained(), scheduler)(noise, 20, {"class_labels": labels}).sample
    images, classes = digits().tensors
    nearest = torch.cdist(drawn.flatten(1), images.flatten(1)).argmin(1)
    assert (classes[nearest] == labels).float().mean() > 0.85


def test_guidance_and_splitting_of_batches():
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    conditioning = {"class_labels": torch.tensor([1, 2]), "encoder_hidden_states": torch.randn(2, 3, 4)}
    other = {"class_labels": torch.tensor([0, 0]), "encoder_hidden_states": torch.zeros(2, 3, 4)}
    noise = noise_for(scheduler, 10)
    options = {"unconditional": other, "guidance_scale": 3.0}
    parallel, loop = both(ParallelSampler(Denoiser(), scheduler, tol=0), noise, 10, conditioning, **options)
    assert_same(parallel, loop)
    seen = []
    model = Denoiser()

    def watched(sample, timestep, class_labels, encoder_hidden_states):
        seen.append(len(sample))
        return model(sample, timestep, class_labels, encoder_hidden_states)

    split, _ = both(ParallelSampler(watched, scheduler, tol=0, max_batch=6), noise, 10, conditioning, **options)
    assert max(seen) <= 6
    assert_same(split, loop)


def test_batch_mates_do_not_feel_each_other():
    scheduler = diffusers.DDIMScheduler()
    sampler, noise = ParallelSampler(Denoiser(), scheduler, tol=1e-3), noise_for(scheduler, 30, (3, 1, 4, 4))
    together = sampler(noise, 30)
    for place in range(3):
        alone = sampler(noise[place : place + 1], 30)
        assert torch.allclose(alone.sample[0], together.sample[place], atol=1e-5)  # rounding of batched convolutions
        assert alone.solution.iterations[0] == together.solution.iterations[place]


def test_half_precision_model():
    scheduler = diffusers.DDIMScheduler()
    model = Denoiser().to(torch.bfloat16)
    noise = noise_for(scheduler, 10).to(torch.bfloat16)
    sampled = ParallelSampler(model, scheduler, tol=0)(noise, 10)
    assert sampled.sample.dtype == torch.bfloat16
    assert sampled.trajectory.dtype == torch.float32
    wide = ParallelSampler(lambda sample, timestep: model(sample.bfloat16(), timestep).float(), scheduler)
    loop = wide.step_by_step(noise.float(), 10)
    assert_same(replace(sampled, sample=sampled.trajectory[-1]), loop)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=pytest.mark.slow), torch.bfloat16])
def test_half_precision_is_as_near_to_full_as_the_network_is(dtype):
    """It is not the loop to the bit: the loop rounds its latents after every step, and the states here are float32.

    A half network rounds otherwise in a large batch than in a small one as well. So both are compared with full
    precision, to which both are as near as twenty rounded outputs let them be.
    """
    scheduler, unet = diffusers.DDIMScheduler(clip_sample=False), trained()
    noise, labels = noise_for(scheduler, 20, (1, 1, 8, 8)), {"class_labels": torch.tensor([4])}
    full = ParallelSampler(unet, scheduler).step_by_step(noise, 20, labels).sample
    parallel, loop = both(ParallelSampler(unet.to(dtype), scheduler, tol=1e-4), noise.to(dtype), 20, labels)
    near, far = ((sample.float() - full).square().mean().sqrt() for sample in (parallel.trajectory[-1], loop.sample))
    eps = torch.finfo(dtype).eps  # a number of size 1 is off by a third of that, and what is off adds up
    assert near <= 2 * eps
    assert far <= 4 * eps
    assert (parallel.trajectory[-1] - loop.sample.float()).square().mean().sqrt() <= 4 * eps


def test_image_to_image_start():
    scheduler = diffusers.DPMSolverMultistepScheduler()
    sampler = ParallelSampler(Denoiser(), scheduler, tol=0)
    image = torch.rand(2, 1, 4, 4) - 0.5
    ready, timesteps = prepared(scheduler, 20, 8)
    noised = ready.add_noise(image, torch.randn(2, 1, 4, 4), timesteps[:1].repeat(2))
    parallel, loop = both(sampler, noised, 20, begin=8)
    assert len(parallel.timesteps) == 12
    assert_same(parallel, loop)


@pytest.mark.parametrize(
    ("scheduler", "why"),
    [
        (diffusers.DDIMInverseScheduler(), "table of coefficients misses"),
        (diffusers.VQDiffusionScheduler(num_vec_classes=5), "stepping it by itself failed"),
        (diffusers.RePaintScheduler(), "stepping it by itself failed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_mapped_is_refused_with_an_alternative(scheduler, why):
    with pytest.raises(SchedulerNotMapped, match=why) as caught:
        ParallelSampler(Denoiser(), scheduler)(torch.randn(1, 1, 4, 4), 10)
    assert "DDIMScheduler" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "config", "slots"),
    [
        ("DDPMScheduler", {}, 1),
        ("DPMSolverMultistepScheduler", {"solver_order": 1} | SDE, 1),
        ("DPMSolverMultistepScheduler", {"solver_order": 2} | SDE, 2),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, 3),
        ("HeunDiscreteScheduler", {}, 3),
        ("UniPCMultistepScheduler", {}, 4),
    ],
)
def test_the_state_holds_what_is_needed_and_no_more(name, config, slots):
    table = schedule_of(*prepared(getattr(diffusers, name)(**config), 10))
    assert len(table.slots) == slots


@pytest.mark.parametrize("name", ["DDIMParallelScheduler", "DDPMParallelScheduler"])
def test_the_peer_of_the_bench_ends_at_the_loop_too(name):
    """`bench.diffusion.paradigms` is ParaDiGMS: in a window, at tolerance 0, it gives the sequential sample."""
    scheduler = getattr(diffusers, name)(clip_sample=False)
    sampler, noise = ParallelSampler(Denoiser(), scheduler), noise_for(scheduler, 12)
    schedule = schedule_of(*prepared(scheduler, 12))
    fresh = drawn(schedule, noise, torch.Generator().manual_seed(2))
    noises = schedule.noise.float().view(-1, 1, 1, 1, 1) * fresh if schedule.draws.any() else None
    loop = sampler.step_by_step(noise, 12, generator=torch.Generator().manual_seed(2)).sample
    scheduler.set_timesteps(12)
    network = sampler.network(Task(noise=noise))
    with torch.no_grad():
        sample, work = paradigms(network, scheduler, noise, noises, parallel=5, tolerance=0.0)
    assert work.rounds <= 12
    assert (sample - loop).abs().max() <= EXACT * loop.abs().max()


@pytest.mark.parametrize("order", [1, 4, 12])
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_triangular_anderson_acceleration_ends_at_the_loop_too(name, order):
    """`bench.diffusion.parataa`: order 1 moves one exact step a round, order T is Picard accelerated."""
    scheduler = getattr(diffusers, name)(clip_sample=False)
    sampler, noise = ParallelSampler(Denoiser(), scheduler), noise_for(scheduler, 12, (1, 1, 4, 4))
    schedule = schedule_of(*prepared(scheduler, 12))
    fresh = schedule.noise.view(-1, 1, 1, 1, 1) * drawn(schedule, noise, torch.Generator().manual_seed(2))
    loop = sampler.step_by_step(noise, 12, generator=torch.Generator().manual_seed(2)).sample
    with torch.no_grad():
        rounds = list(parataa(sampler.network(Task(noise=noise)), schedule, noise, fresh, order=order))
    assert len(rounds) <= 12
    assert [work.rounds for _, work in rounds] == list(range(1, len(rounds) + 1))
    assert (rounds[-1][0] - loop).abs().max() <= EXACT * loop.abs().max()


@pytest.mark.parametrize("steps", [5, 12, 16])
def test_self_refining_samplers_end_at_the_loop_too(steps):
    """SRDS as `bench.diffusion.srds` restates it: parareal is exact once every block has been first in line."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    sampler, noise = ParallelSampler(Denoiser(), scheduler), noise_for(scheduler, steps)
    ready, timesteps = prepared(scheduler, steps)
    signal = torch.cat([ready.alphas_cumprod[timesteps], ready.final_alpha_cumprod.view(1)]).double()
    with torch.no_grad():
        fine, coarse = ddim_solvers(sampler.network(Task(noise=noise)), signal, timesteps)
        passes = list(srds(fine, coarse, noise, steps))
    loop = sampler.step_by_step(noise, steps).sample
    assert (passes[-1][0] - loop).abs().max() <= EXACT * loop.abs().max()
    assert passes[-1][1].rounds == steps  # pipelined, exactness takes as long as the loop
    assert all(a.rounds < b.rounds for (_, a), (_, b) in itertools.pairwise(passes))


def test_probing_leaves_the_scheduler_alone():
    scheduler = diffusers.PNDMScheduler()
    ready, timesteps = prepared(scheduler, 10)
    first = schedule_of(ready, timesteps)
    second = schedule_of(ready, timesteps)
    assert torch.equal(first.linear, second.linear)
    assert scheduler.num_inference_steps is None


def test_errors_teach():
    scheduler = diffusers.DDIMScheduler()
    with pytest.raises(ValueError, match="max_batch"):
        ParallelSampler(Denoiser(), scheduler, max_batch=0)
    with pytest.raises(ValueError, match="reuse"):
        ParallelSampler(Denoiser(), scheduler, reuse=-1)
    with pytest.raises(ValueError, match="depth"):
        Secant(depth=0)
    with pytest.raises(ValueError, match="fading"):
        Secant(fading=0)
    with pytest.raises(TypeError, match=r"a method of `li\.solve`"):
        ParallelSampler(Denoiser(), scheduler, "newton")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="window"):
        ParallelSampler(Denoiser(), scheduler, window=0)
    with pytest.raises(ValueError, match="thin"):
        ParallelSampler(Denoiser(), scheduler, thin=-1)
    for steps, begin, why in (0, 0, "num_inference_steps"), (5, 5, "at least one must be left"):
        with pytest.raises(ValueError, match=why):
            ParallelSampler(Denoiser(), scheduler)(torch.randn(1, 1, 4, 4), steps, begin=begin)
    with pytest.raises(ValueError, match="empty shape"):
        ParallelSampler(Denoiser(), scheduler)(torch.randn(0, 1, 4, 4), 5)
    with pytest.raises(TypeError, match="is for the recurrence of a diffusion scheduler"):
        li.solve(lambda s, u: s + u, torch.zeros(2), torch.ones(5, 2), Secant())
    odd = ParallelSampler(lambda sample, timestep: sample.repeat(1, 3, 1, 1), scheduler)
    with pytest.raises(ValueError, match="must have the shape of the image"):
        odd(torch.zeros(1, 1, 4, 4), 5)
    with pytest.raises(TypeError, match=r"Type `noise\.float\(\)`"):
        odd(torch.zeros(1, 1, 4, 4, dtype=torch.int64), 5)


def test_film_ends_at_the_sample():
    scheduler = diffusers.EulerDiscreteScheduler()
    sampler, noise = ParallelSampler(Denoiser(), scheduler), noise_for(scheduler, 10)
    frames = filmed(sampler, noise, 10, {}, {}, torch.Generator())
    assert len(frames) >= 3
    assert torch.allclose(frames[-1][-1], sampler.step_by_step(noise, 10).sample[0], atol=0.1)  # `tol` is 1e-2


@pytest.mark.slow
def test_command_line(tmp_path):
    """A process of its own, as a user runs it, from a folder of its own."""
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "recipes.diffusion", "--steps", "20", "--samples", "3", "--scheduler", "ddpm"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "rounds" in done.stdout
    assert "solve" in done.stderr  # the bar
    lines = done.stdout.splitlines()
    *_, still, film, moving = lines
    assert lines.index(still) < next(place for place, line in enumerate(lines) if line.startswith("step by step"))
    assert (tmp_path / still).read_bytes().startswith(b"<?xml")
    assert (tmp_path / film).read_bytes().startswith(b"<?xml")
    assert (tmp_path / moving).read_bytes().startswith(b"GIF8")


def test_derivatives_agree_with_autodiff():
    """In float64, to the curvature over a difference of 1e-2."""
    scheduler, model = diffusers.HeunDiscreteScheduler(), Denoiser().double()
    noise = noise_for(scheduler, 4).double()
    sampler = ParallelSampler(model, scheduler)
    with torch.no_grad():
        recurrence, inputs, _ = sampler.recurrence(Task(noise=noise, num_inference_steps=4))
        states = torch.randn(len(inputs["step"]), 2, recurrence.slots * recurrence.width, dtype=torch.float64)
        known = recurrence.linearize(states, inputs)
        exact = li.FunctionDerivatives(recurrence, states, inputs)
        bound = 1e-2 * exact.jacobian().abs().max()
        assert (known.jacobian() - exact.jacobian()).abs().max() < bound
        assert (known.diagonal() - exact.diagonal()).abs().max() < bound
        assert (known.block_diagonal(4) - exact.block_diagonal(4)).abs().max() < bound
        assert torch.allclose(known.vjp(states), exact.vjp(states))


@pytest.mark.filterwarnings("ignore:.*clips its images under guidance")  # it does, and says so
@pytest.mark.parametrize(
    ("name", "config", "steps", "guidance"),
    [
        ("DDIMScheduler", {}, 20, 7.5),
        pytest.param("EulerAncestralDiscreteScheduler", {}, 20, 7.5, marks=pytest.mark.slow),
        pytest.param("DDPMScheduler", {}, 20, 3.0, marks=pytest.mark.slow),
        ("HeunDiscreteScheduler", {"clip_sample": False}, 7, 1.0),
        pytest.param("DDIMScheduler", {}, 50, 7.5, marks=pytest.mark.slow),
    ],
)
def test_the_tolerance_is_kept_under_guidance_clipping_and_noise(name, config, steps, guidance):
    """Where outputs reused along the slope of Gaussian images are off by more: `reuse=0.5` misses by up to 12 times."""
    scheduler = getattr(diffusers, name).from_config(diffusers.DDIMScheduler.load_config(DIGITS, subfolder="scheduler"))
    scheduler.register_to_config(**config)
    options = {"unconditional": {"class_labels": torch.full((4,), 10)}, "guidance_scale": guidance}
    sampler, noise = ParallelSampler(trained(), scheduler), noise_for(scheduler, steps, (4, 1, 8, 8))
    given = {"class_labels": torch.tensor([1, 4, 7, 9])}
    parallel, loop = both(sampler, noise, steps, given, **(options if guidance != 1 else {}))
    assert (parallel.sample - loop.sample).square().mean().sqrt() <= sampler.tol


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DDPM, clipped", "SDE-DPM-Solver++"])
def test_guided_noise_of_the_two_runs_that_once_missed(name):
    """They were off by 1.4e-2 and 1.6e-2 where an image that moved by a twentieth of `tol` was not evaluated again."""
    unet, config = load(str(DIGITS), "cpu")
    found = tolerance_run(unet, config, name, 33, 7.5, 4101)
    assert found.error <= TOLERANCE
