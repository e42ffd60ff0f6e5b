"""What a network is told: by the structure of the arguments, not by a length that agrees by chance."""

import functools

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

from small_denoisers import Denoiser, assert_same, both, noise_for  # noqa: E402

from lds_iter.diffusion import ParallelSampler, Replicas  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

SCHEDULER = diffusers.DDIMScheduler(clip_sample=False)
LABELS = {"class_labels": torch.tensor([1, 5])}


class Wrapped(torch.nn.Module):
    """As PEFT wraps a model: any arguments, and the model inside."""

    def __init__(self, model):
        super().__init__()
        self.base = model

    def get_base_model(self):
        return self.base

    def forward(self, *args, **kwargs):
        return self.base(*args, **kwargs)


class Own(torch.nn.Module):
    """A wrapper whose signature says nothing, and whose inside nobody knows."""

    def __init__(self, model):
        super().__init__()
        self.inside = model

    def forward(self, *args, **kwargs):
        return self.inside(*args, **kwargs)


WRAPPERS = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "data parallel": torch.nn.DataParallel,
    "peft": Wrapped,
    "partial": lambda model: functools.partial(model, encoder_hidden_states=torch.zeros(1, 1, 1)),
    "own": Own,
    "twice": lambda model: torch.nn.DataParallel(Wrapped(model)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_networks(name):
    plain, wrapped = (ParallelSampler(net, SCHEDULER, tol=0) for net in (Denoiser(), WRAPPERS[name](Denoiser())))
    noise = noise_for(SCHEDULER, 5)
    made, due = wrapped(noise, 5, LABELS), plain.step_by_step(noise, 5, LABELS)
    assert_same(made, due)
    assert_same(wrapped.step_by_step(noise, 5, LABELS), due)


class Listening(Denoiser):
    """Takes lists and dictionaries of tensors, and positions that are the same for all samples."""

    def forward(self, sample, timestep, residuals=None, added=None, img_ids=None, positions=None):
        if residuals is not None:
            assert all(len(each) == len(sample) for each in residuals)
            sample = sample + sum(residuals)
        if added is not None:
            sample = sample + added["image_embeds"][0].view(-1, 1, 1, 1)
        for shared in img_ids, positions:
            if shared is not None:
                assert len(shared) == 2
                sample = sample + shared.sum()
        return super().forward(sample, timestep)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_lists_and_dictionaries_are_taken_by_sample_and_positions_are_not(batch):
    noise = noise_for(SCHEDULER, 6, (batch, 1, 4, 4))
    told = {
        "residuals": [torch.randn(batch, 1, 4, 4), torch.randn(batch, 1, 4, 4)],
        "added": {"image_embeds": (torch.randn(batch),)},
        "img_ids": torch.randn(2, 3),
        "positions": torch.randn(2),
    }
    sampler = ParallelSampler(Listening(), SCHEDULER, tol=0)
    parallel, loop = both(sampler, noise, 6, told, shared=("positions",))
    assert_same(parallel, loop)
    for place in range(batch):  # and each sample has its own
        mine = {**told, "residuals": [each[place : place + 1] for each in told["residuals"]]}
        mine["added"] = {"image_embeds": (told["added"]["image_embeds"][0][place : place + 1],)}
        alone = sampler.step_by_step(noise[place : place + 1], 6, mine, shared=("positions",))
        assert torch.allclose(alone.sample[0], parallel.sample[place], atol=1e-4)


def test_what_leads_with_another_length_is_named():
    sampler, noise = ParallelSampler(Denoiser(), SCHEDULER), noise_for(SCHEDULER, 5)
    with pytest.raises(ValueError, match=r"`conditioning\['class_labels'\]` must lead with the batch of `noise`, 2"):
        sampler(noise, 5, {"class_labels": torch.tensor([1, 2, 3])})
    with pytest.raises(ValueError, match=r"`unconditional\['class_labels'\]`.*shared=\('class_labels',\)"):
        sampler(noise, 5, LABELS, unconditional={"class_labels": torch.tensor([1])}, guidance_scale=2.0)


def test_guidance_is_never_ignored():
    sampler, noise = ParallelSampler(Denoiser(), SCHEDULER), noise_for(SCHEDULER, 5)
    with pytest.raises(ValueError, match="`unconditional` is missing"):
        sampler(noise, 5, LABELS, guidance_scale=7.5)
    for other in {}, {**LABELS, "encoder_hidden_states": torch.zeros(2, 1, 1)}:
        with pytest.raises(ValueError, match="must have the keys of `conditioning`"):
            sampler(noise, 5, LABELS, unconditional=other, guidance_scale=7.5)


def test_a_scale_for_each_sample_and_its_rescaling():
    sampler, noise = ParallelSampler(Denoiser(), SCHEDULER, tol=0), noise_for(SCHEDULER, 6)
    other = {"class_labels": torch.tensor([0, 0])}
    scales = torch.tensor([1.5, 4.0])
    for rescale in 0.0, 0.7:
        options = {"unconditional": other, "guidance_scale": scales, "guidance_rescale": rescale}
        parallel, loop = both(sampler, noise, 6, LABELS, **options)
        assert_same(parallel, loop)
        one = sampler.step_by_step(
            noise[1:], 6, {"class_labels": LABELS["class_labels"][1:]}, guidance_scale=4.0, guidance_rescale=rescale,
            unconditional={"class_labels": torch.tensor([0])},
        )  # fmt: skip
        assert torch.allclose(one.sample[0], parallel.sample[1], atol=1e-4)


@pytest.mark.parametrize("guided", [False, True])
def test_several_devices_share_a_round(guided):
    replicas, noise = Replicas(Denoiser(), ["cpu"] * 3), noise_for(SCHEDULER, 7)
    seen = []
    for place, model in enumerate(replicas.models):
        model.register_forward_pre_hook(lambda *_, place=place: seen.append(place))
    options = {"unconditional": {"class_labels": torch.tensor([0, 0])}, "guidance_scale": 3.0} if guided else {}
    spread = ParallelSampler(replicas, SCHEDULER, tol=0)(noise, 7, LABELS, **options)
    assert set(seen) == {0, 1, 2}
    assert_same(spread, ParallelSampler(Denoiser(), SCHEDULER).step_by_step(noise, 7, LABELS, **options))
    with pytest.raises(ValueError, match="at least one"):
        Replicas(Denoiser(), [])


def test_a_sample_shares_no_memory_with_its_trajectory():
    sampled = ParallelSampler(Denoiser(), SCHEDULER)(noise_for(SCHEDULER, 5), 5)
    before = sampled.trajectory.clone()
    sampled.sample.zero_()
    assert torch.equal(sampled.trajectory, before)


def test_a_warm_start_saves_rounds_and_changes_nothing_else():
    sampler, noise = ParallelSampler(Denoiser(), SCHEDULER, tol=1e-4), noise_for(SCHEDULER, 30)
    cold = sampler(noise, 30, LABELS)
    other = {"class_labels": torch.tensor([1.05, 5.05])}
    warm = sampler(noise, 30, other, guess=cold.trajectory)
    again = sampler(noise, 30, other)
    assert warm.work.rounds < again.work.rounds
    assert (warm.sample - again.sample).abs().max() < 1e-3
    with pytest.raises(ValueError, match="A trajectory to start from"):
        sampler(noise, 20, other, guess=cold.trajectory)
