"""Generation of recurrent-depth models: the loop, the wavefront, newest states, and newest states verified."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lds_iter as li
from lds_iter import depth
from lds_iter.depth.recurrent.lattice import SCALE, Lattice
from lds_iter.depth.recurrent.model import Counted, all_steps
from recipes.recurrent_depth.model import RecurrentDepth, Shape, load
from recipes.recurrent_depth.text import encode, topics

PROMPT = "A compound statement "


def untrained(gain=0.5, width=16):
    torch.manual_seed(0)
    model = RecurrentDepth(Shape(width=width, heads=2)).eval().requires_grad_(False)
    model.gain.fill_(gain)
    return model


@torch.no_grad()
def whole_again(model, prompt, count, steps):
    """Greedy decoding without any cache: the whole sequence to its full depth for every token."""
    tokens = prompt
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens, steps)[-1:].argmax(-1)])
    return tokens[len(prompt) :]


@pytest.mark.parametrize(("gain", "prompt"), [(2.0, "Of the"), (0.5, "a"), (4.0, "class A")])
def test_the_cached_loop_says_what_the_model_says_on_the_whole_sequence(gain, prompt):
    model = untrained(gain)
    done = depth.one_by_one(model, encode(prompt), 12, 6)
    assert torch.equal(done.tokens, whole_again(model, encode(prompt), 12, 6))
    assert (done.work.embed, done.work.step, done.work.decode, done.work.token_steps) == (12, 72, 12, 72)


@given(
    gain=st.sampled_from([0.5, 2.0, 4.0]),
    change=st.sampled_from([0.0, 0.003, 0.1, 10.0]),
    inner=st.integers(1, 4),
    flight=st.integers(1, 9),
    block=st.integers(1, 9),
    prompt=st.text("abc def", min_size=1, max_size=5),
)
def test_verified_tokens_are_those_of_the_loop_whatever_the_rule(gain, change, inner, flight, block, prompt):
    """With a gain of 4 nothing contracts, and a change of 10 settles every token at once: drafts are wrong then."""
    model, tokens = untrained(gain), encode(prompt)
    exact = depth.one_by_one(model, tokens, 9, 5)
    ours = depth.verified(model, tokens, 9, 5, rule=depth.Freeze(change, inner, flight), block=block)
    assert torch.equal(ours.tokens, exact.tokens)
    assert ours.checks <= 9


@pytest.mark.parametrize("flight", [1, 3, 12])
@pytest.mark.parametrize(("rows", "inner"), [(6, 1), (3, 2)])
@torch.no_grad()
def test_the_wavefront_is_the_recurrence_over_token_and_depth_step_by_step(flight, rows, inner):
    model, prompt = untrained(gain=2.0), encode("Of the")  # a gain at which six steps are far from the fixed point
    lattice = Lattice(model, prompt, 12, rows, inner)
    states = li.sequential(lattice, lattice.s0, lattice.inputs)
    ours = depth.wavefront(model, prompt, 12, rows, inner=inner, flight=flight)
    assert torch.equal(ours.tokens, lattice.split(states[-1])[1])
    assert ours.rounds <= 12 * rows


@torch.no_grad()
def test_a_round_of_the_wavefront_is_one_batched_call_of_each_part():
    """Rows whose records do not continue each other are read as a batch: the calls do not grow with their number."""
    model = Counted(untrained())
    lattice = Lattice(model, encode("Of the"), 5, 3, 1)
    states, k = torch.randn(15, len(lattice.s0)), lattice.inputs  # fifteen records that have nothing in common
    states[:, -5:] = torch.randint(0, 96, (15, 5)) * SCALE
    before = model.work
    lattice(states, k)
    made = model.work - before
    assert (made.embed, made.step, made.decode) == (1, 2, 2)  # each reads the settled ones, then the rows' own tokens


@torch.no_grad()
def test_rows_of_the_lattice_are_evaluated_by_themselves():
    """Sharing equal work changes nothing: rows in any company give what they give alone."""
    lattice = Lattice(untrained(), encode("Of the"), 5, 3, 1)
    states, k = torch.randn(15, len(lattice.s0)), lattice.inputs
    states[:, -5:] = torch.randint(0, 96, (15, 5)) * SCALE
    states[4:8] = states[4]  # equal records in a row, and different ones around them
    together = lattice(states, k)
    alone = torch.cat([lattice(states[i : i + 1], k[i : i + 1]) for i in range(15)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)  # float32 products of other sizes


def test_on_the_trained_model_every_way_says_the_same_with_fewer_steps():
    model, prompt = load(), encode(PROMPT)
    exact = depth.one_by_one(model, prompt, 24, 16)
    assert torch.equal(exact.tokens, whole_again(model, prompt, 24, 16))
    ways = {
        "wavefront": depth.wavefront(model, prompt, 24, 16, flight=8),
        "newest": depth.newest_states(model, prompt, 24, 16),
        "inner 4": depth.newest_states(model, prompt, 24, 16, rule=depth.Freeze(inner=4)),
        "verified": depth.verified(model, prompt, 24, 16),
    }
    for done in ways.values():
        assert torch.equal(done.tokens, exact.tokens)
    fewer = {name: exact.work.step / done.work.step for name, done in ways.items()}
    assert fewer["wavefront"] > 3  # measured 3.7, a little more or less by the rounding of a machine
    assert fewer["newest"] > 10
    assert fewer["verified"] > 7
    assert ways["newest"].work.token_steps < exact.work.token_steps / 2
    assert ways["verified"].work.token_steps < 2 * exact.work.token_steps


@pytest.mark.slow
def test_verified_on_twenty_prompts_at_32_steps():
    """All tokens right, at most twice the loop's token-steps, and at least six times fewer steps one after the other.

    Measured: 1.09 to 1.26 times the token-steps, 11.6 to 13.4 times fewer steps, and 6.0 to 7.4 times fewer calls of
    prelude, core and coda together.
    """
    model, text = load(), topics()[1]
    for number in range(20):
        prompt = encode(text[400 * number :][:24])
        exact, ours = (way(model, prompt, 48, 32) for way in (depth.one_by_one, depth.verified))
        assert torch.equal(ours.tokens, exact.tokens)
        assert ours.work.token_steps <= 2 * exact.work.token_steps
        assert 6 * ours.work.step <= exact.work.step


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_way_of_generation_runs_in_every_dtype(dtype):
    """In half precision products of other sizes round differently, and close calls may go another way; no text does
    at these weights."""
    model, prompt = untrained(gain=0.5).to(dtype), encode("Of the")
    exact = depth.one_by_one(model, prompt, 6, 6).tokens
    assert torch.equal(depth.verified(model, prompt, 6, 6).tokens, exact)
    for done in depth.newest_states(model, prompt, 6, 6), depth.wavefront(model, prompt, 6, 6, flight=3):
        assert done.tokens.shape == (6,)


def test_nothing_of_a_call_is_made_on_another_device():
    """Shapes alone, on torch's device without memory: a tensor made on the CPU is refused by the first product."""
    model = untrained().to("meta")
    memory = depth.Memory(2, "meta")
    rows = [[1, 2, 3, 4, 5], [1, 2]]
    _, views = all_steps(model, memory, rows, 3)
    memory.keep(views, [3, 1])
    logits, _ = all_steps(model, memory, rows, 3)
    assert logits.shape == (2, 5, 96)
    assert logits.device.type == "meta"
    items, h = torch.zeros(5, dtype=torch.int64, device="meta"), torch.zeros(5, 1, 16, device="meta")
    view = memory.take([0, 0, 1, 0, 1]).view(("step", 0), items)
    assert model.step(h, h, items[:, None], view).shape == h.shape


WAYS = {
    "loop": depth.one_by_one,
    "newest": depth.newest_states,
    "verified": lambda *given, **options: depth.verified(*given, block=6, **options),
}


def batch_of(texts, padding=0):
    """Prompts of several lengths, padded on the left, and their mask."""
    prompts = [encode(text) for text in texts]
    longest = max(map(len, prompts)) + padding
    mask = torch.stack([(torch.arange(longest) >= longest - len(prompt)).long() for prompt in prompts])
    rows = [torch.cat([torch.full((longest - len(prompt),), 7), prompt]) for prompt in prompts]
    return prompts, torch.stack(rows), mask


@given(
    way=st.sampled_from(sorted(WAYS)),
    texts=st.lists(st.text("abc def", min_size=1, max_size=6), min_size=1, max_size=3),
    padding=st.integers(0, 2),
    gain=st.sampled_from([0.5, 2.0, 4.0]),
    inner=st.integers(1, 3),
    ends=st.sampled_from([None, (10, 11, 12, 30, 31, 32, 50, 51, 52, 70, 71, 72)]),
    sampled=st.booleans(),
)
def test_a_batch_says_what_each_of_its_prompts_says_by_itself(way, texts, padding, gain, inner, ends, sampled):
    """Padding, company and the pace of others change nothing: neither tokens nor where a text ends."""
    model, (prompts, tokens, mask) = untrained(gain), batch_of(texts, padding)
    options = {"eos_token_id": ends}
    if way != "loop":
        options["rule"] = depth.Freeze(0.003, inner, 5)

    def choose(number):
        return {"choose": depth.Sample(3 + number, temperature=0.7)} if sampled else {}

    together = WAYS[way](model, tokens, 7, 4, attention_mask=mask, pad_token_id=95, **choose(0), **options)
    alone = [WAYS[way](model, prompt, 7, 4, **choose(i), **options).tokens for i, prompt in enumerate(prompts)]
    assert together.lengths.tolist() == [len(text) for text in alone]
    for row, text in zip(together.tokens, alone, strict=True):
        assert torch.equal(row[: len(text)], text)
        assert (row[len(text) :] == 95).all()
        assert ends is None or all(word not in ends for word in text[:-1].tolist())
    assert together.tokens.shape[1] == together.lengths.max()


@settings(max_examples=8)
@given(gain=st.sampled_from([0.5, 4.0]), seed=st.integers(-3, 3), change=st.sampled_from([0.0, 0.1, 10.0]))
def test_a_sample_at_a_seed_is_that_of_the_loop_whatever_the_way(gain, seed, change):
    model, (_, tokens, mask) = untrained(gain), batch_of(["Of the", "a"])
    options = {"attention_mask": mask, "choose": depth.Sample(seed), "eos_token_id": 9}
    exact = depth.one_by_one(model, tokens, 7, 4, **options)
    ours = depth.verified(model, tokens, 7, 4, rule=depth.Freeze(change), **options)
    assert torch.equal(ours.tokens, exact.tokens)
    assert not torch.equal(depth.one_by_one(model, tokens, 7, 4, choose=depth.Sample(seed + 9)).tokens, exact.tokens)


def test_the_wavefront_samples_and_ends():
    model, prompt = untrained(gain=0.5), encode("Of the")  # twelve steps are at the fixed point here
    sample = depth.Sample(4)
    exact = depth.one_by_one(model, prompt, 8, 12, choose=sample).tokens
    assert torch.equal(depth.wavefront(model, prompt, 8, 12, flight=4, choose=sample).tokens, exact)
    end = int(exact[4])
    ours = depth.wavefront(model, prompt, 8, 12, flight=4, choose=sample, eos_token_id=end)
    assert torch.equal(ours.tokens, depth.one_by_one(model, prompt, 8, 12, choose=sample, eos_token_id=end).tokens)
    assert int(ours.lengths) <= 5


@pytest.mark.parametrize("flight", [2, 9])
@torch.no_grad()
def test_the_wavefront_of_a_batch_is_that_of_each_text_and_the_loop(flight):
    model, (prompts, tokens, mask) = untrained(gain=0.5), batch_of(["Of the", "a", "class A"])
    options = {"choose": depth.Sample(3), "eos_token_id": 9}
    exact = depth.one_by_one(model, tokens, 8, 12, attention_mask=mask, **options)  # 12 steps are at the fixed point
    ours = depth.wavefront(model, tokens, 8, 12, flight=flight, attention_mask=mask, **options)
    assert torch.equal(ours.tokens, exact.tokens)
    assert torch.equal(ours.lengths, exact.lengths)
    greedy = depth.wavefront(model, tokens, 8, 6, flight=flight, attention_mask=mask)
    alone = [depth.wavefront(model, prompt, 8, 6, flight=flight) for prompt in prompts]
    assert torch.equal(greedy.tokens, torch.stack([one.tokens for one in alone]))
    assert (
        abs(greedy.rounds - max(one.rounds for one in alone)) <= 2
    )  # rows settle by rounding, of products of other sizes


@torch.no_grad()
def test_a_round_of_a_batch_is_one_batched_call_of_each_part():
    model, (_, tokens, mask) = Counted(untrained()), batch_of(["Of the", "a"])
    lattice = Lattice(model, tokens, 5, 3, 1, attention_mask=mask)
    states, k = torch.randn(15, 2, lattice.s0.shape[-1]), lattice.inputs
    before = model.work
    lattice(states, k)
    made = model.work - before
    assert (made.embed, made.step, made.decode) == (1, 2, 2)


def test_texts_that_have_ended_cost_nothing_more():
    model, (_, tokens, mask) = untrained(gain=2.0), batch_of(["Of the", "a", "class A"])
    whole = depth.one_by_one(model, tokens, 12, 4, attention_mask=mask)
    ends = whole.tokens[:, 2].tolist()  # every text has ended after three tokens
    ours = depth.one_by_one(model, tokens, 12, 4, attention_mask=mask, eos_token_id=ends)
    assert ours.rounds <= 3
    assert ours.work.token_steps == 4 * int(ours.lengths.sum())


def test_impossible_generation_is_refused():
    for way in depth.one_by_one, depth.newest_states, depth.verified, depth.wavefront:
        with pytest.raises(ValueError, match=r"`prompt` must be \(P,\)"):
            way(untrained(), torch.zeros(0, dtype=torch.int64), 4, 4)
        with pytest.raises(TypeError, match=r"`prompt.long\(\)`"):
            way(untrained(), torch.zeros(3), 4, 4)
        with pytest.raises(ValueError, match="`count` must be a whole number of at least 1"):
            way(untrained(), encode("a"), 0, 4)
    with pytest.raises(ValueError, match="at least 1"):
        depth.Freeze(inner=0)
    model, prompt = untrained(), encode("a b")
    for wrong, error, words in [
        ({"rule": 0.003}, TypeError, r"Type `li\.depth\.Freeze\(0\.003\)`"),
        ({"choose": "greedy"}, TypeError, r"`choose` must be a callable"),
        ({"choose": lambda logits, *_: logits}, ValueError, "one token for each row"),
        ({"attention_mask": torch.tensor([1, 1, 0])}, ValueError, 'padding_side = "left"'),
        ({"model": nn.Linear(2, 2)}, TypeError, r"has no `embed`.*parallel_generate"),
    ]:
        with pytest.raises(error, match=words):
            depth.verified(**{"model": model, "prompt": prompt, "count": 4, "depth": 4, **wrong})
    with pytest.raises(IndexError) as caught:
        depth.verified(model, torch.tensor([3, 999]), 4, 4)
    assert "outside of the vocabulary" in str(caught.value.__notes__)
    with pytest.raises(ValueError, match="`temperature` must be above 0"):
        depth.Sample(1, temperature=0)
