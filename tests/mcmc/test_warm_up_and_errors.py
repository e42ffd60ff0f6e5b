"""Warm-up, and what is refused."""

import pytest
import torch

import lds_iter as li

SCALES = torch.tensor([5.0, 0.2], dtype=torch.float64)


def stretched(x):
    return -(x / SCALES.to(x)).square().sum(-1) / 2


@pytest.mark.parametrize(
    ("sampler", "wanted"),
    [
        (li.mcmc.random_walk(stretched, 1.0), 0.234),
        (li.mcmc.mala(stretched, 0.1), 0.574),
        (li.mcmc.hmc(stretched, 0.1, None, 5), 0.8),
    ],
)
def test_warm_up_finds_scales_and_step(sampler, wanted):
    torch.manual_seed(0)
    adapted, x = li.mcmc.warm_up(sampler, torch.zeros(2).double(), 600, chains=8)
    assert x.shape == (8, 2)
    # variances of some hundred draws of 8 chains
    torch.testing.assert_close(adapted.inverse_mass_matrix.sqrt(), SCALES, rtol=0.4, atol=0)
    draws = li.mcmc.sample(adapted, x, 200)
    assert abs(float(draws.acceptance_rate.mean()) - wanted) < 0.15  # dual averaging of 60 moves
    assert type(adapted) is type(sampler)


def test_warm_up_of_few_moves_adapts_the_step_alone():
    torch.manual_seed(0)
    adapted, _ = li.mcmc.warm_up(li.mcmc.mala(stretched, 0.1), torch.zeros(2, 2), 20)
    assert adapted.inverse_mass_matrix is None
    assert adapted.step_size != 0.1


def test_warm_up_keeps_the_structure_of_positions():
    x0 = {"a": torch.zeros(3), "b": torch.zeros(3, 2)}
    sampler = li.mcmc.hmc(lambda p: -(p["a"] ** 2) - p["b"].square().sum(), 0.1)
    _, x = li.mcmc.warm_up(sampler, x0, 10)
    assert {name: part.shape for name, part in x.items()} == {"a": (3,), "b": (3, 2)}


def one(x):
    return -x.square().sum(-1)


BAD = {
    "no step": (lambda: li.mcmc.mala(one, 0.0), ValueError, "`step_size`"),
    "no leapfrog steps": (lambda: li.mcmc.hmc(one, 0.1, None, 0), ValueError, "`num_steps`"),
    "a negative mass": (lambda: li.mcmc.hmc(one, 0.1, -torch.ones(2)), ValueError, "positive diagonal"),
    "an indefinite mass": (lambda: li.mcmc.mala(one, 0.1, -torch.eye(2)), ValueError, "positive definite"),
    "no sampler": (lambda: li.mcmc.sample(one, torch.zeros(2, 2), 5), TypeError, "li.mcmc.hmc"),
    "no draws": (lambda: li.mcmc.sample(li.mcmc.mala(one, 0.1), torch.zeros(2, 2), 0), ValueError, "`num_samples`"),
    "whole numbers": (
        lambda: li.mcmc.sample(li.mcmc.mala(one, 0.1), torch.zeros(2, 2).long(), 5), TypeError, "whole numbers"
    ),
    "a density that is no function": (
        lambda: li.mcmc.sample(li.mcmc.mala(3, 0.1), torch.zeros(2, 2), 5), TypeError, "`logdensity` must be a function"
    ),
    "a density with dimensions": (
        lambda: li.mcmc.sample(li.mcmc.mala(lambda x: -x.square(), 0.1), torch.zeros(2, 2), 5), ValueError, ".sum()"
    ),
    "an error inside of the density": (
        lambda: li.mcmc.sample(li.mcmc.mala(lambda x: x @ torch.ones(7), 0.1), torch.zeros(2, 2), 5), RuntimeError,
        "This came from `logdensity`",
    ),
    "names that differ": (
        lambda: li.mcmc.gibbs({"x": one}, {"y": one}), ValueError, "the same names"
    ),
    "noise of another shape": (
        lambda: li.mcmc.sample(
            li.mcmc.gibbs({"x": lambda p, z: z}, {"x": lambda shape, g: torch.zeros(3)}), {"x": torch.zeros(2)}, 5
        ), ValueError, "must return a tensor that begins with",
    ),
    "nothing to adapt": (
        lambda: li.mcmc.warm_up(li.mcmc.langevin(one, 0.1), torch.zeros(2, 2), 5), TypeError, "which has none"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_errors_say_what_to_type(case):
    call, kind, words = BAD[case]
    with pytest.raises(kind) as caught:
        call()
    assert words in " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
