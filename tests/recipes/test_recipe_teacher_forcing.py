"""Generalized teacher forcing: training in parallel is training step by step, derivatives, forcing, command line."""

import pytest
import torch
from typer.testing import CliRunner

import lds_iter as li
from recipes.teacher_forcing.__main__ import app
from recipes.teacher_forcing.data import divergence, lorenz
from recipes.teacher_forcing.network import Forced, ShallowPLRNN
from recipes.teacher_forcing.training import CONTRACTION, choose_strength, train


def network(scale=1.0):
    torch.manual_seed(0)
    made = ShallowPLRNN(3, 8)
    with torch.no_grad():
        made.W *= scale
    return made


def test_losses_and_weights_are_those_of_training_step_by_step():
    data, found, weights = lorenz(201), {}, {}
    for parallel in True, False:
        net = network()
        found[parallel] = [float(step.loss) for step in train(net, data, 8, parallel=parallel)]
        weights[parallel] = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert found[True][-1] < found[True][0]
    # states are solved to 1e-8; Adam divides by the size of a gradient
    assert found[True] == pytest.approx(found[False], rel=1e-6)
    torch.testing.assert_close(weights[True], weights[False], rtol=0, atol=1e-6)


def test_derivatives_in_closed_form():
    torch.manual_seed(1)
    s, x = torch.randn(2, 6, 2, 3, dtype=torch.float64)
    li.testing.check_derivatives(Forced(network(), 0.3), s, x)


def test_forcing_is_a_mixture_of_state_and_data():
    net, z, x = network(), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    torch.testing.assert_close(Forced(net, 1.0)(z, x), net(x))
    torch.testing.assert_close(Forced(net, 0.0)(z, x), net(z))


@pytest.mark.parametrize("scale", [1.0, 12.0, 40.0])
def test_the_chosen_forcing_contracts_and_the_solve_is_short(scale):
    net, data = network(scale), lorenz(400)
    alpha = choose_strength(net, data)
    forced = Forced(net, alpha)
    exponents = li.diagnostics.lyapunov(forced, data[0], data[:-1], data[1:], blocks=3, prefix=None).blocks
    # the choice was made along the data, and the data are mixed in here: the same Jacobians
    assert alpha == 1 or float(exponents.max()) <= CONTRACTION + 1e-9
    solution = li.solve(forced, data[0], data[:-1])
    assert int(solution.iterations) < 100


def test_wilder_networks_are_forced_more():
    data = lorenz(300)
    strengths = [choose_strength(network(scale), data) for scale in (1.0, 12.0, 40.0)]
    assert strengths == sorted(strengths)
    assert strengths[0] < strengths[-1]


def test_divergence():
    data = lorenz(700)
    assert divergence(data, data) == pytest.approx(0, abs=1e-12)
    assert divergence(lorenz(700, seed=1), data) < divergence(torch.randn(700, 3).double(), data)
    assert divergence(torch.full((700, 3), torch.nan), data) > 10


def test_command_line(tmp_path):
    arguments = ["--length", "60", "--hidden", "5", "--steps", "3", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Lyapunov exponent" in result.output
    assert (tmp_path / "teacher_forcing.svg").stat().st_size > 1000
