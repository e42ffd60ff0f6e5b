"""The recipe `gru`: what it learns from, its solvers against torch, resuming, the command line."""

import csv
import gzip
import importlib.util
import os
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import Callback
from typer.testing import CliRunner

import lds_iter as li
from bench.common.pages import between
from bench.epoch import measure as epoch
from bench.epoch.__main__ import PAGE as EPOCH_PAGE
from bench.epoch.page import COMMAND, section
from recipes.gru.__main__ import app
from recipes.gru.archive import load_eigenworms, load_ts, read_ts
from recipes.gru.data import InOrder, Shuffled
from recipes.gru.glucose import load_glucose
from recipes.gru.report import comparison, read_run
from recipes.gru.solvers import SOLVERS, Options
from recipes.gru.tasks import Classification, DataUnavailable
from recipes.gru.training import Limits, Setup, SetupChanged, last_checkpoint, network, train

ROOT = Path(__file__).parents[2]
INSTALLED = {distribution.name.lower().replace("_", "-") for distribution in metadata.distributions()}
pytestmark = [
    pytest.mark.skipif(
        "bokeh-sampledata" not in INSTALLED, reason="needs: pip install --no-deps -r requirements-assets.txt"
    ),
    # Lightning remarks on this machine, not on the recipe: a GPU it was told not to use
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]
SMALL = Setup(length=300, crops=4, width=8, layers=2)


def run(folder, setup=SMALL, solver="quasi", limits=None, options=None, callbacks=(), series=None):
    series = series or load_glucose(setup.length, setup.crops)
    model = network(series, SOLVERS[solver], setup, options or Options())
    train(model, series, setup, limits or Limits(3, device="cpu"), folder=folder, callbacks=list(callbacks))
    return model


def test_glucose_is_read_right():
    series, (current, glucose) = load_glucose(2000, 5), _raw()
    x, y = series.held_out[0]
    assert x.shape == (2000, 5)
    assert y.shape == (2000, 1)
    assert (current[-1], glucose[-1]) == ("30.8", 165)
    # Standardised by the rows before the held-out ones, the score is in mg/dl again.
    mean, spread = glucose[:-2000].mean(), glucose[:-2000].std()
    np.testing.assert_allclose(y[:, 0], (glucose[-2000:] - mean) / spread, rtol=1e-5, atol=1e-6)  # float32
    assert series.task.score(1.0) == pytest.approx(spread)
    expected = np.sqrt(((glucose[-2000:] - mean) ** 2).mean())
    assert series.baselines["the mean"] == pytest.approx(expected)
    assert series.baselines["linear in all inputs"] < series.baselines["linear in the current"] < expected
    # Where the sensor gave no current, the inputs say so; they are finite everywhere.
    assert torch.equal(x[:, 0] == 0, torch.from_numpy(current[-2000:] == "nil"))
    assert all(bool(x.isfinite().all()) for x, _ in (*series.train, *series.held_out))


def test_the_reference_is_the_past():
    """Glucose at the reference is given in that row and held until the next, twelve hours later."""
    (x, y), *_ = load_glucose(2000, 1).train
    assert torch.equal(x[:144, 3], y[0].expand(144))
    changes = torch.nonzero(x[:, 3].diff()).flatten() + 1
    assert set((changes % 144).tolist()) == {0}
    assert torch.equal(x[changes, 3], y[changes, 0])
    assert torch.equal(x[changes, 2], x[changes, 1])


def _raw():
    (path,) = [file.locate() for file in metadata.files("bokeh-sampledata") if file.name == "CGM.csv.gz"]
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    return np.array([row["isig"] for row in rows]), np.array([float(row["glucose"]) for row in rows])


def test_nothing_held_out_is_learnt_from():
    """The last training stretch ends where the held-out rows begin."""
    last = load_glucose(2000, 5).train[-1][1]
    end, raw = 52_281 - 2000, _raw()[1]
    spread, mean = raw[:end].std(), raw[:end].mean()
    np.testing.assert_allclose(last[:, 0] * spread + mean, raw[end - 2000 : end], rtol=1e-4)  # float32, back and forth


def test_every_epoch_sees_every_sample_in_its_own_order():
    samples = load_glucose(100, 10).train
    taken = 0
    loader = Shuffled(samples, 4, 0, lambda: taken)
    orders = []
    for _ in range(2):
        names = torch.cat([names for names, x, y in loader])
        assert sorted(names.tolist()) == list(range(10))
        orders.append(names.tolist())
        taken += len(loader)
    assert orders[0] != orders[1]
    taken = 1  # in the middle of the first epoch
    assert torch.cat([names for names, x, y in loader]).tolist() == orders[0][4:]
    (names, x, _), *_ = InOrder(samples, 3)
    assert names.tolist() == [-1, -2, -3]
    assert torch.equal(x[1], samples[1][0])


def test_losses_agree_step_by_step_with_torch(tmp_path):
    """Two layers, D = 8, T = 2,000, five steps."""
    setup = Setup(length=2000, crops=8, width=8, layers=2)
    series = load_glucose(setup.length, setup.crops)
    for name in "quasi", "newton", "torch":
        run(tmp_path / name, setup, name, Limits(1, 5, "cpu"), series=series)
    torch_run = read_run("torch", tmp_path / "torch")
    losses = [step.loss for step in torch_run.steps.values()]
    assert len(losses) == 5
    assert np.ptp(losses) > 0.1  # the batches differ, so that equal losses mean equal batches
    for name in "quasi", "newton":
        ours = read_run(name, tmp_path / name)
        _, apart = comparison(series.task, ours, torch_run)
        # A residual of up to 1e-5 in every state makes a loss of about 1 differ by as much, and most of it cancels in
        # the mean over 2,000 steps. Seen: 2e-6 with quasi; 6e-8 with Newton, whose last iteration goes further.
        assert apart < 1e-5
        assert all(len(step.iterations) == 2 and 0 < max(step.iterations) < 30 for step in ours.steps.values())
        assert all(step.residual <= 2e-5 and not step.fell_back for step in ours.steps.values())
    assert all(step.iterations == () for step in torch_run.steps.values())


def test_tighter_tolerance_comes_nearer(tmp_path):
    """What parts the losses is the tolerance of the solve, not the recipe."""
    for tolerance in 1e-3, 1e-7:
        run(tmp_path / str(tolerance), limits=Limits(1, 3, "cpu"), options=Options(tolerance))
    run(tmp_path / "torch", solver="torch", limits=Limits(1, 3, "cpu"))
    theirs = read_run("torch", tmp_path / "torch")
    task = load_glucose(300, 1).task
    coarse, fine = (comparison(task, read_run(str(t), tmp_path / str(t)), theirs)[1] for t in (1e-3, 1e-7))
    assert fine < 2e-6  # a few units of float32's rounding, 1.2e-7, in each of three steps
    assert fine < coarse


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_solver_gives_the_output_of_torch(solver):
    """In a short window, so that those that would not converge on their own are carried by the frontier."""
    series = load_glucose(60, 2)
    x = series.held_out[0][0].unsqueeze(0)
    setup = Setup(length=60, crops=2, width=8, layers=2)
    ours = network(series, SOLVERS[solver], setup, Options(window=20, tolerance=1e-6))
    theirs = network(series, SOLVERS["torch"], setup, Options())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert (type(ours.gru) is torch.nn.GRU) == (solver == "torch")
    with torch.no_grad():
        assert (ours(x) - theirs(x)).abs().max() < 1e-4  # residuals of 2e-6, two layers, no expansion at initialisation


def test_a_layer_that_falls_back_is_logged(tmp_path):
    """Picard, without a window, cannot solve 300 steps within its budget: torch's kernel does, and the log says so."""
    with pytest.warns(li.PerformanceWarning, match="did not converge"):
        run(tmp_path / "picard", solver="picard", limits=Limits(1, 1, "cpu"))
    run(tmp_path / "torch", solver="torch", limits=Limits(1, 1, "cpu"))
    (ours,), (theirs,) = (read_run(name, tmp_path / name).steps.values() for name in ("picard", "torch"))
    assert ours.fell_back
    assert ours.iterations == (100,)
    assert ours.loss == theirs.loss


class PowerCut(Callback):
    """The lights go out before step number `step`."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise InterruptedError("the lights went out")


@pytest.mark.parametrize("cut", [3, 4])
def test_resumed_is_the_same_to_the_last_bit(tmp_path, cut):
    """Six steps of epochs of four; cut in the middle of an epoch, and at its end before it was validated."""
    limits = Limits(2, 6, "cpu")
    run(tmp_path / "straight", limits=limits)
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", limits=limits, callbacks=[PowerCut(cut)])
    assert len(read_run("cut", tmp_path / "cut").steps) == cut
    run(tmp_path / "cut", limits=limits)
    straight, resumed = (torch.load(last_checkpoint(tmp_path / name)) for name in ("straight", "cut"))
    assert straight["global_step"] == resumed["global_step"] == 6
    assert all(torch.equal(straight["state_dict"][name], weight) for name, weight in resumed["state_dict"].items())
    assert _moments(straight) == _moments(resumed)
    a, b = (read_run(name, tmp_path / name) for name in ("straight", "cut"))
    assert [step.loss for step in a.steps.values()] == [step.loss for step in b.steps.values()]
    assert [step.iterations for step in a.steps.values()] == [step.iterations for step in b.steps.values()]
    assert a.held_out == b.held_out
    assert len(a.steps) == 6
    seconds = [step.seconds for step in b.steps.values()]
    assert seconds == sorted(seconds)  # the clock goes on where it stopped


def _moments(checkpoint):
    """Adam's, as plain numbers."""
    (state,) = checkpoint["optimizer_states"]
    return {(p, kind): value.tolist() for p, kinds in state["state"].items() for kind, value in kinds.items()}


def test_another_solver_can_go_on(tmp_path):
    """A run may change its solver, its tolerance and its limits, but not what decides the result."""
    run(tmp_path, limits=Limits(1, device="cpu"))
    run(tmp_path, solver="torch", limits=Limits(2, device="cpu"))
    assert len(read_run("both", tmp_path).steps) == 8
    with pytest.raises(SetupChanged, match="batch = 1, not 2"):
        run(tmp_path, Setup(length=300, crops=4, width=8, layers=2, batch=2), limits=Limits(3, device="cpu"))


def test_the_loss_falls_and_the_best_is_kept(tmp_path):
    setup = Setup(length=300, crops=16, width=8, layers=1, batch=4, learning_rate=0.02)
    run(tmp_path, setup, limits=Limits(8, device="cpu"))
    held_out = [loss for loss, _ in read_run("quasi", tmp_path).held_out.values()]
    assert len(held_out) == 8
    assert min(held_out) < 0.6 * held_out[0]
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt")
    assert best["epoch"] == int(np.argmin(held_out))


def test_warm_start_saves_iterations(tmp_path):
    """The second time a sample is seen, its states are known but for what the step changed."""
    for name, memory in ("cold", None), ("warm", li.nn.WarmStart()):
        run(tmp_path / name, limits=Limits(2, device="cpu"), options=Options(warm_start=memory))
    cold, warm = (list(read_run(name, tmp_path / name).steps.values()) for name in ("cold", "warm"))
    assert [step.iterations for step in cold[:4]] == [step.iterations for step in warm[:4]]
    assert sum(sum(step.iterations) for step in warm[4:]) < sum(sum(step.iterations) for step in cold[4:])


TS = """# a comment
@problemName Steps
@timeStamps false
@univariate false
@classLabel true up down
@data
"""


def _write_ts(path, cases, length=40):
    rng = np.random.default_rng(0)
    lines = []
    for number in range(cases):
        label = ("up", "down")[number % 2]
        ramp = np.linspace(0, 1 if label == "up" else -1, length) + 0.1 * rng.standard_normal((2, length))
        lines.append(":".join(",".join(f"{value:.6f}" for value in channel) for channel in ramp) + f":{label}")
    path.write_text(TS + "\n".join(lines) + "\n")


def test_a_local_archive_file_is_learnt(tmp_path):
    for name, cases in ("Steps_TRAIN.ts", 12), ("Steps_TEST.ts", 6):
        _write_ts(tmp_path / name, cases)
    series = load_ts(tmp_path / "Steps_TRAIN.ts", 40, 0)
    assert (len(series.train), len(series.held_out), series.features, series.outputs) == (12, 6, 2, 2)
    assert isinstance(series.task, Classification)
    assert series.baselines == {"the commonest class": 0.5}
    joined = torch.cat([x for x, _ in series.train])
    torch.testing.assert_close(joined.mean(0), torch.zeros(2), rtol=0, atol=1e-5)  # float32
    torch.testing.assert_close(joined.std(0, correction=0), torch.ones(2))
    setup = Setup(data="ts", length=40, width=8, layers=1, batch=4, learning_rate=0.02)
    run(tmp_path / "out", setup, limits=Limits(10, device="cpu"), series=series)
    (*_, (_, accuracy)) = read_run("quasi", tmp_path / "out").held_out.values()
    assert accuracy == 1.0
    (tmp_path / "Steps_TEST.ts").unlink()
    alone = load_ts(tmp_path / "Steps_TRAIN.ts", 40, 0)
    assert (len(alone.train), len(alone.held_out)) == (9, 3)


def test_archive_files_that_cannot_be(tmp_path):
    with pytest.raises(DataUnavailable, match="takes glucose, eigenworms, or the path"):
        read_ts(tmp_path / "nothing.ts")
    path = tmp_path / "stamped.ts"
    path.write_text(TS.replace("@timeStamps false", "@timeStamps true"))
    with pytest.raises(DataUnavailable, match="no time stamps"):
        read_ts(path)
    path.write_text(TS + "1,2,three:up\n")
    with pytest.raises(DataUnavailable, match="cannot be read as numbers"):
        read_ts(path)
    _write_ts(path, 4)
    with pytest.raises(ValueError, match="between 2 and 40"):
        load_ts(path, 17_984, 0)


@pytest.mark.skipif(importlib.util.find_spec("aeon") is not None, reason="aeon is installed")
def test_eigenworms_without_aeon_says_what_to_type(tmp_path):
    with pytest.raises(DataUnavailable, match="pip install aeon"):
        load_eigenworms(17_984, tmp_path)


def test_eigenworms_by_aeon(tmp_path, monkeypatch):
    """What aeon 1.6 returns: arrays `(cases, channels, T)`, and labels as strings."""

    def load_classification(name, split=None, extract_path=None):
        assert (name, extract_path) == ("EigenWorms", str(tmp_path))
        rng = np.random.default_rng(len(split))
        return rng.standard_normal((6, 6, 50)), np.array(["1", "2", "3", "4", "5", "1"])

    module = types.ModuleType("aeon.datasets")
    module.load_classification = load_classification
    monkeypatch.setitem(sys.modules, "aeon", types.ModuleType("aeon"))
    monkeypatch.setitem(sys.modules, "aeon.datasets", module)
    series = load_eigenworms(50, tmp_path)
    assert (len(series.train), len(series.held_out), series.features, series.outputs) == (6, 6, 6, 5)
    assert series.train[0][0].shape == (50, 6)
    assert [int(label) for _, label in series.held_out] == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("length", [1, 26_141])
def test_lengths_that_cannot_be(length):
    with pytest.raises(ValueError, match="between 2 and 26140"):
        load_glucose(length, 2)


def test_command_line(tmp_path):
    """A process of its own, as a user runs it, from a folder of its own; then again, to go on."""
    small = ["--length", "200", "--width", "4", "--layers", "2", "--crops", "2", "--device", "cpu", "--threads", "1"]
    command = [sys.executable, "-m", "recipes.gru", "--compare", "quasi", "torch", "--epochs", "2", *small]
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1]).read_text().startswith("<?xml")
    for word in "glucose sensor", "regression", "RMSE in mg/dl", "linear in all inputs", "relative difference":
        assert word in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--solver", "newtn"], "must be one of quasi, newton"),
        (["--compare", "torch", "torch"], "two different solvers"),
        (["--device", "gpu"], "auto, cpu, cuda"),
        (["--data", "worms.ts"], "There is no file worms.ts"),
        (["--length", "40000"], "between 2 and 26140"),
        (["--resume"], "holds no run to resume"),
    ],
)
def test_command_line_refuses(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert says in done.output


def test_command_line_does_not_overwrite_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    run(tmp_path / "quasi", limits=Limits(1, 1, "cpu"))
    done = CliRunner().invoke(app, ["--out", str(tmp_path)])
    assert done.exit_code != 0
    assert "Go on with it: --resume" in done.output


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux")
def test_bench_of_an_epoch():
    """At a small size: the figures that its page is made of, and the gate."""
    setup = Setup(length=200, crops=3, width=4, layers=2)
    epochs = {name: [epoch.measure(name, setup)] for name in ("torch", "quasi")}
    results = epoch.compare("quasi", setup, epochs)
    assert results["steps"] == 3
    assert results["ratio"] == epochs["torch"][0]["seconds"] / epochs["quasi"][0]["seconds"]
    assert epochs["quasi"][0]["seconds"] > epochs["quasi"][0]["seconds_in_steps"] > 0
    assert results["ours"]["peak_mib"] >= results["ours"]["before_mib"] > 0
    assert len(results["iterations"]) == 2
    assert f"**{results['ratio']:.1f}** times faster" in section(results)
    text = (ROOT / EPOCH_PAGE).read_text()
    assert section(results).strip() in between(text, COMMAND, section(results))  # it has the marks
    epochs["quasi"][0]["losses"][-1] *= 1.01
    with pytest.raises(AssertionError, match="the losses differ"):
        epoch.compare("quasi", setup, epochs)
