"""The command lines of the recipes: a useful help, and wrong arguments answered at once, in a line, with code 2."""

import importlib
import re
import resource
from importlib import metadata
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import lds_iter as li

RECIPES = {
    "gru": "Train a stack of GRU layers",
    "pretrained": "Trained GRUs on real input",
    "recurrent_depth": "Depth and tokens",
    "diffusion": "",
    "predictability": "",
    "optimizer": "Train in parallel and step by step",
    "teacher_forcing": "run the network freely",
    "langevin": "Count iterations of every method",
    "control": "Swing up, hold",
    "mcmc": "",
    "cells": "",
    "neural_ode": "",
    "word_problem": "",
}

TOO_SMALL = r"(greater than or equal to|not in the range x>=)"
"""As newer and older versions of the command line's library say it."""

WRONG = [
    ("gru", ["--solver", "magic"], "--solver.*must be one of .*quasi.*, got magic"),
    ("gru", ["--compare", "quasi", "quasi"], "two different solvers"),
    ("gru", ["--device", "tpu"], "--device.*must be one of auto, cpu, cuda, got tpu"),
    ("gru", ["--resume", "--out", "nowhere"], "holds no run to resume"),
    ("gru", ["--epochs", "0"], TOO_SMALL),
    ("gru", ["--data", "missing.ts"], "There is no file missing.ts"),
    ("gru", ["--lenght", "4"], "No such option:? .?--lenght"),
    ("gru", ["--tolerance", "inf"], "must be a finite number"),
    ("gru", ["--tolerance", "nan"], "--tolerance"),
    ("diffusion", ["--tol", "inf"], "must be a finite number"),
    ("pretrained", ["--methods", "newton,magic"], "unknown: magic. Choose of newton"),
    ("pretrained", ["--methods", ","], "Choose of newton"),
    ("pretrained", ["--network", "bert"], "'bert' is not one of 'g2p', 'sleep', 'all'"),
    ("pretrained", ["--length", "1"], TOO_SMALL),
    ("recurrent_depth", ["--depths", "8,x"], "must be positive numbers with commas between, got '8,x'"),
    ("recurrent_depth", ["--depths", "0"], "must be positive numbers"),
    ("recurrent_depth", ["--flight", "2.5"], "must be positive numbers"),
    ("recurrent_depth", ["--prompt", ""], "at least one character"),
    ("recurrent_depth", ["--count", "0"], TOO_SMALL),
    ("optimizer", ["--optimizer", "lion"], "must be one of sgd, momentum, adam, got lion"),
    ("optimizer", ["--task", "images"], "must be one of tumours, irises, network, got images"),
    ("teacher_forcing", ["--length", "1"], TOO_SMALL),
    ("langevin", ["--widths", "512"], "must be at most 256, got 512"),
    ("langevin", ["--steps", "0"], "positive numbers with commas between"),
    ("control", ["--hold", "1"], TOO_SMALL),
    ("predictability", ["--length", "0"], TOO_SMALL),
    ("cells", ["--cell", "magic"], "--cell.*must be one of .*mgu.*, got magic"),
    ("cells", ["--length", "1"], TOO_SMALL),
    ("mcmc", ["--model", "magic"], "--model.*must be one of cancer, schools, got magic"),
    ("mcmc", ["--samples", "many"], "valid integer"),
    ("mcmc", ["--chains", "0"], TOO_SMALL),
    ("neural_ode", ["--solver", "magic"], "--solver.*must be one of .*, got magic"),
    ("word_problem", ["--group", "magic"], "--group.*must be one of S5, A5, got magic"),
    ("word_problem", ["--letters", "1"], TOO_SMALL),
    ("neural_ode", ["--points", "1"], TOO_SMALL),
]


def run(recipe, arguments):
    app = importlib.import_module(f"recipes.{recipe}.__main__").app
    done = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, arguments)
    return done.exit_code, re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", done.output)


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_says_what_it_does_and_what_every_option_means(recipe):
    code, text = run(recipe, ["--help"])
    assert code == 0
    assert RECIPES[recipe] in text
    assert "Usage" in text
    for line in text.splitlines():
        if re.match(r"\s*\*?\s*--\w", line):
            assert len(line.split()) > 3, line  # a name, a kind, and words


@pytest.mark.parametrize(("recipe", "arguments", "says"), WRONG)
def test_wrong_arguments_end_before_any_compute(recipe, arguments, says, monkeypatch, tmp_path):
    def computed(*_, **__):
        raise AssertionError("it has begun to compute")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(li, "solve", computed)
    monkeypatch.setattr(torch, "load", computed)
    code, text = run(recipe, arguments)
    assert code == 2, text
    assert re.search(says, " ".join(text.split())), text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


needs_assets = pytest.mark.skipif(
    "bokeh-sampledata" not in {found.name.lower().replace("_", "-") for found in metadata.distributions()},
    reason="needs: pip install --no-deps -r requirements-assets.txt",
)
TINY = ["--length", "60", "--width", "3", "--layers", "1", "--crops", "2", "--epochs", "1", "--device", "cpu"]


def in_a_line(recipe, arguments):
    """Code 2, and words in place of a traceback."""
    app = importlib.import_module(f"recipes.{recipe}.__main__").app
    done = CliRunner(env={"COLUMNS": "1000", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", done.output).split())


def test_every_recipe_is_held_to_this():
    folders = {path.parent.name for path in Path(importlib.import_module("recipes").__path__[0]).glob("*/__main__.py")}
    assert folders == set(RECIPES) == {recipe for recipe, _, _ in WRONG}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_folder_that_cannot_be_written(recipe, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    said = in_a_line(recipe, ["--out", str(file / "below")])
    assert re.search("cannot write into .*below.*Not a directory", said), said


@needs_assets
def test_a_full_disk_in_the_middle_of_a_training(tmp_path):
    """No file may grow beyond so many bytes, which the operating system reports as it reports a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        said = in_a_line("gru", ["--out", str(tmp_path / "out"), *TINY])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "choose another folder by --out" in said


@pytest.mark.parametrize("left", ["half", "nothing", "garbage"])
def test_a_checkpoint_that_is_not_whole_is_named(left, tmp_path):
    folder = tmp_path / "quasi" / "checkpoints"
    folder.mkdir(parents=True)
    whole = folder / "best.ckpt"
    torch.save({"weights": torch.ones(1000)}, whole)
    contents = whole.read_bytes()
    broken = {"half": contents[: len(contents) // 2], "nothing": b"", "garbage": b"x" * 3000}[left]
    (folder / "last.ckpt").write_bytes(broken)
    said = in_a_line("gru", ["--resume", "--out", str(tmp_path), *TINY])
    assert re.search(r"last\.ckpt is no whole checkpoint \(\d+ bytes.*Copy .*best\.ckpt over it", said), said


@pytest.mark.parametrize(
    ("text", "says"), [(b"\xff\xfe\x00", "no text file"), (b"@classLabel true a\n@data\n", "have cases")]
)
def test_a_data_file_that_cannot_be_read_is_named(text, says, tmp_path):
    path = tmp_path / "worms.ts"
    Path(path).write_bytes(text)
    said = in_a_line("gru", ["--data", str(path), "--out", str(tmp_path / "out"), *TINY])
    assert "worms.ts" in said
    assert says in said
