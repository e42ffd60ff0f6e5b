"""Langevin dynamics: every method ends at the loop's states, the counts claimed, the density sampled, command line."""

import pytest
import torch
from typer.testing import CliRunner

import lds_iter as li
from bench.common.problems import mixture_langevin
from recipes.langevin.__main__ import app
from recipes.langevin.measure import TOLERANCE, counts, methods, two_well_density, two_wells


@pytest.mark.parametrize("name", methods(mixture_langevin(4, 2)))
def test_every_method_ends_at_the_states_of_the_loop(name):
    problem = mixture_langevin(8, 200, 1e-4)
    solution = li.solve(*problem, methods(problem)[name], rtol=0, atol=TOLERANCE)
    # residuals of 1e-6 add up over 200 steps, next to the identity
    torch.testing.assert_close(solution.states, li.sequential(*problem), rtol=0, atol=2e-4)


def test_one_probe_in_the_right_basis_is_newton():
    found = {count.method: count.iterations for count in counts(mixture_langevin(32, 300, 1e-4), 32, 1e-4)}
    assert found["one probe, rotated"] <= 2 < 10 < found["one probe"]  # measured 1 and 30
    assert found["Newton"] <= 2


def test_the_estimate_tells_the_error_that_the_residual_does_not():
    rows = list(counts(mixture_langevin(16, 400, 1e-5), 16, 1e-5))
    assert max(row.error for row in rows) > 5 * TOLERANCE
    for row in rows:
        assert row.error < 3 * row.estimate + 1e-5  # rounding of 400 steps in float32


def test_chains_sample_the_density():
    _, states = two_wells(300, 2)
    assert states.shape == (300, 2, 2)
    grid = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    density = two_well_density(grid)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-9)
    assert float(states[..., 0].abs().max()) < 6  # eight standard deviations from either well


def test_command_line(tmp_path):
    arguments = ["--widths", "4", "--steps", "1e-4", "--length", "50", "--wells-length", "60", "--chains", "2"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "one probe, rotated" in result.output
    assert (tmp_path / "langevin.svg").stat().st_size > 1000
    for wrong in ["--steps", "0"], ["--widths", "many"], ["--widths", "512"]:
        assert CliRunner().invoke(app, wrong).exit_code == 2
