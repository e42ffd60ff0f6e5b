"""The recurrences of `torch.nn` and their closed-form derivatives, against autodiff and against torch's kernels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import CLOSE

import lds_iter as li
from lds_iter.derivatives import autodiff, linearization
from lds_iter.nn._weights import SMALL_WIDTH
from lds_iter.testing import check_derivatives, check_recurrence

INPUTS = 3
KINDS = {
    "tanh": lambda width, **options: torch.nn.RNN(INPUTS, width, **options),
    "relu": lambda width, **options: torch.nn.RNN(INPUTS, width, nonlinearity="relu", **options),
    "gru": lambda width, **options: torch.nn.GRU(INPUTS, width, **options),
    "lstm": lambda width, **options: torch.nn.LSTM(INPUTS, width, **options),
    "lstm-projected": lambda width, **options: torch.nn.LSTM(INPUTS, width, proj_size=width - 1, **options),
}
RECURRENCES = {
    torch.nn.RNN: li.nn.RNNRecurrence,
    torch.nn.GRU: li.nn.GRURecurrence,
    torch.nn.LSTM: li.nn.LSTMRecurrence,
}


def recurrence(kind, width=4, layer=0, backward=False, **options):
    module = KINDS[kind](width, dtype=torch.float64, **options)
    return module, RECURRENCES[type(module)].from_module(module, layer, backward=backward)


def state_width(module):
    return module.hidden_size * (2 if isinstance(module, torch.nn.LSTM) else 1)


@pytest.mark.parametrize("kind", KINDS)
@given(length=st.integers(1, 5), batch=st.sampled_from([(), (2,), (2, 1)]), bias=st.booleans(), seed=st.integers(0, 5))
def test_closed_form_derivatives(kind, length, batch, bias, seed):
    torch.manual_seed(seed)
    module, f = recurrence(kind, bias=bias)
    x = torch.randn(length, *batch, INPUTS, dtype=torch.float64)
    s = torch.randn(length, *batch, state_width(module), dtype=torch.float64)
    with torch.no_grad():
        u = f.inputs(x)
        check_derivatives(f, s, u)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", ["1", "0"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_all_that_a_recurrence_offers(kind, compiled, batch, monkeypatch):
    """Steps, adjoint, whole iterations and derivatives, each beside the loop."""
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", compiled)
    module, f = recurrence(kind)
    with torch.no_grad():
        u = f.inputs(torch.randn(20, *batch, INPUTS, dtype=torch.float64))
    found = check_recurrence(f, torch.zeros(*batch, state_width(module), dtype=torch.float64), u)
    assert {"steps", "solve_adjoint", "jvp"} <= {finding.law for finding in found.laws}


def test_the_jacobian_of_a_gru_is_right_on_both_sides_of_the_width_where_its_computation_changes():
    for width in SMALL_WIDTH, SMALL_WIDTH + 1:
        _, f = recurrence("gru", width)
        s = torch.randn(3, 2, width, dtype=torch.float64)
        with torch.no_grad():
            u = f.inputs(torch.randn(3, 2, INPUTS, dtype=torch.float64))
            automatic = li.FunctionDerivatives(f, s, u)
            torch.testing.assert_close(f.linearize(s, u).jacobian(), automatic.jacobian(), **CLOSE)


@pytest.mark.parametrize("kind", ["lstm", "lstm-projected"])
def test_blocks_of_an_lstm_that_cut_through_pairs(kind):
    _, f = recurrence(kind, 6)
    s = torch.randn(5, 2, 12, dtype=torch.float64)
    with torch.no_grad():
        u = f.inputs(torch.randn(5, 2, INPUTS, dtype=torch.float64))
        automatic = li.FunctionDerivatives(lambda s, u: f(s, u), s, u)
        for size in 1, 2, 3, 4, 6, 12:
            own = f.linearize(s, u).block_diagonal(size)
            torch.testing.assert_close(own, automatic.block_diagonal(size), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.BlockNewton(2), li.Jacobi()], ids=repr)
def test_every_layer_and_direction_equals_torch(kind, bias, method):
    module = KINDS[kind](4, num_layers=2, bidirectional=True, bias=bias, dtype=torch.float64)
    x = torch.randn(40, 2, INPUTS, dtype=torch.float64)
    with torch.no_grad():
        expected = module(x)[0]
        for layer in range(2):
            outputs = []
            for backward in False, True:
                f = RECURRENCES[type(module)].from_module(module, layer, backward=backward)
                s0 = torch.zeros(2, state_width(module), dtype=torch.float64)
                u = f.inputs(x.flip(0) if backward else x)
                states = li.solve(f, s0, u, method, rtol=1e-12, atol=1e-12).states
                h = f.unpack(states)[0] if isinstance(module, torch.nn.LSTM) else states
                outputs.append(h.flip(0) if backward else h)
            x = torch.cat(outputs, -1)
    torch.testing.assert_close(x, expected, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_no_autodiff_runs(kind, monkeypatch):
    monkeypatch.setattr(linearization, "FunctionDerivatives", None)
    monkeypatch.setattr(autodiff, "FunctionDerivatives", None)
    module, f = recurrence(kind)
    with torch.no_grad():
        u = f.inputs(torch.randn(30, 2, INPUTS, dtype=torch.float64))
    for method in li.Newton(), li.QuasiNewton(), li.QuasiNewton(li.Hutchinson()), li.BlockNewton(2):
        assert li.solve(f, torch.zeros(2, state_width(module), dtype=torch.float64), u, method).converged


def test_states_of_an_lstm_are_pairs_and_a_projected_start_enters_through_the_first_row():
    module, f = recurrence("lstm-projected", 5)
    x, h0 = torch.randn(20, 2, INPUTS, dtype=torch.float64), torch.randn(1, 2, 4, dtype=torch.float64)
    c0 = torch.randn(1, 2, 5, dtype=torch.float64)
    s0 = f.pack(torch.zeros_like(c0[0]), c0[0])
    assert torch.equal(s0[..., 1::2], c0[0])
    with torch.no_grad():
        solution = li.solve(f, s0, f.inputs(x, h0[0]), li.BlockNewton(2), rtol=1e-12, atol=1e-12)
        h, c = f.unpack(solution.states)
        expected, (_, c_n) = module(x, (h0, c0))
    torch.testing.assert_close(h, expected, **CLOSE)
    torch.testing.assert_close(c[-1], c_n[0], **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_layers(kind):
    with pytest.raises(ValueError, match="has no layer 1"):
        recurrence(kind, layer=1)
    with pytest.raises(ValueError, match="in the backward direction"):
        recurrence(kind, backward=True)


def test_wrong_weights():
    for kind, gates in (li.nn.RNNRecurrence, 1), (li.nn.GRURecurrence, 3), (li.nn.LSTMRecurrence, 4):
        with pytest.raises(ValueError, match="`weight_ih` and `weight_hh` must have shapes"):
            kind(torch.zeros(3 * gates, 2), torch.zeros(3 * gates + 1, 3))
    with pytest.raises(ValueError, match='`nonlinearity` must be "tanh" or "relu", got \'gelu\''):
        li.nn.RNNRecurrence(torch.zeros(3, 2), torch.zeros(3, 3), nonlinearity="gelu")  # pyright: ignore


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.BlockNewton(2)], ids=repr)
def test_gradients_by_the_adjoint_through_the_iterations_and_step_by_step(kind, method):
    module, f = recurrence(kind)
    x = torch.randn(12, 2, INPUTS, dtype=torch.float64)
    s0 = 0.1 * torch.randn(2, state_width(module), dtype=torch.float64)

    def gradients(states):
        weights = list(module.parameters())
        return torch.autograd.grad(states.sin().sum(), weights)

    expected = gradients(li.sequential(f, s0, f.inputs(x)))
    for adjoint in li.Implicit(), li.Unroll():
        # Twelve steps, solved to rounding: unrolled iterations then carry the gradient all the way back.
        f = RECURRENCES[type(module)].from_module(module)
        found = gradients(li.solve(f, s0, f.inputs(x), method, rtol=0, atol=1e-14, adjoint=adjoint).states)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)
