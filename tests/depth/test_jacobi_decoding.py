"""`li.depth.jacobi_decoding`: greedy decoding as a solve over discrete states, and its counts."""

import pytest
import torch

from lds_iter import depth

transformers = pytest.importorskip("transformers")


class Model:
    """A sharp little GPT-2 as a function of tokens, which counts its calls."""

    def __init__(self):
        config = transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=30, bos_token_id=0, eos_token_id=0,
            initializer_range=0.5,
        )  # fmt: skip
        self.model, self.calls = transformers.GPT2LMHeadModel(config).eval(), 0

    def __call__(self, tokens):
        self.calls += 1
        return self.model(tokens).logits


def test_jacobi_decoding_of_gpt_is_greedy_and_counts_every_call_of_the_model():
    model, prompt = Model(), torch.tensor([3, 1, 4])
    exact = depth.greedy(model, prompt, 20)
    assert len(exact.unique()) > 2  # not a constant, which anything would guess
    model.calls = 0
    ours = depth.jacobi_decoding(model, prompt, 20)
    assert torch.equal(ours.tokens, exact)
    assert ours.rounds <= 20
    assert ours.passes == model.calls
    assert ours.passes <= ours.rounds + 3  # one batched call a round; the last round, and two to check the model


def test_a_right_draft_costs_nothing_and_a_half_right_one_half():
    model, prompt = Model(), torch.tensor([3, 1, 4])
    exact = depth.greedy(model, prompt, 20)
    assert depth.jacobi_decoding(model, prompt, 20, draft=exact).rounds == 0
    half = torch.where(torch.arange(20) < 10, exact, 29 - exact)
    ours = depth.jacobi_decoding(model, prompt, 20, draft=half)
    assert torch.equal(ours.tokens, exact)
    assert ours.rounds <= 10


def test_a_draft_is_looked_up_in_the_prompt():
    assert depth.looked_up(torch.tensor([7, 1, 2, 3, 8, 9, 1, 2, 3]), 7).tolist() == [8, 9, 1, 2, 3, 8, 9]
    assert depth.looked_up(torch.tensor([1, 2, 3]), 2).tolist() == [3, 3]
    with pytest.raises(ValueError, match="`match` must be at least 1"):
        depth.looked_up(torch.tensor([1, 2, 3]), 2, match=0)


def test_wrong_arguments_are_named():
    model, prompt = Model(), torch.tensor([3, 1, 4])
    for wrong, error, words in [
        ({"draft": torch.zeros(19, dtype=torch.int64)}, ValueError, r"`draft` must be \(20,\)"),
        ({"draft": torch.zeros(20)}, TypeError, r"`draft.long\(\)`"),
        ({"draft": torch.full((20,), -1)}, ValueError, "`draft` must hold numbers of tokens"),
        ({"draft": torch.full((20,), 99)}, ValueError, "cannot read token 99"),
    ]:
        with pytest.raises(error, match=words):
            depth.jacobi_decoding(model, prompt, 20, **wrong)
    with pytest.raises(TypeError, match=r"lambda tokens: model\(tokens\).logits"):
        depth.jacobi_decoding(model.model, prompt, 20)
    with pytest.raises(ValueError, match=r"`prompt` must be \(P,\)"):
        depth.jacobi_decoding(model, prompt[None], 20)
