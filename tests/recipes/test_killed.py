"""A training that the system ends at once, at any moment, is resumed to the same result to the last bit."""

import multiprocessing
import os
import signal
import time
from importlib import metadata

import pytest
import torch

INSTALLED = {distribution.name.lower().replace("_", "-") for distribution in metadata.distributions()}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "bokeh-sampledata" not in INSTALLED, reason="needs: pip install --no-deps -r requirements-assets.txt"
    ),
]
STEPS = 12
MOMENTS = [1, 2, 3, 5, 6, 4]
"""A run is killed when its folder of checkpoints has changed so often: while a file is made, written, renamed."""


def trained(folder, device="cpu"):
    from recipes.gru.glucose import load_glucose
    from recipes.gru.solvers import SOLVERS, Options
    from recipes.gru.training import Limits, Setup, network, train

    torch.set_num_threads(1)
    setup = Setup(length=120, crops=4, width=4, layers=1)
    series = load_glucose(setup.length, setup.crops)
    model = network(series, SOLVERS["quasi"], setup, Options())
    train(model, series, setup, Limits(9, STEPS, device), folder=folder, callbacks=[])


def looked_at(folder):
    """All that a change of a file would change."""
    try:
        files = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    except FileNotFoundError:  # no folder yet, or a file that has gone since
        return ()
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files))


def killed(folder, changes):
    """Begin or resume a run and kill it at a moment; whether it was alive then."""
    child = multiprocessing.get_context("fork").Process(target=trained, args=(folder,))
    seen = looked_at(folder / "checkpoints")
    child.start()
    while changes and child.is_alive():
        now = looked_at(folder / "checkpoints")
        changes -= now != seen
        seen = now
        time.sleep(0)
    child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)  # another code: it could not be resumed
    return child.exitcode != 0


@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_killed_at_any_moment_and_resumed(tmp_path):
    from recipes.gru.report import read_run
    from recipes.gru.training import last_checkpoint

    trained(tmp_path / "straight")
    moments = [changes for changes in MOMENTS if killed(tmp_path / "cut", changes)]
    assert len(moments) >= 3  # or it had ended before: nothing was tried
    trained(tmp_path / "cut")
    straight, resumed = (
        torch.load(last_checkpoint(tmp_path / name), weights_only=True) for name in ("straight", "cut")
    )
    assert straight["global_step"] == resumed["global_step"] == STEPS
    assert all(torch.equal(straight["state_dict"][name], weight) for name, weight in resumed["state_dict"].items())
    straight, resumed = (
        {number: step.loss for number, step in read_run("", tmp_path / name).steps.items()}
        for name in ("straight", "cut")
    )
    assert resumed.items() <= straight.items()
    assert len(resumed) >= STEPS - len(moments)  # the log gets the line of a step after its checkpoint is written
