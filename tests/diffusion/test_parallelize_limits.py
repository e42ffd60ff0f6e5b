"""What a parallel pipeline refuses, and that it leaves a pipeline as it was found, whatever happens."""

import copy
import functools

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

from pipeline_checks import assert_as_pipe, state_of  # noqa: E402
from tiny_pipelines import PIPELINES, stable_diffusion  # noqa: E402

from lds_iter.diffusion import PipelineNotMapped, SchedulerNotMapped, parallelize  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")]


class OwnLoop(diffusers.DDPMPipeline):
    """`DDPMPipeline` with something more in its loop."""

    @torch.no_grad()
    def __call__(self, num_inference_steps=6, generator=None, output_type="np", batch_size=1):
        self.scheduler.set_timesteps(num_inference_steps)
        image = torch.randn(batch_size, 3, 8, 8, generator=generator)
        self.begin()
        for time in self.progress_bar(self.scheduler.timesteps):
            output = self.unet(image, time).sample
            image = self.stepped(self.more(output, generator), time, image, generator)
        return (image,)

    def begin(self):
        self.kept = 0

    def more(self, output, generator):
        return output

    def stepped(self, output, time, image, generator):
        return self.scheduler.step(output, time, image, generator=generator).prev_sample


class WithMomentum(OwnLoop):
    def more(self, output, generator):
        self.kept = 0.5 * self.kept + output
        return self.kept


class WithNoiseOfItsOwn(OwnLoop):
    def more(self, output, generator):
        return output + 0.1 * torch.randn(output.shape, generator=generator)


class WithTwoSchedulers(OwnLoop):
    def begin(self):
        self.kept = copy.deepcopy(self.scheduler)


class WithUnseenNoise(OwnLoop):
    seed = 0

    def begin(self):
        self.kept = 0
        WithUnseenNoise.seed += 1

    def stepped(self, output, time, image, generator):
        drift = 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(self.seed))
        return super().stepped(output, time, image + drift, generator)


def own(kind, **more):
    pipe, _ = PIPELINES["ddpm"]()
    made = kind(pipe.unet, diffusers.DDIMScheduler(clip_sample=False, **more))
    made.set_progress_bar_config(disable=True)
    return made, lambda **more: {"generator": torch.Generator().manual_seed(3), **more}


def test_the_loop_itself_is_taken():
    assert_as_pipe(*own(OwnLoop))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (WithMomentum, "carries more than its latents"),
        (WithNoiseOfItsOwn, "draws noise by itself"),
        (WithTwoSchedulers, "two schedulers, or a copy"),
        (WithUnseenNoise, "start from different noise"),
    ],
)
def test_a_loop_that_does_more_is_refused_with_a_way_out(kind, why):
    pipe, given = own(kind)
    before = state_of(pipe)
    with pytest.raises(PipelineNotMapped, match=why) as caught:
        parallelize(pipe)(**given())
    assert "pipe(...)" in str(caught.value) or "latents=" in str(caught.value)
    after = state_of(pipe)
    assert (after[0] - {"kept"}, *after[1:]) == (before[0] - {"kept"}, *before[1:])


def test_a_step_with_other_arguments_is_refused():
    pipe, given = PIPELINES["cogvideox"]()
    pipe.scheduler = diffusers.CogVideoXDPMScheduler()
    with pytest.raises(PipelineNotMapped, match="takes other arguments than") as caught:
        parallelize(pipe)(**given())
    assert "DDIMScheduler.from_config(pipe.scheduler.config)" in str(caught.value)


def test_a_scheduler_that_is_no_table_is_refused():
    pipe, given = stable_diffusion(diffusers.CMStochasticIterativeScheduler())
    with pytest.raises(SchedulerNotMapped, match="cannot be run in parallel"):
        parallelize(pipe)(**given())


def test_dropout_is_noticed():
    pipe, given = stable_diffusion()
    pipe.unet.train()
    pipe.unet.mid_block.resnets[0].dropout.p = 0.5
    with pytest.raises(PipelineNotMapped, match=r"Type `pipe\.unet\.eval\(\)`"):
        parallelize(pipe)(**given())


def test_a_network_that_mixes_up_a_batch_is_noticed():
    pipe, given = stable_diffusion()
    real = pipe.unet.forward

    @functools.wraps(real)
    def mixing(sample, *args, **kwargs):
        return real(sample - sample.mean(0, keepdim=True), *args, **kwargs)

    pipe.unet.forward = mixing
    with pytest.raises(PipelineNotMapped, match="does not treat the images of a batch one by one"):
        parallelize(pipe)(**given())
    assert_as_pipe(pipe, given, max_batch=1)  # the way out that the message names


def test_arguments_that_the_pipeline_does_not_take():
    pipe, given = PIPELINES["flux"]()
    with pytest.raises(TypeError, match="promt"):
        parallelize(pipe)(**given(promt="a cat"))
    pipe, given = stable_diffusion()
    with pytest.raises(ValueError, match="divisible by 8"):  # of the pipeline itself
        parallelize(pipe)(**given(height=17, width=24))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("call", [1, 2, 4])
def test_the_pipeline_is_left_as_found_after_an_error(error, call):
    pipe, given = stable_diffusion()
    pipe.scheduler.set_timesteps(7)
    calls = []

    def stop(module, args):
        calls.append(1)
        if len(calls) == call:
            raise error

    hook = pipe.unet.register_forward_pre_hook(stop)
    before = state_of(pipe)
    arguments = given()
    with pytest.raises((error, PipelineNotMapped)):
        parallelize(pipe, tol=0)(**arguments)
    assert torch.equal(arguments["generator"].get_state(), given()["generator"].get_state())
    assert state_of(pipe) == before
    hook.remove()
    assert_as_pipe(pipe, given)


def test_hooks_wrappers_and_compiled_code_of_components_stay():
    """A forward method exchanged by others, as offloading does, is called, and is there afterwards."""
    pipe, given = stable_diffusion()
    moved = []
    real = pipe.unet.forward

    @functools.wraps(real)
    def offloaded(*args, **kwargs):
        moved.append(1)
        return real(*args, **kwargs)

    pipe.unet.forward = offloaded
    assert_as_pipe(pipe, given)
    assert pipe.unet.forward is offloaded
    assert moved


def test_the_bar_is_shown_and_hidden_as_the_pipeline_would(capsys):
    pipe, given = stable_diffusion()
    parallelize(pipe)(**given())
    assert not capsys.readouterr().err
    pipe.set_progress_bar_config(disable=False, desc="mine")
    parallelize(pipe)(**given())
    assert "solve" in capsys.readouterr().err
    assert pipe._progress_bar_config == {"disable": False, "desc": "mine"}


@pytest.mark.slow
def test_compiled_networks():
    pipe, given = stable_diffusion()
    due = stable_diffusion()
    pipe.unet.compile(backend="eager")
    assert_as_pipe(pipe, given)
    assert pipe.unet._compiled_call_impl is not None
    pipe = due[0]
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    assert_as_pipe(pipe, given)


def test_networks_spread_by_data_parallel():
    pipe, given = stable_diffusion()

    class Spread(torch.nn.DataParallel):
        """What pipelines read of a network is read of the one inside."""

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.module, name)

    pipe.unet = Spread(pipe.unet)
    assert_as_pipe(pipe, given)
