"""`parallelize(pipe)` against the pipeline itself, over tiny random models of many pipeline classes."""

import numpy as np
import PIL.Image
import pytest
import torch

import lds_iter as li

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

import tiny_pipelines  # noqa: E402
from pipeline_checks import assert_as_pipe, close, result  # noqa: E402
from tiny_pipelines import PIPELINES, arguments, stable_diffusion  # noqa: E402

from lds_iter.diffusion import PipelineNotMapped, Replicas, parallelize  # noqa: E402

# diffusers' schedulers convert tensors by `np.array`, and announce what they will remove.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_in_parallel_is_the_pipeline(name):
    pipe, given = PIPELINES[name]()
    fast = assert_as_pipe(pipe, given)
    first, steps = fast.sampled.work.rounds, len(fast.sampled.timesteps)
    networks = 2 if name == "controlnet" else 1  # one after the other in every step
    assert first <= networks * steps + 1
    close(result(fast(**given())), result(pipe(**given())))
    assert fast.sampled.work.rounds <= networks * steps  # the shapes of the networks' answers are known by now


@pytest.mark.parametrize("name", ["stable_diffusion", "flux", "wan", "ltx", "stable_audio"])
def test_a_tolerance_is_kept_in_fewer_rounds(name):
    pipe, given = PIPELINES[name]()
    fast = parallelize(pipe, tol=1e-3)
    made = result(fast(**given(num_inference_steps=20)))
    due = result(pipe(**given(num_inference_steps=20)))
    assert float((made - due).square().mean().sqrt()) <= 1e-3 * float(due.abs().max().clamp(min=1))
    assert fast.sampled.work.rounds <= 12  # of 20
    assert fast.sampled.sample.shape[0] == fast.sampled.correction.shape[0]


SCHEDULERS = [
    ("DDIMScheduler", {}), ("DDPMScheduler", {"clip_sample": False}), ("PNDMScheduler", {"skip_prk_steps": True}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}), ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}), ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DEISMultistepScheduler", {}), ("UniPCMultistepScheduler", {}), ("LMSDiscreteScheduler", {}), ("TCDScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "config"), SCHEDULERS, ids=lambda case: str(case))
def test_any_scheduler(name, config):
    pipe, given = stable_diffusion(getattr(diffusers, name)(beta_schedule="scaled_linear", **config))
    # Clipping of the default DDIM doubles rounding at every number that it lets go.
    assert_as_pipe(pipe, given, bound=1e-4)


G = torch.Generator


@pytest.mark.parametrize(
    "options",
    [
        {"num_images_per_prompt": 2},
        {"num_images_per_prompt": 2, "generator": lambda: [G().manual_seed(seed) for seed in range(4)]},
        {"guidance_rescale": 0.7},
        {"guidance_scale": 1.0},
        {"eta": 0.8},
        {"latents": torch.ones(2, 4, 8, 8)},
        {"return_dict": False},
        {"num_inference_steps": 1},
        {"num_inference_steps": 2},
        {"output_type": "np"},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_of_a_call(options):
    pipe, given = stable_diffusion()
    assert_as_pipe(
        pipe, lambda: given(**{name: value() if callable(value) else value for name, value in options.items()})
    )


def test_timesteps_of_ones_own():
    pipe, given = stable_diffusion(diffusers.DDPMScheduler(clip_sample=False))
    assert_as_pipe(pipe, lambda: given(timesteps=[900, 700, 400, 150], num_inference_steps=None))


def test_sigmas_of_ones_own():
    pipe, given = stable_diffusion(diffusers.EulerDiscreteScheduler())
    assert_as_pipe(pipe, lambda: given(sigmas=[14.6, 3.8, 1.3, 0.2, 0.0], num_inference_steps=None))


def test_the_end_of_denoising_left_to_another_pipeline():
    pipe, given = PIPELINES["stable_diffusion_xl"]()
    assert_as_pipe(pipe, lambda: given(denoising_end=0.6))


def test_the_generator_of_torch_itself():
    pipe, given = stable_diffusion(diffusers.EulerAncestralDiscreteScheduler())
    fast = parallelize(pipe, tol=0)
    ends = []
    for each in pipe, fast:
        torch.manual_seed(5)
        ends.append((result(each(**given(generator=None))), torch.get_rng_state()))
    close(ends[1][0], ends[0][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_images_of_a_text(tmp_path):
    """With tokenizer, text encoder, decoder and pictures at the end."""
    pipe = tiny_pipelines.with_text(tmp_path)
    given = arguments("pil", prompt=["a cat", "a dog"], negative_prompt=["dim", "far"])
    made, due = (each(**given()).images for each in (parallelize(pipe, tol=0), pipe))
    assert made[0].size == (16, 16)
    # A picture has 256 levels: numbers near the edge of one may fall to either side.
    assert all(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1 for a, b in zip(made, due, strict=True))


def test_a_picture_to_begin_with_and_a_strength_that_leaves_no_step():
    pipe, given = PIPELINES["stable_diffusion_image_to_image"]()
    numbers = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    pictures = [PIL.Image.fromarray(each) for each in numbers]
    assert_as_pipe(pipe, lambda: given(image=pictures))
    errors = []
    for each in pipe, parallelize(pipe, tol=0):
        with pytest.raises(RuntimeError, match="must match the size") as caught:
            each(**given(strength=0.01))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]  # the pipeline's own words


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_nearer_to_full_than_the_loop(dtype):
    """Near the pipeline, and not it: the pipeline rounds its latents after every step, the solve keeps float32."""
    pipe, given = stable_diffusion()
    full = result(pipe(**given()))
    half = {name: value.to(dtype) for name, value in tiny_pipelines.EMBEDS.items()}
    pipe.to(dtype)
    due = result(pipe(**given(**half)))
    made = result(parallelize(pipe, tol=0)(**given(**half)))
    assert (made - full).square().mean() <= 1.5 * (due - full).square().mean()  # never much worse, mostly better
    eps = torch.finfo(dtype).eps  # each of twelve outputs is rounded in both, and in the pipeline latents are as well
    assert (made - due).abs().max() <= 12 * eps * full.abs().max()


@pytest.mark.parametrize("most", [1, 4, 7])
def test_batches_split_to_fit_memory(most):
    pipe, given = stable_diffusion()
    seen = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    assert_as_pipe(pipe, given, max_batch=most)
    hook.remove()
    assert max(seen) <= max(most, 4)  # two samples under guidance


@pytest.mark.parametrize(("name", "network"), [("stable_diffusion", "unet"), ("wan", "transformer")])
def test_several_devices_share_a_round(name, network):
    pipe, given = PIPELINES[name]()
    replicas, seen = Replicas(pipe.components[network], ["cpu", "cpu"]), []
    for place, model in enumerate(replicas.models):
        model.register_forward_pre_hook(lambda *_, place=place: seen.append(place))
    assert_as_pipe(pipe, given, replicas={network: replicas})
    assert set(seen) == {0, 1}
    with pytest.raises(ValueError, match="must be of components"):
        parallelize(pipe, replicas={"net": replicas})


def test_replicas_of_a_network_that_the_pipeline_changes_are_noticed():
    """Perturbed attention guidance exchanges parts of the network at hand in every call, and of no copy."""
    pipe, given = PIPELINES["pag"]()
    replicas = Replicas(pipe.unet, ["cpu", "cpu"])
    with pytest.raises(PipelineNotMapped, match="does not treat the images of a batch one by one"):
        parallelize(pipe, replicas={"unet": replicas})(**given())


def test_a_guess_from_another_prompt_saves_rounds():
    pipe, given = PIPELINES["flux"]()
    fast = parallelize(pipe, tol=1e-3)
    fast(**given(num_inference_steps=20))
    cold = fast.sampled
    near = {"prompt_embeds": tiny_pipelines.FLUX["prompt_embeds"] * 1.001}
    again = fast.starting_from(cold)
    made = result(again(**given(num_inference_steps=20, **near)))
    close(made, result(pipe(**given(num_inference_steps=20, **near))), 1e-3)
    assert again.sampled.work.rounds < cold.work.rounds


@pytest.mark.parametrize("name", ["stable_diffusion_image_to_image", "wan_image_to_video"])
def test_a_guess_from_the_frame_before_saves_rounds(name):
    """Another picture to begin with, as the next frame of a video is, and a solved trajectory as the first guess."""
    pipe, given = PIPELINES[name]()
    fast = parallelize(pipe, tol=1e-3)
    frame = {"num_inference_steps": 20, "image": given()["image"]}
    fast(**given(**frame))
    cold, frame["image"] = fast.sampled, frame["image"] * 0.999
    again = fast.starting_from(cold)
    close(result(again(**given(**frame))), result(pipe(**given(**frame))), 1e-3)
    assert again.sampled.work.rounds < cold.work.rounds


def test_clipping_under_guidance_is_said_loudly_by_a_pipeline_too():
    pipe, given = PIPELINES["dit"]()
    pipe.scheduler = diffusers.DDIMScheduler()
    with pytest.warns(li.PerformanceWarning, match=r"from_config\(scheduler\.config, clip_sample=False"):
        parallelize(pipe, tol=0.1)(**given(num_inference_steps=21))


def test_attributes_are_those_of_the_pipeline():
    pipe, _ = stable_diffusion()
    fast = parallelize(pipe)
    assert fast.unet is pipe.unet
    fast.scheduler = diffusers.EulerDiscreteScheduler()
    assert isinstance(pipe.scheduler, diffusers.EulerDiscreteScheduler)
    assert "StableDiffusionPipeline" in repr(fast)
    with pytest.raises(TypeError, match=r"ParallelSampler\(network, scheduler\)"):
        parallelize(pipe.unet)
    with pytest.raises(ValueError, match="max_batch"):
        parallelize(pipe, max_batch=0)
    with pytest.raises(ValueError, match="tol"):
        parallelize(pipe, tol=-1)
