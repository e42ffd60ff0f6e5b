"""`recipes.recurrent_depth`: generation over (token, depth), Jacobi decoding, and the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lds_iter as li
from recipes.recurrent_depth.cells import Depths
from recipes.recurrent_depth.generate import agreement, one_by_one, wavefront, whole_again
from recipes.recurrent_depth.jacobi_decoding import greedy, jacobi_decoding, looked_up
from recipes.recurrent_depth.lattice import SCALE, Lattice
from recipes.recurrent_depth.model import RecurrentDepth, Shape, load
from recipes.recurrent_depth.text import decode, encode, topics

ROOT = Path(__file__).parents[2]
PROMPT = "A compound statement "


def untrained(gain=0.5):
    model = RecurrentDepth(Shape(width=16, heads=2)).eval().requires_grad_(False)
    model.gain.fill_(gain)
    return model


@pytest.mark.parametrize("flight", [1, 3, 12])
@pytest.mark.parametrize("depths", [Depths(6, 1), Depths(3, 2), Depths(6, 1, halt=0.05)], ids=str)
def test_the_wavefront_says_what_greedy_decoding_says(flight, depths):
    model, prompt = untrained(gain=2.0), encode("Of the")  # a gain at which six steps are far from the fixed point
    exact, ours = one_by_one(model, prompt, 12, depths), wavefront(model, prompt, 12, depths, flight=flight)
    assert torch.equal(ours.tokens, exact.tokens)
    assert ours.rounds <= 12 * depths.rows


@torch.no_grad()
def test_the_lattice_step_by_step_is_greedy_decoding():
    model, prompt, depths = untrained(), encode("Of the"), Depths(4, 1)
    lattice = Lattice(model, prompt, 8, depths)
    states = li.sequential(lattice, lattice.s0, lattice.inputs)
    assert torch.equal(lattice.split(states[-1])[1], one_by_one(model, prompt, 8, depths).tokens)


@torch.no_grad()
def test_rows_of_the_lattice_are_evaluated_by_themselves():
    """Sharing equal work changes nothing: rows in any company give what they give alone."""
    lattice = Lattice(untrained(), encode("Of the"), 5, Depths(3, 1))
    states, k = torch.randn(15, len(lattice.s0)), lattice.inputs
    states[:, -5:] = torch.randint(0, 96, (15, 5)) * SCALE
    states[4:8] = states[4]  # equal records in a row, and different ones around them
    together = lattice(states, k)
    alone = torch.cat([lattice(states[i : i + 1], k[i : i + 1]) for i in range(15)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)  # float32 products of other sizes


@pytest.mark.parametrize("halt", [0.0, 0.02])
def test_on_the_trained_model_the_wavefront_saves_rounds_and_changes_no_token(halt):
    model, prompt, depths = load(), encode(PROMPT), Depths(16, 1, halt)
    exact, ours = one_by_one(model, prompt, 24, depths), wavefront(model, prompt, 24, depths, flight=8)
    assert torch.equal(ours.tokens, exact.tokens)
    assert ours.rounds < 24 * 16 / 3


def test_the_shared_cache_changes_no_token_of_the_trained_model():
    """Reading final states instead of the same depth's: the same where the depth suffices to converge."""
    model, prompt = load(), encode(PROMPT)
    shared = one_by_one(model, prompt, 24, Depths(24, 1)).tokens
    assert agreement(shared, whole_again(model, prompt, 24, 24)) == 24


def test_impossible_generation_is_refused():
    with pytest.raises(ValueError, match=r"`prompt` must be \(P,\)"):
        Lattice(untrained(), torch.zeros(0, dtype=torch.int64), 4, Depths())
    with pytest.raises(ValueError, match="at least 1"):
        Depths(rows=0)


def gpt():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=30, bos_token_id=0, eos_token_id=0,
        initializer_range=0.5,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    return lambda tokens: model(tokens).logits


@pytest.mark.parametrize("ahead", [None, 1, 5])
def test_jacobi_decoding_of_gpt_is_greedy(ahead):
    model, prompt = gpt(), torch.tensor([3, 1, 4])
    exact = greedy(model, prompt, 20)
    assert len(exact.unique()) > 2  # not a constant, which anything would guess
    ours = jacobi_decoding(model, prompt, 20, ahead=ahead)
    assert torch.equal(ours.tokens, exact)
    assert ours.rounds <= 20


def test_a_right_draft_costs_nothing_and_a_half_right_one_half():
    model, prompt = gpt(), torch.tensor([3, 1, 4])
    exact = greedy(model, prompt, 20)
    assert jacobi_decoding(model, prompt, 20, draft=exact).rounds == 0
    half = torch.where(torch.arange(20) < 10, exact, 29 - exact)
    ours = jacobi_decoding(model, prompt, 20, draft=half)
    assert torch.equal(ours.tokens, exact)
    assert ours.rounds <= 10


def test_a_draft_is_looked_up_in_the_prompt():
    assert looked_up(torch.tensor([7, 1, 2, 3, 8, 9, 1, 2, 3]), 7).tolist() == [8, 9, 1, 2, 3, 8, 9]
    assert looked_up(torch.tensor([1, 2, 3]), 2).tolist() == [3, 3]


def test_text_survives_the_alphabet():
    assert decode(encode("def f(x):\n\treturn “x”\n")) == 'def f(x):\n return "x"\n'
    training, held_out = topics()
    assert len(training) > 5 * len(held_out) > 50_000


def test_command_line(tmp_path):
    """A process of its own, as a user runs it, from a folder of its own."""
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    options = "--networks own --depths 8,32 --count 6 --rows 8 --flight 3 --halt 0.1 --out pictures"
    command = [sys.executable, "-m", "recipes.recurrent_depth", *options.split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1]).read_bytes().startswith(b"\x89PNG")
    for word in "bigram", "contraction", "Jacobi", "token by token", "3 in flight, halt 0.1", "6/6", "tokens/s":
        assert word in done.stdout
    wrong = [*command[:3], "--depths", "8,x"]
    done = subprocess.run(wrong, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "8,x" in done.stderr
