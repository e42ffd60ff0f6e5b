"""The options of layers and of `Recurrent`, and what is said about arguments that cannot work."""

import copy
import pickle
import re

import pytest
import torch
from layers import KINDS

import lds_iter as li


def test_options_are_attributes_and_checked_whenever_they_are_set():
    for layer in li.nn.GRU(2, 3, window=5, method=li.Newton()), li.nn.Recurrent(torch.nn.GRUCell(2, 3), window=5):
        assert layer.window == layer.options.window == 5
        layer.window, layer.method = 7, li.Jacobi()
        assert layer.options.window == 7
        assert layer.options.method == li.Jacobi()
        twin = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
        assert (twin.window, twin.method) == (7, li.Jacobi())
        with pytest.raises(ValueError, match="`window` must be a whole number"):
            layer.window = 0
        assert layer.window == 7
        with pytest.raises(TypeError, match="Type `Newton\\(\\)`"):
            layer.method = li.Newton


WRONG = [
    ({"method": li.Newton}, TypeError, r"Type `Newton\(\)`"),
    ({"max_iters": 0}, ValueError, "`max_iters` must be a whole number"),
    ({"max_iters": True}, ValueError, "`max_iters` must be a whole number"),
    ({"window": 1.5}, ValueError, "`window` must be a whole number"),
    ({"rtol": -1.0}, ValueError, "`rtol` must be a finite number"),
    ({"atol": "x"}, ValueError, "`atol` must be a finite number"),
    ({"warm_start": True}, TypeError, r"Type li\.nn\.WarmStart\(\)"),
    ({"compiler": torch.compile}, ValueError, r"needs a `method` such as li\.QuasiNewton\(\)"),
    ({"max_iter": 4}, TypeError, r"has no argument `max_iter`. Did you mean `max_iters`\?"),
    ({"batchfirst": True}, TypeError, r"Did you mean `batch_first`\?"),
]


@pytest.mark.parametrize(("options", "error", "words"), WRONG)
def test_wrong_options(options, error, words):
    for kind in KINDS:
        with pytest.raises(error, match=words):
            getattr(li.nn, kind)(2, 3, **options)
    with pytest.raises(error, match=words):
        li.nn.Recurrent(torch.nn.GRUCell(2, 3), **options)
    if "batchfirst" not in options:
        with pytest.raises(error, match=words):
            li.nn.parallelize(torch.nn.GRU(2, 3), **options)


def test_a_layer_from_an_older_pickle_keeps_its_options():
    layer = li.nn.GRU(2, 3)
    state = {name: value for name, value in layer.__getstate__().items() if name != "options"}
    layer.__setstate__({**state, "method": li.Jacobi(), "window": 9})
    assert (layer.method, layer.window, layer.max_iters) == (li.Jacobi(), 9, 100)


def test_what_a_fallback_advises_can_be_typed():
    layer = li.nn.GRU(3, 8, method=li.Auto(), max_iters=1)
    layer.method = li.Jacobi()
    with pytest.warns(li.PerformanceWarning) as caught:
        layer(torch.randn(50, 2, 3))
    advice = re.findall(r"layer\.\w+ = .*?(?=, or |, the default|$)", str(caught[0].message), re.MULTILINE)
    assert len(advice) >= 4
    for line in advice:
        exec(line, {"layer": layer, "li": li})
        layer(torch.randn(50, 2, 3))


def test_auto_needs_no_budget():
    for layer in li.nn.GRU(3, 8, method=li.Auto(), max_iters=1), li.nn.Recurrent(torch.nn.GRUCell(3, 8), max_iters=1):
        layer.method = li.Auto()
        layer(torch.randn(50, 2, 3))  # warnings are errors here
        solution = layer.last_solution[0] if isinstance(layer, li.nn.GRU) else layer.last_solution
        assert solution.converged


CELL = torch.nn.GRUCell(3, 4)
BAD_CALLS = [
    ((None,), TypeError, "`input` must be a tensor .*got NoneType"),
    (([torch.zeros(2, 3)],), TypeError, r"Type torch\.stack\(input\)"),
    ((torch.zeros(5, 2, 3).numpy(),), TypeError, r"Type torch\.as_tensor\(input, dtype=torch\.float32\)"),
    ((torch.zeros(5),), ValueError, r"must have shape \(T, B, \.\.\.\).*input\.unsqueeze\(-1\)"),
    ((torch.zeros(0, 2, 3),), ValueError, "`input` is empty"),
    ((torch.zeros(5, 2, 3, dtype=torch.int64),), TypeError, r"must be torch\.float32 like the weights"),
    ((torch.zeros(5, 2, 3, dtype=torch.float64),), TypeError, r"must be torch\.float32 like the weights"),
    ((torch.zeros(5, 2, 4),), ValueError, "must end with input_size=3"),
    ((torch.zeros(5, 2, 3), torch.zeros(3, 4)), ValueError, r"`state` must have shape \(2, 4\)"),
    ((torch.zeros(5, 2, 3), torch.zeros(2, 5)), ValueError, r"`state` must have shape \(2, 4\)"),
    ((torch.zeros(5, 2, 3), torch.zeros(2, 4).double()), TypeError, r"`state` must be torch\.float32"),
    ((torch.zeros(5, 2, 3), [1.0, 2.0]), TypeError, "a pytree of such tensors, got list"),
    ((torch.zeros(5, 2, 3), (torch.zeros(2, 4),) * 2), TypeError, "must be one tensor for a GRUCell"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD_CALLS)
def test_calls_of_a_recurrent_that_cannot_work(arguments, error, words):
    with pytest.raises(error, match=words):
        li.nn.Recurrent(CELL)(*arguments)


def test_states_of_an_lstm_cell_are_two():
    with pytest.raises(TypeError, match=r"`state` must be \(h, c\) for an LSTMCell"):
        li.nn.Recurrent(torch.nn.LSTMCell(3, 4))(torch.zeros(5, 2, 3), torch.zeros(2, 4))


def test_wrong_cells():
    with pytest.raises(TypeError, match="`cell` must be a module or function"):
        li.nn.Recurrent(torch.nn.GRUCell)
    with pytest.raises(ValueError, match="`state` is needed: function has no `hidden_size`"):
        li.nn.Recurrent(lambda x, h: h)(torch.randn(5, 2, 3))


def test_tokens_are_inputs_of_a_cell_of_ones_own():
    class Embedded(torch.nn.Module):
        hidden_size = 4

        def __init__(self):
            super().__init__()
            self.table, self.cell = torch.nn.Embedding(7, 3), torch.nn.GRUCell(3, 4)

        def forward(self, x, h):
            return self.cell(self.table(x.squeeze(-1)), h)

    layer, tokens = li.nn.Recurrent(Embedded(), method=li.Newton()), torch.randint(7, (20, 2, 1))
    states, _ = layer(tokens)
    assert states.shape == (20, 2, 4)
    assert states.dtype == torch.float32
    torch.testing.assert_close(states[0], layer.cell(tokens[0], torch.zeros(2, 4)), rtol=1e-4, atol=1e-4)
