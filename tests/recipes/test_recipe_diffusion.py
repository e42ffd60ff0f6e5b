"""The program `diffusion` with models of any shape: rectangles, several channels, a variance, classes of their own."""

import warnings

import pytest
import torch
from typer.testing import CliRunner

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

from recipes.diffusion.__main__ import app  # noqa: E402


def model(folder, *, classes=None, told=False, clipped=True):
    """A tiny random network of rectangular images in colour, as a folder."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=(8, 16), in_channels=3, out_channels=6 if told else 3, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1, num_class_embeds=classes,
    )  # fmt: skip
    unet.save_pretrained(folder / "unet")
    kind = "learned_range" if told else "fixed_small"
    diffusers.DDPMScheduler(variance_type=kind, clip_sample=clipped).save_pretrained(folder / "scheduler")
    return str(folder)


def run(folder, *options):
    arguments = ["--model", folder, "--samples", "2", "--steps", "4", "--out", str(folder) + "/out", *options]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of diffusers, on what it will remove
        return CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, arguments)


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize("told", [False, True])
def test_rectangles_in_colour_with_and_without_a_variance(scheduler, told, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    done = run(model(tmp_path, told=told), "--scheduler", scheduler)
    assert done.exit_code == 0, done.output
    assert "rounds (sequential calls of the model)" in done.output
    assert (tmp_path / "out" / "diffusion.svg").read_text().startswith("<?xml")


def test_guidance_wants_the_null_class_of_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    folder = model(tmp_path, classes=5)
    missing = run(folder, "--guidance", "2")
    assert missing.exit_code == 2
    assert "--null-class, often 4" in " ".join(missing.output.split())
    wrong = run(folder, "--guidance", "2", "--null-class", "10")
    assert wrong.exit_code == 2
    assert "one of the network's 5 labels" in " ".join(wrong.output.split())
    assert run(folder, "--guidance", "2", "--null-class", "4").exit_code == 0


def test_what_is_no_model_is_answered_in_a_line(tmp_path):
    done = run(str(tmp_path / "nowhere"))
    assert done.exit_code == 2
    assert "No folder" in done.output
    assert "Traceback" not in done.output
