"""The recipe of Markov chains: ArviZ's figures of both chains, and the command line."""

import types

import pytest
import torch
import typer
from typer.testing import CliRunner

import lds_iter as li
import recipes.mcmc.__main__ as command
from recipes.mcmc.problems import breast_cancer, logistic_regression
from recipes.mcmc.report import as_arviz, summary

pytest.importorskip("arviz", reason="pip install 'lds-iter[mcmc]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # ArviZ's advice on its coming versions


def test_arviz_finds_the_same_in_both_chains():
    torch.manual_seed(0)
    x, y = breast_cancer()
    logdensity = logistic_regression(x[:, [0, -1]], y)
    sampler, start = li.mcmc.warm_up(li.mcmc.mala(logdensity, 0.01), torch.zeros(2).double(), 150, chains=2)
    draws = li.mcmc.sample(sampler, start, 200)
    replay = draws.replay()
    assert replay.exact
    ours, theirs = summary(draws.posterior())["x"], summary(li.mcmc.named(replay.positions))["x"]
    # positions agree to 1e-9 and repeat where they do, so that ranks are the same
    assert ours["mean"] == pytest.approx(theirs["mean"], abs=1e-8)
    assert ours["ess"] == pytest.approx(theirs["ess"], rel=1e-5)
    # R-hat ranks distances from the median too, and the two draws nearest to it are equally far up to rounding
    assert ours["rhat"] == pytest.approx(theirs["rhat"], rel=1e-4)
    data = as_arviz(draws.posterior(), draws.sample_stats())
    assert dict(data.posterior.sizes)["chain"] == 2
    assert dict(data.posterior.sizes)["draw"] == 200
    assert set(data.sample_stats) == {"acceptance_rate", "diverging", "lp"}


@pytest.mark.parametrize(
    ("version", "call"),
    [
        ("0.23.4", ((), {"posterior": {"x": 3.0}, "sample_stats": {"lp": 1.0}})),
        ("1.2.0", (({"posterior": {"x": 3.0}, "sample_stats": {"lp": 1.0}},), {})),
    ],
)
def test_both_forms_of_from_dict(version, call, monkeypatch):
    """Groups by name before ArviZ 1.0, one dict of groups from then on; neither takes the other's form."""
    calls = []
    double = types.SimpleNamespace(__version__=version, from_dict=lambda *args, **named: calls.append((args, named)))
    monkeypatch.setattr("recipes.mcmc.report.load_arviz", lambda: double)
    as_arviz({"x": torch.tensor(3.0)}, {"lp": torch.tensor(1.0)})
    assert calls == [call]


@pytest.mark.parametrize("model", ["cancer", "schools"])
def test_command_line(model, tmp_path):
    app = typer.Typer()
    app.command()(command.main)
    options = ["--model", model, "--features", "1", "--samples", "20", "--warmup", "30", "--chains", "2"]
    result = CliRunner().invoke(app, [*options, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "decisions that differ: 0" in " ".join(result.output.split())
    assert (tmp_path / "trace.png").stat().st_size > 1000
    assert (tmp_path / "rank.png").stat().st_size > 1000


def test_an_unknown_model_is_refused():
    app = typer.Typer()
    app.command()(command.main)
    assert CliRunner().invoke(app, ["--model", "nothing"]).exit_code != 0
