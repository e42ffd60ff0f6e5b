"""The command line: one step, clipping under guidance, and the models that it is not for."""

import json
import warnings

import pytest

pytest.importorskip("diffusers").utils.logging.set_verbosity_error()

from typer.testing import CliRunner  # noqa: E402

from recipes.diffusion.__main__ import app  # noqa: E402


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    runner = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})

    def invoke(*options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of diffusers, on what it will remove
            return runner.invoke(app, ["--samples", "1", "--out", str(tmp_path), *options])

    return invoke


def test_clipping_is_turned_off_under_guidance_and_said_so(run):
    guided = run("--steps", "3", "--guidance", "3")
    assert guided.exit_code == 0, guided.output
    assert "Under guidance the scheduler does not clip here" in guided.output
    assert "does not clip here" not in run("--steps", "3", "--guidance", "3", "--clip").output


def test_one_step_is_a_loop_too(run):
    done = run("--steps", "1", "--scheduler", "lcm")
    assert done.exit_code == 0, done.output
    assert "step by step: 1 rounds" in done.output


def test_a_model_of_texts_is_answered_with_the_call_for_pipelines(run, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    done = run("--model", str(tmp_path))
    assert done.exit_code == 2
    assert "lds_iter.diffusion.parallelize(pipe)" in " ".join(done.output.split())
    assert "Traceback" not in done.output
