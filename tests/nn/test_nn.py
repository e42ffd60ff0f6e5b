"""The drop-in layers against `torch.nn`: outputs, final states and gradients, whatever the constructor's arguments."""

import copy
import warnings

import pytest
import torch
from closeness import GRADIENTS, OUTPUTS, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from read_again import pickled, saved
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import lds_iter as li

INPUTS, STEPS, BATCH = 3, 12, 3
KINDS = ["RNN", "GRU", "LSTM"]
FORMS = ["batched", "single", "packed", "packed-sorted", "packed-uniform"]
METHODS = [None, li.Newton(), li.QuasiNewton(), li.Jacobi(), li.Then(li.Jacobi(), li.Newton(), 2)]


def pair(kind, *sizes, options=None, **arguments):
    """A layer of torch and ours with the same weights."""
    sizes = sizes or (INPUTS, 4)
    theirs = getattr(torch.nn, kind)(*sizes, dtype=torch.float64, **arguments)
    ours = getattr(li.nn, kind)(*sizes, dtype=torch.float64, **arguments, **(options or {}))
    ours.method = li.nn.fixed_method(ours) if ours.method is None else ours.method  # `Auto` has tests of its own
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def example(form, batch_first=False, steps=STEPS):
    if form == "single":
        return torch.randn(steps, INPUTS, dtype=torch.float64)
    if form.startswith("packed"):
        lengths = {"packed": [2, steps, 1], "packed-sorted": [steps, 4, 4], "packed-uniform": [steps] * 3}[form]
        sequences = [torch.randn(length, INPUTS, dtype=torch.float64) for length in lengths]
        return pack_sequence(sequences, enforce_sorted=form == "packed-sorted")
    shape = (BATCH, steps) if batch_first else (steps, BATCH)
    return torch.randn(*shape, INPUTS, dtype=torch.float64)


def start(layer, form):
    """Random initial states in the form that a layer takes."""
    lead = layer.num_layers * (2 if layer.bidirectional else 1)
    batch = () if form == "single" else (BATCH,)
    h = torch.randn(lead, *batch, layer.proj_size or layer.hidden_size, dtype=torch.float64)
    return (h, torch.randn(lead, *batch, layer.hidden_size, dtype=torch.float64)) if layer.mode == "LSTM" else h


def flat(results):
    """Outputs and final states as a list of tensors."""
    output, final = results
    data = output.data if isinstance(output, PackedSequence) else output
    return [data, *(final if isinstance(final, tuple) else (final,))]


def gradients(layer, x, hx):
    """Of a loss that weighs every number of the results differently: for parameters, inputs and initial states."""
    generator = torch.Generator().manual_seed(7)
    if isinstance(x, PackedSequence):
        leaf = x.data.detach().clone().requires_grad_()
        x = PackedSequence(leaf, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
    else:
        x = leaf = x.detach().clone().requires_grad_()
    states = (
        [] if hx is None else [h.detach().clone().requires_grad_() for h in (hx if isinstance(hx, tuple) else (hx,))]
    )
    given = None if hx is None else tuple(states) if isinstance(hx, tuple) else states[0]
    loss = torch.zeros((), dtype=torch.float64)
    for result in flat(layer(x, given)):
        loss = loss + (result * torch.randn(result.shape, generator=generator, dtype=result.dtype)).sum()
    return torch.autograd.grad(loss, [*layer.parameters(), leaf, *states])


@st.composite
def constructors(draw):
    kind = draw(st.sampled_from(KINDS))
    arguments = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    if kind == "RNN":
        arguments["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "LSTM":
        arguments["proj_size"] = draw(st.sampled_from([0, 0, 2]))
    return kind, draw(st.sampled_from([3, 4, 9])), arguments


@settings(max_examples=60)
@given(
    constructor=constructors(),
    form=st.sampled_from(FORMS),
    started=st.booleans(),
    method=st.sampled_from(METHODS),
    window=st.sampled_from([None, None, 5]),
    seed=st.integers(0, 10),
)
def test_outputs_final_states_and_gradients_are_those_of_torch(constructor, form, started, method, window, seed):
    torch.manual_seed(seed)
    kind, width, arguments = constructor
    theirs, ours = pair(kind, INPUTS, width, options={"method": method, "window": window}, **arguments)
    x = example(form, theirs.batch_first)
    hx = start(theirs, form) if started else None
    results, expected = ours(x, hx), theirs(x, hx)
    assert type(results[0]) is type(expected[0])
    assert_close(flat(results), flat(expected), OUTPUTS)
    assert len(ours.last_solution) == theirs.num_layers * (1 + theirs.bidirectional)
    assert_close(gradients(ours, x, hx), gradients(theirs, x, hx), GRADIENTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_sequence_comes_back_as_one(kind):
    theirs, ours = pair(kind, bidirectional=True)
    for form in "packed", "packed-sorted", "packed-uniform":
        x = example(form)
        packed, expected = ours(x)[0], theirs(x)[0]
        for name in "batch_sizes", "sorted_indices", "unsorted_indices":
            value = getattr(packed, name)
            assert value is getattr(expected, name) or torch.equal(value, getattr(expected, name))
        assert_close(pad_packed_sequence(packed), pad_packed_sequence(expected), OUTPUTS)
    padded = torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64)
    already_packed = pack_padded_sequence(padded, torch.tensor([12, 7, 2]))
    assert_close(flat(ours(already_packed)), flat(theirs(already_packed)), OUTPUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_draws_the_same_numbers_as_torch(kind):
    theirs, ours = pair(kind, num_layers=3, dropout=0.4, bidirectional=True)
    x = example("batched")
    torch.manual_seed(3)
    expected = theirs(x)
    torch.manual_seed(3)
    assert_close(flat(ours(x)), flat(expected), OUTPUTS)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    assert_close(flat(ours.eval()(x)), flat(theirs.eval()(x)), OUTPUTS)
    for at in 0.0, 1.0:
        theirs.dropout = ours.dropout = at
        assert_close(flat(ours.train()(x)), flat(theirs.train()(x)), OUTPUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_travel_in_both_directions(kind):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert isinstance(ours, getattr(torch.nn, kind))
    assert repr(ours) == repr(theirs)
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict())
    ours.flatten_parameters()
    x = example("batched")
    assert_close(flat(ours(x)), flat(theirs(x)), OUTPUTS)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles(kind, duplicate):
    theirs, ours = pair(kind, options={"method": li.Jacobi(), "window": 7, "warm_start": li.nn.WarmStart()})
    x = example("batched")
    ours(x)
    twin = duplicate(ours)
    assert twin.last_solution == ()
    assert twin.method == li.Jacobi()
    assert twin.window == 7
    with torch.no_grad():
        ours.weight_hh_l0.zero_()
    assert_close(flat(twin(x)), flat(theirs(x)), OUTPUTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(kind, context):
    theirs, ours = pair(kind, bidirectional=True, num_layers=2)
    for form in FORMS:
        x = example(form)
        with context():
            results = flat(ours(x))
            assert_close(results, flat(theirs(x)), OUTPUTS)
        assert not any(result.requires_grad for result in results)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind):
    theirs, ours = pair(kind)
    theirs, ours, x = theirs.float(), ours.float(), example("batched").float()
    # Residuals of 1e-5, relative and absolute, and contraction.
    assert_close(flat(ours(x)), flat(theirs(x)), {"rtol": 1e-4, "atol": 1e-4})


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_solved_in_single(kind):
    theirs, ours = pair(kind)
    x = example("batched")
    with torch.no_grad():
        results = flat(ours.to(torch.bfloat16)(x.to(torch.bfloat16)))
        assert ours.last_solution[0].states.dtype == torch.float32
        assert all(result.dtype == torch.bfloat16 for result in results)
        # bfloat16 has 8 bits; weights and inputs were rounded to it.
        assert_close([result.double() for result in results], flat(theirs(x)), {"rtol": 0.05, "atol": 0.05})


@pytest.mark.parametrize("kind", KINDS)
def test_weights_may_be_replaced_or_parametrized(kind):
    theirs, ours = pair(kind)
    x = example("batched")
    weights = {name: 0.5 * weight for name, weight in theirs.named_parameters()}
    expected = torch.func.functional_call(theirs, weights, (x,))
    assert_close(flat(torch.func.functional_call(ours, weights, (x,))), flat(expected), OUTPUTS)
    for layer in theirs, ours:
        torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    assert_close(flat(ours(x)), flat(theirs(x)), OUTPUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_refuses_is_refused_in_its_words(kind):
    theirs, ours = pair(kind)
    good = example("batched")
    wrong = [
        (torch.zeros(0, 2, INPUTS, dtype=torch.float64), None),
        (torch.zeros(5, 2, INPUTS + 1, dtype=torch.float64), None),
        (torch.zeros(5, 2, 2, INPUTS, dtype=torch.float64), None),
        (torch.zeros(5, 2, INPUTS), None),
        (good, torch.zeros(1, 4, dtype=torch.float64)),
        (good[:, 0], torch.zeros(1, 1, 4, dtype=torch.float64)),
        (good, torch.zeros(2, BATCH, 4, dtype=torch.float64)),
        (good, torch.zeros(1, BATCH, 4)),
    ]
    for x, h in wrong:
        hx = (h, h) if kind == "LSTM" and h is not None else h
        with pytest.raises((RuntimeError, ValueError)) as expected:
            theirs(x, hx)
        with pytest.raises(expected.type) as found:
            ours(x, hx)
        assert str(found.value).replace("lds_iter", "torch") == str(expected.value)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batches_and_values_that_are_not_finite_are_answered_as_by_torch(kind):
    theirs, ours = pair(kind)
    empty = torch.zeros(5, 0, INPUTS, dtype=torch.float64)
    assert_close(flat(ours(empty)), flat(theirs(empty)), OUTPUTS)
    x = example("batched")
    x[5, 1, 0] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for result, expected in zip(flat(ours(x)), flat(theirs(x)), strict=True):
            torch.testing.assert_close(result, expected, equal_nan=True, **OUTPUTS)


def stubborn(kind, layers=1, gain=2.5, **options):
    """A layer with long, chaotic memory, which two iterations do not solve."""
    theirs, ours = pair(kind, INPUTS, 8, num_layers=layers, options=options)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "weight_hh" in name:
                weight.copy_(gain * torch.randn_like(weight))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_over_budget_falls_back_to_torch_with_one_warning(kind, form):
    theirs, ours = stubborn(kind, layers=2, max_iters=2)
    x = example(form)
    hx = start(theirs, form)
    with pytest.warns(li.PerformanceWarning, match=f"torch.nn.{kind}") as caught:
        results = ours(x, hx)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert all(torch.equal(one, other) for one, other in zip(flat(results), flat(theirs(x, hx)), strict=True))
    assert not ours.last_solution[-1].converged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, expected = gradients(ours, x, hx), gradients(theirs, x, hx)
    assert_close(found, expected, {"rtol": 0, "atol": 0})


def test_the_budget_counts_for_each_window():
    _, ours = pair("GRU", options={"window": 4, "max_iters": 4})
    ours(example("batched", steps=400))
    assert int(ours.last_solution[0].iterations.max()) > 4
    assert ours.last_solution[0].converged


@pytest.mark.parametrize("kind", KINDS)
def test_last_solution_tells_iterations_and_residual_and_holds_no_graph(kind):
    _, ours = pair(kind, num_layers=2, bidirectional=True)
    assert ours.last_solution == ()
    ours(example("packed"))
    assert len(ours.last_solution) == 4
    for solution in ours.last_solution:
        assert solution.converged
        assert solution.iterations.shape == solution.residual.shape == (BATCH,)
        # In the user's order: the sequence of one step is the last of the three.
        assert solution.iterations[2] <= 1
        assert not solution.states.requires_grad
        with pytest.raises(RuntimeError, match="Solve the recurrence itself"):
            solution.error_estimate()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_mates_of_other_lengths_do_not_matter(kind):
    _, ours = pair(kind, bidirectional=True)
    x = [torch.randn(length, INPUTS, dtype=torch.float64) for length in (4, 12, 7)]
    together = ours(pack_sequence(x, enforce_sorted=False))
    counts = [solution.iterations for solution in ours.last_solution]
    for index, sequence in enumerate(x):
        alone = ours(sequence.unsqueeze(1))
        assert [int(solution.iterations) for solution in ours.last_solution] == [int(count[index]) for count in counts]
        padded, lengths = pad_packed_sequence(together[0])
        torch.testing.assert_close(padded[: lengths[index], index], alone[0][:, 0], **OUTPUTS)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.LSTM(INPUTS, 5, bidirectional=True, batch_first=True)
        self.blocks = torch.nn.ModuleList([torch.nn.GRU(10, 6, batch_first=True), torch.nn.RNN(6, 4, batch_first=True)])
        self.shared = self.blocks[1]
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x):
        x = self.encoder(x)[0]
        for block in self.blocks:
            x = block(x)[0]
        return self.head(x)


def test_parallelize_swaps_every_layer_in_place():
    model = Model().double()
    x = torch.randn(2, 20, INPUTS, dtype=torch.float64)
    expected, weights, parts = model(x), dict(model.named_parameters()), list(model.modules())
    seen = []
    model.encoder.register_forward_hook(lambda *_: seen.append(1))
    result = li.nn.parallelize(model, li.QuasiNewton(), window=9, max_iters=50)
    assert result is model
    assert all(one is other for one, other in zip(model.modules(), parts, strict=True))
    assert all(parameter is weights[name] for name, parameter in model.named_parameters())
    assert [type(part) for part in (model.encoder, *model.blocks)] == [li.nn.LSTM, li.nn.GRU, li.nn.RNN]
    assert model.shared is model.blocks[1]
    assert model.encoder.window == 9
    torch.testing.assert_close(model(x), expected, **OUTPUTS)
    assert seen == [1]
    assert all(solution.converged for solution in model.encoder.last_solution)
    assert copy.deepcopy(model).blocks[0].max_iters == 50
    li.nn.parallelize(model, li.Jacobi())  # again, with other options
    assert model.encoder.method == li.Jacobi()
    torch.testing.assert_close(model(x), expected, **OUTPUTS)


def test_parallelize_takes_a_layer_and_leaves_subclasses_alone():
    class Own(torch.nn.GRU):
        pass

    assert type(li.nn.parallelize(torch.nn.GRU(2, 3))) is li.nn.GRU
    with pytest.raises(ValueError, match=r"contains no torch\.nn\.RNN, GRU or LSTM"):
        li.nn.parallelize(torch.nn.Sequential(Own(2, 3)))


def test_a_model_trains_as_it_does_with_torch():
    model = Model().double()
    twin = li.nn.parallelize(copy.deepcopy(model))
    x, y = torch.randn(2, 4, 30, INPUTS, dtype=torch.float64), torch.randn(4, 30, 2, dtype=torch.float64)
    losses = []
    for one in model, twin:
        optimizer = torch.optim.Adam(one.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            loss = (one(x[0]) - y).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    # Adam divides by gradients that may be small, which magnifies their errors.
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_warm_starts_save_iterations(kind):
    memory = li.nn.WarmStart()
    theirs, ours = pair(kind, INPUTS, 16, bidirectional=True, options={"warm_start": memory})
    x = torch.randn(4, 200, INPUTS, dtype=torch.float64).transpose(0, 1)

    def iterations(names):
        with memory.samples(names):
            output = ours(x[:, names])[0]
        torch.testing.assert_close(output, theirs(x[:, names])[0], **OUTPUTS)
        return torch.stack([solution.iterations for solution in ours.last_solution])

    cold = iterations([0, 1])
    assert (iterations([1, 0]) < cold).all()
    mixed = iterations(torch.tensor([2, 1]))
    assert (mixed[:, 0] > mixed[:, 1]).all()
    ours(x[:, [0, 1]])
    assert torch.equal(torch.stack([solution.iterations for solution in ours.last_solution]), cold)
    with memory.samples([0, 1]):
        ours(x[:7, [0, 1]])  # another length: a cold start
        with pytest.raises(ValueError, match="must name the 3 sample"):
            ours(x[:, [0, 1, 2]])


def test_a_copy_of_a_warm_start_is_empty():
    memory = li.nn.WarmStart("cpu")
    layer = li.nn.GRU(INPUTS, 4, method=li.Newton(), warm_start=memory)
    with memory.samples("ab"):
        layer(torch.randn(9, 2, INPUTS))
    twin = copy.deepcopy(layer)
    assert twin.warm_start is not memory
    x = torch.randn(9, 2, INPUTS)
    with twin.warm_start.samples("ab"):
        twin(x)
    layer(x)
    assert torch.equal(twin.last_solution[0].iterations, layer.last_solution[0].iterations)
