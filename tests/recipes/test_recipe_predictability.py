"""The recipe `predictability`: its systems against what is known of them, the paper's counts, and the command line."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import lds_iter as li
from recipes.predictability.__main__ import app
from recipes.predictability.flows import FLOWS, PUBLISHED, guess, observer, rollout, system
from recipes.predictability.lorenz96 import lorenz96
from recipes.predictability.measure import tolerance, wells

ROOT = Path(__file__).parents[2]
DIVERGENCE = {
    "ABC": 0.0,
    "Lorenz": -(10 + 1 + 8 / 3),
    "SprottB": -1.0,
    "Thomas": -3 * 1.85,
    "Vallis El Nino": -5.0,
}
"""Of the velocity, where it is the same everywhere."""


@pytest.mark.parametrize("name", DIVERGENCE)
def test_divergence_of_the_flows(name):
    f, s0, inputs = system(FLOWS[name], 20, 1e-6)
    (lin,) = li.diagnostics.linearizations(li.solve(f, s0, inputs))
    # det(I + dt M) = 1 + dt tr M + O(dt^2), with dt = 1e-6 and entries of M up to about 100
    divergence = (lin.jacobian().det() - 1) / 1e-6
    torch.testing.assert_close(divergence, torch.full_like(divergence, DIVERGENCE[name]), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("Lorenz", (72**0.5, 72**0.5, 27.0)),
        ("SprottB", (1.0, 1.0, 0.0)),
        ("Thomas", (0.0, 0.0, 0.0)),
        ("Chua", (0.0, 0.0, 0.0)),
        ("Vallis El Nino", (0.0, 0.0, 1.0)),
    ],
)
def test_fixed_points_of_the_flows(name, point):
    f, _, inputs = system(FLOWS[name], 1, 1.0)
    s = torch.tensor([point], dtype=torch.float64)
    torch.testing.assert_close(f(s, inputs), s, rtol=0, atol=1e-12)  # rounding of sqrt(72) times itself


def test_the_ring_conserves_energy_but_for_friction_and_forcing():
    """`x . dx/dt = -|x|^2 + F sum x`: the products cancel."""
    f, s0, inputs = lorenz96(5.0, 7, 3)
    velocity = (f(s0[None], inputs[:1])[0] - s0) / 0.01
    torch.testing.assert_close(s0 @ velocity, -(s0 @ s0) + 5 * s0.sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_observers_forget_and_their_flows_are_solved_by_rollout(name):
    length = 3000
    truth = rollout(FLOWS[name], length, 0.01)
    # float64 sin and cos of two libraries may differ in the last place; a hundred steps hardly amplify that.
    head = li.sequential(*system(FLOWS[name], 100, 0.01))
    torch.testing.assert_close(head, truth[1:101], rtol=0, atol=1e-11)
    problem = observer(FLOWS[name], truth, 0.01)
    solution = li.solve(*problem, guess=guess(length), rtol=0, atol=tolerance(3))
    assert solution.iterations <= 14  # of the paper's counts at T = 30,000 the largest is Chua's 14
    found = li.diagnostics.lyapunov(*problem, solution.states, prefix=None, discard=1000)
    assert found.largest < 0
    # It follows the flow: after 30 units of time the distance has shrunk, by the slowest of them (Rossler) 1/10th.
    distance = (solution.states - truth[1:]).norm(dim=-1)
    assert distance[-1] < distance[0] / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_exponents_and_iterations_are_the_published_ones(name):
    """The paper's Table 1, T = 30,000."""
    paper, length, dt = PUBLISHED[name], 30_000, 0.01
    truth = rollout(FLOWS[name], length, dt)
    of_flow = li.diagnostics.lyapunov(*system(FLOWS[name], length, dt), truth[1:], prefix=None)
    problem = observer(FLOWS[name], truth, dt)
    solution = li.solve(*problem, guess=guess(length), rtol=0, atol=tolerance(3))
    of_observer = li.diagnostics.lyapunov(*problem, solution.states, prefix=None)
    # Half a unit of the paper's last digit. Which direction either estimator starts from is worth a factor of up to a
    # hundred (a coefficient of Vallis's flow is 102) over 300 units of time. And chaos makes any two programs follow
    # different trajectories of the same flow, to the standard error.
    room = 0.005 + math.log(100) / (length * dt)
    for found, published in (of_flow, paper.flow), (of_observer, paper.observer):
        assert abs(float(found.largest) / dt - published) <= room + float(found.error) / dt
    # The paper counts the iteration that finds the rule fulfilled, too.
    assert int(solution.iterations) + 1 == paper.observer_iterations


def test_wells_are_predictable_on_the_whole():
    found = wells(2, 500)
    assert (found.exponents[-1] < 0).all()
    assert found.off < 1e-3  # residuals up to 1e-5, which the hill between the wells amplifies
    assert (found.counts[-1] <= found.iterations).all()


def test_an_unknown_flow_is_refused():
    done = CliRunner().invoke(app, ["--system", "Lorentz"])
    assert done.exit_code == 2
    assert "Lorenz" in done.output


def test_command_line(tmp_path):
    """A process of its own, as a user runs it, from a folder of its own, at sizes of seconds."""
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    sizes = "--width 4 --length 40 --gains 3 --seeds 1 --flow-length 60 --ring-width 4 --ring-length 20"
    command = [
        sys.executable,
        "-m",
        "recipes.predictability",
        *sizes.split(),
        "--system",
        "Chua",
        "--system",
        "ABC",
        "--wells-length",
        "60",
        "--wells-seeds",
        "2",
    ]
    done = subprocess.run(
        [*command, "--out", "pictures"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    pictures = [tmp_path / line for line in done.stdout.splitlines() if line.endswith(".svg")]
    assert len(pictures) == 3
    for picture in pictures:
        assert picture.read_text().startswith("<?xml")
    for word in "Mean-field RNN", "Vallis El Nino", "Chua, the flow", "ABC, the flow", "Lorenz-96", "two wells":
        assert word in done.stdout
