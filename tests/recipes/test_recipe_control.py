"""The cart and its pole: physics, optimization in parallel as step by step, 100,000 steps, and a swing-up."""

import math

import pytest
import torch
from typer.testing import CliRunner

import lds_iter as li
from recipes.control.__main__ import app, played
from recipes.control.cart_pole import GRAVITY, HALF_LENGTH, ClosedLoop, OpenLoop
from recipes.control.optimize import hold, swing_up


def test_small_swings_have_the_frequency_of_the_physics():
    # a pole on a cart that is free to move: w^2 = g / (l (4/3 - m/(m+M))), hanging
    start = torch.tensor([0, math.pi + 0.01, 0, 0], dtype=torch.float64)
    angle = li.sequential(OpenLoop(1e-3), start, torch.zeros(2000, dtype=torch.float64))[:, 1] - math.pi
    crossings = ((angle[:-1] > 0) & (angle[1:] <= 0)).nonzero().flatten()
    period = 2 * math.pi / math.sqrt(GRAVITY / (HALF_LENGTH * (4 / 3 - 0.1 / 1.1)))
    # crossings are counted in steps of 1e-3, and the swing-up is one of small angles
    assert float(crossings[1] - crossings[0]) * 1e-3 == pytest.approx(period, abs=3e-3)


@pytest.mark.parametrize("optimize", [swing_up, hold])
def test_improvements_are_those_of_the_loop(optimize):
    ours = list(optimize(4, 60, 0.01))
    loop = list(optimize(4, 60, 0.01, parallel=False))
    assert [float(one.cost) for one in ours] == pytest.approx([float(one.cost) for one in loop], rel=1e-7)
    # states are solved to 1e-9, and Adam divides by the size of a gradient
    torch.testing.assert_close(ours[-1].controls, loop[-1].controls, rtol=0, atol=1e-6)
    assert all(0 < one.iterations < 20 for one in ours)


def test_a_gradient_through_100_000_steps():
    (found,) = hold(1, 100_000, 0.01)
    assert found.iterations <= 6  # measured 4: the closed loop contracts
    assert float(found.states[:, 1].abs().max()) < 0.2  # it holds: the start is 0.1 rad off
    # torch draws normal numbers in groups of 16, so these pushes begin the same
    short = list(hold(1, 1_600, 0.01, parallel=False))
    torch.testing.assert_close(found.states[:1_600], short[0].states, rtol=0, atol=1e-7)


def test_the_gradient_of_the_gains_is_that_of_finite_differences():
    pushes = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s0 = torch.tensor([0, 0.1, 0, 0], dtype=torch.float64)

    def cost(gains):
        return li.solve(ClosedLoop(gains, 0.01), s0, pushes, rtol=1e-12, atol=1e-12).states.square().mean()

    gains = torch.tensor([-0.1, -4, -0.2, -0.8], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost(gains), gains)
    with torch.no_grad():
        for place, unit in enumerate(torch.eye(4, dtype=torch.float64) * 1e-5):
            slope = (cost(gains + unit) - cost(gains - unit)) / 2e-5
            assert float(gradient[place]) == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.slow
def test_the_pole_swings_up_and_stays():
    forces, gains = list(swing_up(300, 300, 0.01))[-1].controls, list(hold(20, 5_000, 0.01))[-1].controls
    states, used = played(forces, gains, 500)
    assert float(states[299:, 1].abs().max()) < 0.5
    assert float(states[-250:, 1].abs().max()) < 0.1
    assert float(used.abs().max()) <= 10


def test_command_line(tmp_path):
    arguments = ["--length", "20", "--times", "2", "--hold", "30", "--hold-times", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "degrees from upright" in " ".join(result.output.split())
    assert (tmp_path / "control.svg").stat().st_size > 1000
