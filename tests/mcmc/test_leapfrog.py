"""Leapfrog steps of a move all at once: the same chain as with one step after the other."""

import pytest
import torch

import lds_iter as li
from lds_iter.derivatives import FunctionDerivatives
from lds_iter.mcmc.leapfrog import Leapfrog
from recipes.mcmc.problems import banana, gaussian, hierarchical_schools, mixture

COVARIANCE = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)


def seeded():
    return torch.Generator().manual_seed(3)


DIAGONAL = COVARIANCE.diagonal()
CASES = {
    "Newton": (li.Newton(), None, torch.float64),
    "Newton, float32": (li.Newton(), None, torch.float32),
    "Newton, diagonal mass": (li.Newton(), DIAGONAL, torch.float64),
    "Newton, dense mass": (li.Newton(), COVARIANCE, torch.float64),
    "blocks, diagonal mass": (li.BlockNewton(2), DIAGONAL, torch.float64),
    "probed blocks, dense mass": (li.mcmc.ProbedBlocks(2), COVARIANCE, torch.float64),
    "probed blocks, float32": (li.mcmc.ProbedBlocks(2), None, torch.float32),
    "Picard": (li.Picard(), None, torch.float64),
}


@pytest.mark.parametrize("case", CASES)
def test_the_chain_is_that_of_steps_in_turn(case):
    """Decisions included."""
    method, mass, dtype = CASES[case]
    sampler, x0 = li.mcmc.hmc(mixture, 0.4, mass, 12), torch.ones(3, 2, dtype=dtype)
    exact = li.mcmc.sample_in_turn(sampler, x0, 4, generator=seeded())
    found = li.mcmc.sample_in_turn(sampler, x0, 4, generator=seeded(), leapfrog=method)
    assert exact.iterations is None
    assert torch.equal(found.info.is_accepted, exact.info.is_accepted)
    # residuals of 1e-5 and 1e-10, relative, grow by what 12 steps make of them
    tolerance = 1e-2 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(found.positions, exact.positions, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.info.acceptance_rate, exact.info.acceptance_rate, rtol=0, atol=tolerance)


def test_the_sequential_chain_is_the_parallel_one():
    sampler, x0 = li.mcmc.hmc(banana, 0.5, None, 4), torch.zeros(3, 2).double()
    draws = li.mcmc.sample(sampler, x0, 50, generator=seeded())
    turns = li.mcmc.sample_in_turn(sampler, x0, 50, generator=seeded())
    assert torch.equal(turns.info.is_accepted, draws.info.is_accepted)
    torch.testing.assert_close(turns.positions, draws.positions, rtol=0, atol=1e-7)  # solved to 1e-10, relative


def test_fewer_iterations_than_steps():
    """Counted: 64 steps of a mixture take Newton's method at most 12 iterations."""
    turns = li.mcmc.sample_in_turn(
        li.mcmc.hmc(mixture, 0.1, None, 64), torch.zeros(4, 2).double(), 10, generator=seeded(), leapfrog=li.Newton()
    )
    assert turns.iterations.shape == (10, 4)
    assert int(turns.iterations.max()) <= 12
    assert float(turns.info.acceptance_rate.mean()) > 0.9


def test_a_normal_target_takes_one_iteration():
    """Its pull is linear. Without couplings blocks are all there is."""
    dense, plain = gaussian(COVARIANCE.inverse()), gaussian(torch.diag(torch.tensor([1.0, 4.0]).double()))
    for target, method in ((dense, li.Newton()), (plain, li.BlockNewton(2)), (plain, li.mcmc.ProbedBlocks(2))):
        turns = li.mcmc.sample_in_turn(
            li.mcmc.hmc(target, 0.2, None, 20), torch.zeros(2, 2).double(), 4, leapfrog=method, generator=seeded()
        )
        assert int(turns.iterations.max()) == 1


@pytest.mark.parametrize("root", [None, COVARIANCE.diagonal(), COVARIANCE], ids=["none", "diagonal", "dense"])
def test_derivatives_in_closed_form(root):
    """Against forward mode of the step itself."""
    x = torch.randn(5, 3, 2, dtype=torch.float64, generator=seeded())
    sampler = li.mcmc.hmc(mixture, 0.3, root)
    leapfrog = Leapfrog(sampler.bind(x[0], chains=True).target, sampler._root, 0.3, x[0])
    s, v = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=seeded())
    found, wanted = leapfrog.linearize(s, None), FunctionDerivatives(leapfrog, s, None)
    for name, arguments in {
        "jvp": (v,), "vjp": (v,), "jacobian": (), "diagonal": (), "block_diagonal": (2,),
    }.items():  # fmt: skip
        ours, theirs = getattr(found, name)(*arguments), getattr(wanted, name)(*arguments)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)  # rounding
    torch.testing.assert_close(found.block_diagonal(4), found.jacobian().unsqueeze(-3), rtol=0, atol=0)
    torch.testing.assert_close(found.value, wanted.value, rtol=0, atol=0)


def test_probed_blocks_average_to_the_blocks():
    """The mean over many probes of a coupled target."""
    x = torch.randn(1, 1, 4, dtype=torch.float64, generator=seeded())
    f = lambda s, u: torch.tanh(s @ (torch.arange(16.0).view(4, 4).double() / 10)) + u  # noqa: E731
    lin = li.linearization(f, x[0], x, torch.zeros(1, 1, 4).double())
    found = li.mcmc.ProbedBlocks(2, probes=400).transition(lin).blocks
    error = (found - li.BlockNewton(2).transition(lin).blocks).abs().max()
    assert float(error) < 5 * float(lin.jacobian().norm()) / 20  # 5 standard errors, of sqrt(400)
    with pytest.raises(ValueError, match="`size` must divide"):
        li.mcmc.ProbedBlocks(3).transition(lin)


def test_positions_of_several_tensors():
    x0 = {"mu": torch.zeros(2).double(), "log_tau": torch.zeros(2).double(), "z": torch.zeros(2, 8).double()}
    sampler = li.mcmc.hmc(hierarchical_schools(), 0.2, None, 6)
    exact = li.mcmc.sample_in_turn(sampler, x0, 5, generator=seeded())
    found = li.mcmc.sample_in_turn(sampler, x0, 5, generator=seeded(), leapfrog=li.Newton())
    for name in x0:
        torch.testing.assert_close(found.positions[name], exact.positions[name], rtol=0, atol=1e-7)


def test_wide_positions_form_no_hessian():
    """D = 1,000: the state of a step has 2,000 numbers, and two products with the Hessian make its blocks."""
    scales = torch.linspace(0.5, 2, 1000).double()
    target = lambda x: -(x / scales.to(x)).square().sum(-1) / 2 - (x**4).sum(-1) / 40  # noqa: E731
    sampler, x0 = li.mcmc.hmc(target, 0.1, None, 16), torch.zeros(2, 1000).double()
    exact = li.mcmc.sample_in_turn(sampler, x0, 3, generator=seeded())
    found = li.mcmc.sample_in_turn(sampler, x0, 3, generator=seeded(), leapfrog=li.mcmc.ProbedBlocks(2))
    torch.testing.assert_close(found.positions, exact.positions, rtol=0, atol=1e-7)
    assert int(found.iterations.max()) <= 8  # of 16 steps; without couplings one probe is exact


def test_exploding_steps_are_rejected():
    """As they are one after the other: divergences, no error."""
    sampler, x0 = li.mcmc.hmc(lambda x: -(x**4).sum(-1), 3.0, None, 20), torch.ones(2, 2).double()
    found = li.mcmc.sample_in_turn(sampler, x0, 4, generator=seeded(), leapfrog=li.Newton())
    assert bool(found.info.is_divergent.all())
    assert not bool(found.info.is_accepted.any())
    torch.testing.assert_close(found.positions, x0.expand(4, 2, 2), rtol=0, atol=0)


def test_what_is_refused():
    sampler, x0 = li.mcmc.hmc(mixture, 0.5, None, 20), torch.ones(2, 2).double()
    with pytest.raises(TypeError, match="leapfrog steps"):
        li.mcmc.sample_in_turn(li.mcmc.mala(mixture, 0.1), x0, 4, leapfrog=li.Newton())
    with pytest.raises(li.SolveError, match="`max_iters` = 1"):
        li.mcmc.sample_in_turn(sampler, x0, 4, leapfrog=li.Newton(), max_iters=1)
