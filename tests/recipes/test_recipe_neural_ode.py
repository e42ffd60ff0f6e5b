"""The Hamiltonian neural ODE: trained in parallel as step by step, and the command line."""

import pytest
import torch
from typer.testing import CliRunner

from recipes.neural_ode.data import two_bodies
from recipes.neural_ode.model import Hamiltonian
from recipes.neural_ode.training import train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers


@pytest.mark.parametrize("first", [None, 10])
def test_losses_are_those_of_sequential_training(first):
    times, states = two_bodies(2, 40)
    losses = {}
    for solver in ("parallel", "sequential"):
        torch.manual_seed(0)
        losses[solver] = train(Hamiltonian(8), times, states, solver=solver, epochs=4, batch=2, first=first, growth=10)
    assert len(losses["parallel"]) == 4
    # the states are solved to 1e-10, and a few steps of Adam amplify that
    assert losses["parallel"] == pytest.approx(losses["sequential"], rel=1e-6)


def test_energy_is_kept():
    _, states = two_bodies(3, 200)
    apart = (states[..., 2:4] - states[..., :2]).norm(dim=-1)
    energy = states[..., 4:].square().sum(-1) / 2 - 1 / apart
    torch.testing.assert_close(energy, energy[:1].expand_as(energy), rtol=0, atol=1e-7)  # order 4, h = 1/200


def test_command_line(tmp_path):
    import typer

    import recipes.neural_ode.__main__ as command

    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(
        app, ["--points", "30", "--count", "2", "--epochs", "2", "--width", "4", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "neural_ode.svg").exists()
