"""The recipe `gru` on several ranks: the losses of one process, also when resumed on another number of ranks."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recipes.gru.__main__ import app
from recipes.gru.glucose import load_glucose
from recipes.gru.solvers import SOLVERS, Options
from recipes.gru.training import Limits, Setup, network, train

ROOT = Path(__file__).parents[2]
SETUP = Setup(length=61, crops=4, width=6, layers=2, batch=2)
GIVEN = "--length 61 --crops 4 --width 6 --layers 2 --batch 2 --threads 1 --device cpu"
pytest.importorskip("bokeh_sampledata", reason="needs: pip install --no-deps -r requirements-assets.txt")


def on_ranks(count, shards, epochs, folder, *more):
    """The rows of `metrics.csv` that a run leaves, by torchrun or alone."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    options = [*GIVEN.split(), "--time-shards", str(shards), "--epochs", str(epochs), "--out", str(folder), *more]
    command = [sys.executable, *torchrun, "-m", "recipes.gru", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return rows_of(folder / "quasi-shared" / "metrics.csv")


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def numbers(rows, name):
    return [float(row[name]) for row in rows if row.get(name)]


@pytest.mark.slow
def test_ranks_train_as_one_process_and_another_number_of_ranks_goes_on(tmp_path):
    series = load_glucose(SETUP.length, SETUP.crops)
    alone = network(series, SOLVERS["quasi"], SETUP, Options())
    train(alone, series, SETUP, Limits(2, device="cpu"), folder=tmp_path / "alone", callbacks=[])
    wanted = rows_of(tmp_path / "alone" / "version_0" / "metrics.csv")

    found = on_ranks(2, 2, 1, tmp_path) + on_ranks(1, 1, 2, tmp_path, "--resume")
    assert [row["step"] for row in found] == ["1", "2", "3", "4"]
    for name in "loss", "held_out_loss":
        # Solves converge to 1e-5 in float32, and four steps of Adam carry that on.
        assert numbers(found, name) == pytest.approx(numbers(wanted, name), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--time-shards", "2"], "--time-shards 2 must divide the 1 process(es)"),
        (["--time-shards", "1", "--solver", "torch"], "--solver torch evaluates all time steps in one process"),
        (["--time-shards", "1", "--resume"], "holds no run to resume"),
        (["--time-shards", "1", "--compare", "quasi", "newton"], "leave --compare out"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_computed(tmp_path, options, words):
    result = CliRunner().invoke(app, [*options, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())
