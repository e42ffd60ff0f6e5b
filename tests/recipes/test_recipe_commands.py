"""The command lines of the recipes: a useful help, and wrong arguments answered at once, in a line, with code 2."""

import importlib
import re

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
}

WRONG = [
    ("gru", ["--solver", "magic"], "there is no solver magic; choose of .*quasi"),
    ("gru", ["--compare", "quasi", "quasi"], "two different solvers"),
    ("gru", ["--device", "tpu"], "--device must be one of auto, cpu, cuda"),
    ("gru", ["--resume", "--out", "nowhere"], "holds no run to resume"),
    ("gru", ["--epochs", "0"], "greater than or equal to 1"),
    ("gru", ["--data", "missing.ts"], "There is no file missing.ts"),
    ("gru", ["--lenght", "4"], "No such option: --lenght"),
    ("pretrained", ["--methods", "newton,magic"], "unknown: magic. Choose of newton"),
    ("pretrained", ["--methods", ","], "Choose of newton"),
    ("pretrained", ["--network", "bert"], "'bert' is not one of 'g2p', 'sleep', 'all'"),
    ("pretrained", ["--length", "1"], "greater than or equal to 2"),
    ("recurrent_depth", ["--depths", "8,x"], "must be positive numbers with commas between, got '8,x'"),
    ("recurrent_depth", ["--depths", "0"], "must be positive numbers"),
    ("recurrent_depth", ["--flight", "2.5"], "must be positive numbers"),
    ("recurrent_depth", ["--prompt", ""], "at least one character"),
    ("recurrent_depth", ["--count", "0"], "greater than or equal to 1"),
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
