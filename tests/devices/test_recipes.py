"""Recipes compute on the device that `--device` names: without a GPU, on one that is pretended.

What each recipe computes is run at its smallest size on the CPU, on the CPU while torch's default device is `meta`, and
on a pretended device, where tensors of the CPU may not meet those of the device.
"""

import importlib
import re
import warnings
from pathlib import Path

import pytest
import torch
from pretended import AWAY, pretended
from recipe_cores import COMPUTE
from typer.testing import CliRunner

import recipes
from recipes.devices import CPU

FOLDER = Path(recipes.__path__[0])
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/__main__.py"))


def numbers(compute, device):
    """What a recipe computes, on the CPU."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, on a module without a trainer
        return [float(found) if isinstance(found, float | int) else found.detach().cpu() for found in compute(device)]


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        # solves stop at residuals of 1e-5 to 1e-4, and different kernels may stop at different ones
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


@pytest.fixture
def away(monkeypatch):
    """While it is entered, the pretended device is there, and never busy."""
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
    return pretended()


LONG = {"cells", "gru", "optimizer", "predictability", "recurrent_depth", "teacher_forcing"}
"""Those that take seconds there."""


@pytest.mark.parametrize(
    "compute", [pytest.param(one, marks=pytest.mark.slow if one.__name__ in LONG else ()) for one in COMPUTE]
)
def test_a_recipe_computes_on_its_device(compute, away):
    expected = numbers(compute, CPU)
    with away:
        assert_same(numbers(compute, AWAY), expected)


@pytest.mark.parametrize("compute", COMPUTE)
def test_a_recipe_creates_nothing_on_the_default_device(compute):
    with torch.device("meta"):
        assert numbers(compute, CPU)


def test_tensors_of_two_devices_do_not_meet(away):
    """So the tests above can fail."""
    with away:
        x = torch.ones(3, device=AWAY)
        assert (x + 1).device.type == AWAY.type
        assert (x * torch.ones((), device="cpu")).tolist() == [1, 1, 1]
        with pytest.raises(RuntimeError, match="tensors on the CPU beside"):
            x + torch.ones(3, device="cpu")
        with pytest.raises(RuntimeError, match="tensors on the CPU beside"):
            torch.ones(3, device="cpu")[x.long()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", ["tpu", "meta"])
def test_every_recipe_takes_a_device_and_answers_in_a_line_where_there_is_none(name, device, tmp_path):
    app = importlib.import_module(f"recipes.{name}.__main__").app
    done = CliRunner(env={"COLUMNS": "1000"}).invoke(app, ["--device", device, "--out", str(tmp_path)])
    assert done.exit_code == 2, done.output
    said = " ".join(done.output.split())
    assert re.search(rf"--device.*{device}", said), said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())
