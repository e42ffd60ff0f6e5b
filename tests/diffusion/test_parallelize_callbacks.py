"""Callbacks of parallel pipelines: those that watch, those that steer, and those that interrupt."""

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

from diffusers.callbacks import IPAdapterScaleCutoffCallback, SDCFGCutoffCallback  # noqa: E402
from pipeline_checks import EXACT, assert_as_pipe, close, result  # noqa: E402
from tiny_pipelines import PIPELINES, stable_diffusion  # noqa: E402

from lds_iter.diffusion import PipelineNotMapped, parallelize  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")]


def halved_in_place(pipe, step, time, tensors):
    tensors["latents"].mul_(0.5)
    return tensors


def halved(pipe, step, time, tensors):
    return {"latents": tensors["latents"] * 0.5}


def guided_less(pipe, step, time, tensors):
    if step == 2:
        pipe._guidance_scale = 1.5
    return tensors


def told_otherwise(pipe, step, time, tensors):
    if step == 1:
        tensors["prompt_embeds"] = tensors["prompt_embeds"] * 0.5
    return tensors


def interrupted(pipe, step, time, tensors):
    if step == 3:
        pipe._interrupt = True
    return tensors


def halved_and_interrupted(pipe, step, time, tensors):
    return halved(pipe, step, time, interrupted(pipe, step, time, tensors))


@pytest.mark.parametrize(
    "callback",
    [halved_in_place, halved, guided_less, told_otherwise, interrupted, halved_and_interrupted],
    ids=lambda each: each.__name__,
)
def test_a_callback_that_steers_is_obeyed(callback):
    pipe, given = stable_diffusion()
    options = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    assert_as_pipe(pipe, lambda: given(**options))
    plain = result(pipe(**given()))
    change = float((result(pipe(**given(**options))) - plain).abs().max())
    assert change > 30 * EXACT * float(plain.abs().max())  # it does steer


def test_the_callback_of_diffusers_that_switches_guidance_off():
    pipe, given = stable_diffusion()
    one = {"prompt_embeds": given()["prompt_embeds"][:1], "negative_prompt_embeds": given()["prompt_embeds"][1:]}
    assert_as_pipe(pipe, lambda: given(**one, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.5)))


def test_a_callback_that_watches_is_called_once_a_step_with_the_solved_latents():
    pipe, given = stable_diffusion()
    seen = {"loop": [], "parallel": []}
    for name, each in ("loop", pipe), ("parallel", parallelize(pipe, tol=0)):

        def watching(pipe, step, time, tensors, kept=seen[name]):
            kept.append((step, int(time), tensors["latents"]))
            return tensors

        each(**given(callback_on_step_end=watching))
    assert [entry[:2] for entry in seen["parallel"]] == [entry[:2] for entry in seen["loop"]]
    for (_, _, mine), (_, _, theirs) in zip(seen["parallel"], seen["loop"], strict=True):
        close(mine, theirs)


def test_what_a_callback_keeps_is_a_value():
    """Writing later into what it was given changes neither the result nor the record."""
    pipe, given = stable_diffusion()
    kept = []

    def keeping(pipe, step, time, tensors):
        kept.append(tensors["latents"])
        return tensors

    fast = parallelize(pipe, tol=0)
    made = fast(**given(callback_on_step_end=keeping)).images
    trajectory, image = fast.sampled.trajectory.clone(), made.clone()
    for latents in kept[:-1]:  # the last one is what the pipeline returns, here as there
        latents.zero_()
    assert torch.equal(fast.sampled.trajectory, trajectory)
    assert torch.equal(made, image)
    made.zero_()
    assert torch.equal(fast.sampled.trajectory, trajectory)
    assert not torch.equal(fast.sampled.sample, made)


def test_the_old_form_of_callbacks():
    pipe, given = stable_diffusion()
    seen = []
    parallelize(pipe, tol=0)(**given(callback=lambda step, time, latents: seen.append(step), callback_steps=2))
    assert seen == [0, 2, 4]
    assert_as_pipe(pipe, lambda: given(callback=lambda step, time, latents: latents.mul_(0.9), callback_steps=1))


def test_a_callback_that_changes_a_network_is_refused():
    pipe, given = stable_diffusion()

    class Cutoff(IPAdapterScaleCutoffCallback):
        """Without an adapter there is no scale to set; what it does to a network is the same."""

        def callback_fn(self, pipeline, step, time, tensors):
            pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.scale = 0.1 * step
            return tensors

    with pytest.raises(PipelineNotMapped, match="changes a network between two steps"):
        parallelize(pipe)(**given(callback_on_step_end=Cutoff(1.0)))


def test_a_callback_that_does_more_than_scale_is_refused():
    pipe, given = stable_diffusion()

    def clamped(pipe, step, time, tensors):
        return {"latents": tensors["latents"].clamp(-0.5, 0.5)}

    with pytest.raises(PipelineNotMapped, match="not linear, number by number"):
        parallelize(pipe)(**given(callback_on_step_end=clamped))


def test_an_interrupt_from_outside_ends_the_solve():
    pipe, given = stable_diffusion()
    calls = []

    def stop(module, args):
        calls.append(len(args[0]))
        if len(calls) == 3:
            pipe._interrupt = True  # as another thread would while a network works

    hook = pipe.unet.register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="`_interrupt` was set"):
        parallelize(pipe)(**given(num_inference_steps=20))
    hook.remove()
    assert len(calls) == 3
    assert_as_pipe(pipe, given)  # and the next call goes on as usual


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_callbacks_of_other_pipelines(name):
    pipe, given = PIPELINES[name]()
    assert_as_pipe(pipe, lambda: given(callback_on_step_end=halved))
