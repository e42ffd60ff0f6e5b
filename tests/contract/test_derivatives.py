"""Derivatives of plain functions and of the recurrences that know their own, and the adapters of states."""

import pytest
import torch
from catalogue import elementwise, loop, tanh_rnn
from hypothesis import given
from hypothesis import strategies as st
from problems import CLOSE, problem

import lds_iter as li
from lds_iter.derivatives import autodiff, forward_mode
from lds_iter.testing import check_derivatives


def gru(width, inputs=3, dtype=torch.float64):
    module = torch.nn.GRU(inputs, width, dtype=dtype)
    return module, li.nn.GRURecurrence.from_module(module)


@pytest.mark.parametrize("chunk", [1, 10**9])
@given(length=st.integers(1, 5), batch=st.sampled_from([(), (2,), (2, 1)]), seed=st.integers(0, 5))
def test_derivatives_of_a_function(chunk, length, batch, seed):
    f, (_, u) = tanh_rnn(4, seed=seed), problem(length, batch, seed=seed)
    s = torch.randn_like(u)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward_mode, "CHUNK_ELEMENTS", chunk)
        patch.setattr(autodiff, "CHUNK_ELEMENTS", chunk)
        check_derivatives(f, s, u, li.FunctionDerivatives(f, s, u))


def test_derivatives_of_an_elementwise_recurrence():
    _, u = problem(5, (2,))
    s = torch.randn_like(u)
    derivatives = li.ElementwiseDerivatives(elementwise(s, u), 0.8 * torch.cos(s))
    check_derivatives(elementwise, s, u, derivatives)


@given(length=st.integers(1, 5), batch=st.sampled_from([(), (2,), (2, 1)]), seed=st.integers(0, 5))
def test_closed_form_derivatives_of_the_gru(length, batch, seed):
    torch.manual_seed(seed)
    module, f = gru(4)
    x, s = torch.randn(length, *batch, 3, dtype=torch.float64), torch.randn(length, *batch, 4, dtype=torch.float64)
    with torch.no_grad():
        u = f.inputs(x)
        check_derivatives(f, s, u)
        flat = torch.stack(
            [module(x.reshape(-1, 1, 3)[i], s.reshape(-1, 1, 4)[i])[0][0] for i in range(s[..., 0].numel())]
        )
        torch.testing.assert_close(f(s, u), flat.view(s.shape), **CLOSE)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.BlockNewton(2), li.Jacobi()], ids=repr)
def test_the_gru_recurrence_equals_torch_in_both_directions(method, bias):
    module = torch.nn.GRU(3, 4, num_layers=2, bidirectional=True, bias=bias, dtype=torch.float64)
    x = torch.randn(60, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        expected = module(x)[0]
        for layer in range(2):
            outputs = []
            for backward in False, True:
                f = li.nn.GRURecurrence.from_module(module, layer, backward=backward)
                u = f.inputs(x.flip(0) if backward else x)
                states = li.solve(f, torch.zeros(2, 4, dtype=torch.float64), u, method, rtol=1e-12, atol=1e-12).states
                outputs.append(states.flip(0) if backward else states)
            x = torch.cat(outputs, -1)
    torch.testing.assert_close(x, expected, **CLOSE)


def test_own_derivatives_mean_that_no_autodiff_runs(monkeypatch):
    monkeypatch.setattr("lds_iter.derivatives.linearization.FunctionDerivatives", None)
    monkeypatch.setattr("lds_iter.derivatives.autodiff.FunctionDerivatives", None)
    _, f = gru(4)
    with torch.no_grad():
        u = f.inputs(torch.randn(30, 2, 3, dtype=torch.float64))
    for method in li.Newton(), li.QuasiNewton(), li.QuasiNewton(li.Hutchinson()), li.BlockNewton(2):
        assert li.solve(f, torch.zeros(2, 4, dtype=torch.float64), u, method).converged


def test_wrong_gru_arguments():
    with pytest.raises(ValueError, match="has no layer 1"):
        li.nn.GRURecurrence.from_module(torch.nn.GRU(2, 3), 1)
    with pytest.raises(ValueError, match="in the backward direction"):
        li.nn.GRURecurrence.from_module(torch.nn.GRU(2, 3), backward=True)
    with pytest.raises(ValueError, match="must have shapes"):
        li.nn.GRURecurrence(torch.zeros(9, 2), torch.zeros(8, 3))


def test_an_nn_module_serves_as_f_and_its_parameters_are_untouched():
    class Cell(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, s, u):
            return torch.tanh(self.linear(s) + u["drive"]) * u["gate"][:, None, None]

    cell = Cell().double()
    s0 = torch.zeros(2, 4, dtype=torch.float64)
    u = {"drive": torch.randn(40, 2, 4, dtype=torch.float64), "gate": torch.rand(40, dtype=torch.float64)}
    for method in li.Newton(), li.QuasiNewton(), li.BlockNewton(2), li.QuasiNewton(li.Hutchinson()):
        solution = li.solve(cell, s0, u, method)
        torch.testing.assert_close(solution.states, li.sequential(cell, s0, u), **CLOSE)
    assert all(parameter.grad is None for parameter in cell.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_solve_under_every_grad_mode(context):
    s0, u = problem(30, (2,))
    f = tanh_rnn(4)
    with context():
        solution = li.solve(f, s0, u.clone(), li.QuasiNewton())
    torch.testing.assert_close(solution.states.clone(), loop(f, s0, u), **CLOSE)


def test_sequential_is_differentiable():
    s0, u = problem(6, (2,))
    f = tanh_rnn(4)
    assert torch.autograd.gradcheck(lambda s0, u: li.sequential(f, s0, u), (s0.requires_grad_(), u.requires_grad_()))


def test_an_lstm_through_ravel_and_fold():
    cell = torch.nn.LSTMCell(3, 4, dtype=torch.float64)
    x = torch.randn(50, 2, 3, dtype=torch.float64)
    s0, unravel = li.ravel((torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)), 1)
    step = li.fold(lambda s, x: torch.cat(cell(x, tuple(unravel(s))), -1))
    solution = li.solve(step, s0, x, li.Newton())
    h, c = unravel(solution.states)
    state = (torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64))
    for t in range(50):
        state = cell(x[t], state)
        torch.testing.assert_close(h[t], state[0].detach(), **CLOSE)
        torch.testing.assert_close(c[t], state[1].detach(), **CLOSE)


def test_ravel_of_an_image_and_its_errors():
    image = {"pixels": torch.randn(3, 2, 8, 8), "time": torch.randn(3, 1)}
    flat, unravel = li.ravel(image, batch_dims=1)
    assert flat.shape == (3, 2 * 64 + 1)
    back = unravel(flat.expand(5, 3, 129))
    assert torch.equal(back["pixels"][4], image["pixels"])
    assert back["time"].shape == (5, 3, 1)
    with pytest.raises(TypeError, match="pytree of tensors"):
        li.ravel({"a": 3})
    with pytest.raises(TypeError, match="one dtype"):
        li.ravel((torch.zeros(2), torch.zeros(2).double()))
    with pytest.raises(ValueError, match="same first 1 dimension"):
        li.ravel((torch.zeros(2, 3), torch.zeros(3, 3)), batch_dims=1)


def test_fold_says_what_to_do_with_inputs_that_lack_batch_dimensions():
    with pytest.raises(ValueError, match="Expand it"):
        li.fold(lambda s, u: s + u)(torch.zeros(5, 2, 3), torch.zeros(5))
