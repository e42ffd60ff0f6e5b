"""Samplers: exact replay, the distributions that they keep, and moves against formulas written anew."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

import lds_iter as li
from recipes.mcmc.problems import EightSchools, banana, gaussian, hierarchical_schools, mixture

COVARIANCE = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
NORMAL = gaussian(COVARIANCE.inverse())
MASS = torch.tensor([2.0, 0.5], dtype=torch.float64)


def alone(x):
    """A target of one position, which cannot take a batch."""
    assert x.shape == (2,)
    return -(x.square() * torch.tensor([0.5, 2.0]).to(x)).sum() - x[0] ** 4 / 10


def pair():
    """Two normal numbers of correlation 0.5, each drawn given the other."""
    root = math.sqrt(0.75)
    draw = lambda shape, generator: torch.randn(shape, dtype=torch.float64, generator=generator)  # noqa: E731
    return li.mcmc.gibbs(
        {"x": lambda p, z: 0.5 * p["y"] + root * z, "y": lambda p, z: 0.5 * p["x"] + root * z},
        {"x": draw, "y": draw},
    )


SAMPLERS = {
    "random walk": li.mcmc.random_walk(mixture, 1.0),
    "random walk, scaled": li.mcmc.random_walk(NORMAL, 1.0, MASS),
    "MALA": li.mcmc.mala(mixture, 0.5),
    "MALA, dense mass": li.mcmc.mala(NORMAL, 0.4, COVARIANCE),
    "MALA, one position": li.mcmc.mala(alone, 0.1),
    "HMC": li.mcmc.hmc(banana, 0.5, None, 4),
    "HMC, dense mass": li.mcmc.hmc(NORMAL, 0.5, COVARIANCE, 3),
    "HMC, one position": li.mcmc.hmc(alone, 0.2, MASS, 3),
    "Langevin": li.mcmc.langevin(mixture, 0.1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_chain_is_the_sequential_chain(name, dtype):
    """Decisions included, with the default method and tolerance."""
    generator = torch.Generator().manual_seed(3)
    x0 = torch.randn(3, 2, dtype=dtype, generator=generator)
    draws = li.mcmc.sample(SAMPLERS[name], x0, 100, generator=generator)
    replay = draws.replay()
    assert draws.solution.converged
    assert replay.exact
    assert int(replay.mismatches.sum()) == 0
    # the residual is 1e-5 or 1e-10, relative, and samplers forget: errors do not add up
    assert float(replay.difference.max()) < (1e-2 if dtype == torch.float32 else 1e-7)
    torch.testing.assert_close(replay.info.acceptance_rate, draws.info.acceptance_rate, rtol=0, atol=1e-2)


def test_a_rejected_move_repeats_the_position():
    """To the bit, though the states are solved to a tolerance."""
    torch.manual_seed(0)
    start = torch.randn(3, 2)
    draws = li.mcmc.sample(li.mcmc.mala(mixture, 2.0), start, 100)
    before = torch.cat([start.unsqueeze(0), draws.positions[:-1]])
    stays = (draws.positions == before).all(-1)
    assert torch.equal(stays, ~draws.info.is_accepted)
    assert 0.1 < float(stays.double().mean()) < 0.9


@pytest.mark.parametrize("problem", [EightSchools().sampler(), pair()])
def test_gibbs_is_the_sequential_chain(problem):
    x0 = {"x": torch.zeros(3).double(), "y": torch.zeros(3).double()}
    x0 = x0 if set(problem.conditionals) == set(x0) else EightSchools().start(3)
    draws = li.mcmc.sample(problem, x0, 200, generator=torch.Generator().manual_seed(0))
    assert draws.solution.converged
    assert float(draws.replay().difference.max()) < 1e-7
    assert set(draws.posterior()) == set(x0)


def test_mismatches_are_counted():
    """A solve that is ended early is not the sequential chain, and says so."""
    torch.manual_seed(0)
    draws = li.mcmc.sample(SAMPLERS["MALA"], torch.randn(3, 2), 200, max_iters=2, throw=False)
    assert not draws.solution.converged
    assert not draws.replay().exact
    with pytest.raises(li.SolveError):
        li.mcmc.sample(SAMPLERS["MALA"], torch.randn(3, 2), 200, max_iters=2)


def test_one_step_at_a_time():
    sampler, position = SAMPLERS["MALA, one position"], torch.zeros(2).double()
    draws = li.mcmc.sample(sampler, position, 20, chains=1, generator=torch.Generator().manual_seed(0))
    state = sampler.init(position)
    for t in range(20):
        state, info = sampler.step((draws.noise[0][t, 0], draws.noise[1][t, 0]), state)
        assert bool(info.is_accepted) == bool(draws.info.is_accepted[t, 0])
        torch.testing.assert_close(state, draws.positions[t, 0], rtol=0, atol=1e-8)  # solved to 1e-10


def test_chains_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    sampler, x0 = SAMPLERS["MALA"], torch.randn(3, 2).double()
    together = li.mcmc.sample(sampler, x0, 100)
    for chain in range(3):
        noise = tuple(part[:, chain : chain + 1] for part in together.noise)
        by_itself = li.solve(sampler.bind(x0[chain : chain + 1], chains=True), x0[chain : chain + 1], noise,
                             sampler.method(2))  # fmt: skip
        assert int(by_itself.iterations) == int(together.solution.iterations[chain])
        torch.testing.assert_close(by_itself.states[:, 0], together.positions[:, chain], rtol=0, atol=1e-9)


# Invariance. Chains start from independent draws of the target itself. After some moves they are draws of it still,
# so means of any function agree with the truth within 4.5 standard errors, which are those of independent draws.

CHAINS, MOVES = 4000, 6


def draws_of(name):
    """Independent draws of a target, `(CHAINS, 2)`."""
    z = torch.randn(CHAINS, 2, dtype=torch.float64)
    if name == "mixture":
        return z + 2 * (1 - 2 * torch.randint(0, 2, (CHAINS, 2)).double())
    if name == "banana":
        x = 10 * z[:, :1]
        return torch.cat([x, z[:, 1:] + 0.03 * (x.square() - 100)], 1)
    return z @ torch.linalg.cholesky(COVARIANCE).T


TRUTH = {
    "mixture": ([0.0, 0.0], [5.0, 5.0], 0.0),
    "banana": ([0.0, 0.0], [100.0, 19.0], 0.0),
    "normal": ([0.0, 0.0], [2.0, 0.5], 0.6),
}
"""Means, variances and the covariance."""

TARGETS = {"mixture": mixture, "banana": banana, "normal": NORMAL}
MAKERS = {
    "random walk": lambda target: li.mcmc.random_walk(target, 0.7),
    "MALA": lambda target: li.mcmc.mala(target, 0.3),
    "MALA, scaled": lambda target: li.mcmc.mala(target, 0.3, MASS),
    "HMC": lambda target: li.mcmc.hmc(target, 0.4, None, 4),
    "HMC, dense mass": lambda target: li.mcmc.hmc(target, 0.4, COVARIANCE, 4),
}


def assert_mean(values, truth):
    error = values.mean() - truth
    assert abs(error) < 4.5 * values.std() / math.sqrt(len(values)), (float(values.mean()), truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("target", TRUTH)
@pytest.mark.parametrize("maker", MAKERS)
def test_the_target_is_kept(maker, target, dtype):
    torch.manual_seed(1)
    sampler, start = MAKERS[maker](TARGETS[target]), draws_of(target).to(dtype)
    draws = li.mcmc.sample(sampler, start, MOVES)
    last = draws.positions[-1].double()
    means, variances, covariance = TRUTH[target]
    for i in range(2):
        assert_mean(last[:, i], means[i])
        assert_mean(last[:, i].square(), variances[i])
    assert_mean(last.prod(-1), covariance)
    assert float(draws.acceptance_rate.mean()) > 0.1  # chains that stand still keep everything


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("maker", MAKERS)
def test_detailed_balance(maker, dtype):
    """As many chains go from one region to another as come back: E[g(x) h(y) - h(x) g(y)] = 0."""
    torch.manual_seed(2)
    start = draws_of("mixture").to(dtype)
    after = li.mcmc.sample(MAKERS[maker](mixture), start, 1).positions[0]
    g, h = (lambda x: torch.sin(x[:, 0])), (lambda x: torch.relu(x[:, 1]) * x[:, 0])
    assert_mean((g(start) * h(after) - h(start) * g(after)).double(), 0.0)


def test_gibbs_keeps_the_target():
    torch.manual_seed(0)
    x, z = torch.randn(2, CHAINS, dtype=torch.float64)
    start = {"x": x, "y": 0.5 * x + math.sqrt(0.75) * z}
    last = {name: part[-1] for name, part in li.mcmc.sample(pair(), start, MOVES).positions.items()}
    for name in "xy":
        assert_mean(last[name], 0.0)
        assert_mean(last[name].square(), 1.0)
    assert_mean(last["x"] * last["y"], 0.5)


def test_langevin_has_the_bias_of_its_step():
    """On a standard normal x' = (1 - eps) x + sqrt(2 eps) xi, of variance 1 / (1 - eps / 2): linear, one update."""
    torch.manual_seed(0)
    size = 0.5
    start = torch.randn(CHAINS, 1, dtype=torch.float64) / math.sqrt(1 - size / 2)
    draws = li.mcmc.sample(li.mcmc.langevin(lambda x: -x.square().sum(-1) / 2, size), start, 20)
    assert_mean(draws.positions[-1, :, 0].square(), 1 / (1 - size / 2))
    assert int(draws.solution.iterations.max()) == 1


def test_a_move_of_mala_by_densities():
    """The ratio of Metropolis and Hastings from the densities of both proposals."""
    torch.manual_seed(0)
    sampler = li.mcmc.mala(mixture, 0.3, COVARIANCE)
    x = torch.randn(50, 2, dtype=torch.float64)
    xi, log_u = sampler.noise(1, x)

    def mean_from(x):
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(mixture(x).sum(), x)
        return x.detach() + 0.3 * slope @ COVARIANCE

    proposal = mean_from(x) + math.sqrt(0.6) * xi[0] @ torch.linalg.cholesky(COVARIANCE).T
    there, back = (MultivariateNormal(mean_from(at), 0.6 * COVARIANCE) for at in (x, proposal))
    log_ratio = mixture(proposal) - mixture(x) + back.log_prob(x) - there.log_prob(proposal)
    wanted = torch.where((log_u[0] < log_ratio).unsqueeze(-1), proposal, x)
    found, info = sampler.move(sampler.bind(x, chains=True).target, x, (xi[0], log_u[0]))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)  # rounding
    torch.testing.assert_close(info.acceptance_rate, log_ratio.exp().clamp(max=1), rtol=0, atol=1e-12)


def test_leapfrog_is_reversible():
    """From the end of a move with its velocity reversed, a move leads back to the start."""
    torch.manual_seed(0)
    sampler = li.mcmc.hmc(mixture, 0.2, None, 5)
    x = torch.randn(20, 2, dtype=torch.float64)
    target, xi, surely = sampler.bind(x, chains=True).target, torch.randn(20, 2).double(), torch.full((20,), -1e9)
    there, _ = sampler.move(target, x, (xi, surely.double()))
    velocity, at = xi.clone(), x.clone()
    for _ in range(5):
        velocity = velocity + 0.1 * target.value_and_gradient(at)[1]
        at = at + 0.2 * velocity
        velocity = velocity + 0.1 * target.value_and_gradient(at)[1]
    torch.testing.assert_close(at, there, rtol=0, atol=1e-12)  # the same formula, once more
    back, _ = sampler.move(target, there, (-velocity, surely.double()))
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)  # rounding of ten steps


def test_a_hierarchical_model_of_pytrees():
    torch.manual_seed(0)
    x0 = {"mu": torch.zeros(2).double(), "log_tau": torch.zeros(2).double(), "z": torch.zeros(2, 8).double()}
    draws = li.mcmc.sample(li.mcmc.hmc(hierarchical_schools(), 0.2, None, 3), x0, 40)
    assert draws.replay().exact
    assert {name: tuple(part.shape) for name, part in draws.posterior().items()} == {
        "mu": (2, 40), "log_tau": (2, 40), "z": (2, 40, 8),
    }  # fmt: skip
    assert {name: tuple(part.shape) for name, part in draws.sample_stats().items()} == dict.fromkeys(
        ("acceptance_rate", "diverging", "lp"), (2, 40)
    )


@pytest.mark.parametrize(
    ("logdensity", "batched"),
    [
        (mixture, True),
        (alone, False),
        (lambda x: -x.square().sum() / 2, False),  # sums over a batch as well: right for one position alone
        (lambda x: Normal(0.0, 1.0, validate_args=False).log_prob(x).sum(-1), True),
        (lambda x: -(x.flatten(0, -2).square().sum(-1)).reshape(x.shape[:-1]), True),  # of a batch alone
    ],
)
def test_log_densities_of_one_position_and_of_many(logdensity, batched):
    chain = li.mcmc.mala(logdensity, 0.1).bind(torch.ones(3, 2), chains=True)
    assert chain.target.batched == batched
    assert chain.target.value(torch.ones(5, 3, 2)).shape == (5, 3)
    assert chain(torch.ones(5, 3, 2), (torch.zeros(5, 3, 2), torch.zeros(5, 3))).shape == (5, 3, 2)


def test_wide_positions_form_no_jacobian():
    """D = 1,000 by one probe: the Jacobians of 120 moves would be a gigabyte."""
    torch.manual_seed(0)
    sampler = li.mcmc.mala(lambda x: -x.square().sum(-1) / 2, 0.02)
    assert isinstance(sampler.method(1000), li.Clipped)
    draws = li.mcmc.sample(sampler, torch.randn(2, 1000), 60)
    assert draws.replay().exact


def test_divergences_are_counted():
    """A step so long that energies explode: every move diverges, and none is taken."""
    draws = li.mcmc.sample(li.mcmc.hmc(mixture, 1e3, None, 4), torch.ones(2, 2).double(), 10)
    assert draws.divergences.tolist() == [10, 10]
    assert not bool(draws.info.is_accepted.any())


def test_early_stopping_reports_its_error():
    torch.manual_seed(0)
    draws = li.mcmc.sample(SAMPLERS["MALA"], torch.randn(4, 2).double(), 400, stop=li.Below(1e-3))
    off, spread = draws.stopping_error()
    exact = draws.replay()
    shift = (exact.positions - draws.positions).mean((0, 1)).abs()
    assert bool((draws.solution.result == li.Result.STOPPED).all())
    assert bool((off < spread).all())  # the residual is far below the standard error
    assert bool((shift < 10 * off + 1e-6).all())  # of first order


def test_the_standard_error_is_that_of_independent_draws():
    """Langevin dynamics whose step forgets everything: draws are independent, of variance 2."""
    torch.manual_seed(0)
    draws = li.mcmc.sample(li.mcmc.langevin(lambda x: -x.square().sum(-1) / 2, 1.0), torch.zeros(50, 1).double(), 900)
    _, spread = draws.stopping_error()
    assert float(spread) == pytest.approx(math.sqrt(2 / (50 * 900)), rel=0.1)  # 1,449 degrees of freedom: 2 %
