"""`recipes.recurrent_depth`: its text and its command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from bench.generation import measure as bench
from bench.generation.page import page
from recipes.recurrent_depth.model import load
from recipes.recurrent_depth.text import decode, encode, topics

ROOT = Path(__file__).parents[2]


def test_text_survives_the_alphabet():
    assert decode(encode("def f(x):\n\treturn “x”\n")) == 'def f(x):\n return "x"\n'
    assert encode("").dtype == torch.int64
    training, held_out = topics()
    assert len(training) > 5 * len(held_out) > 50_000


def test_command_line(tmp_path):
    """A process of its own, as a user runs it, from a folder of its own."""
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    options = "--networks own --depths 8 --count 6 --depth 8 --flight 3 --freeze 0.1 --out pictures"
    command = [sys.executable, "-m", "recipes.recurrent_depth", *options.split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1]).read_text().startswith("<?xml")
    for word in "bigram", "contraction", "Jacobi", "token by token", "newest states, 0.1, verified", "6/6", "tokens/s":
        assert word in done.stdout
    wrong = [*command[:3], "--depths", "8,x"]
    done = subprocess.run(wrong, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "8,x" in done.stderr


def test_the_page_of_generation_is_made_of_the_results_alone():
    prompt, name = encode("A compound statement "), "newest states, 0.003, inner 4"
    found = bench.row(name, load(), [prompt], [bench.loop_of(load(), prompt)], 1)
    facts = {
        "torch": "2",
        "python": "3",
        "cpu": "a",
        "threads": 1,
        "prompts": 1,
        "count": 48,
        "depth": 32,
        "length": 21,
    }
    text = page(json.loads(json.dumps({**facts, "count": 48, "depth": 32, "rounds": 1, "rows": [found]})))
    assert f"| {name} | 1 | 1 of 1, least 48 |" in text
    assert "1536 in the loop" in text
