"""Sequences of unequal lengths keep everything that compiled code does for equal ones."""

import pytest
import torch
from layers import KINDS, METHODS, pair
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import lds_iter as li
from lds_iter.kernels.cpu.build import function
from lds_iter.nn._masked import Masked, MaskedDerivatives
from lds_iter.recurrence import IterationRequest

LENGTHS = (7, 20, 1, 12)
compiled = pytest.mark.skipif(
    function("gru", "step", torch.float32, 7) is None, reason="no C++ compiler, or turned off"
)


def sequences():
    return pack_sequence([torch.randn(n, 3, dtype=torch.float64) for n in LENGTHS], enforce_sorted=False)


def loss_and_gradients(layer, packed):
    leaf = packed.data.clone().requires_grad_()
    x = PackedSequence(leaf, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    output, _ = layer(x)
    return output.data.detach(), torch.autograd.grad(output.data.pow(3).sum(), [leaf, *layer.parameters()])


@pytest.mark.parametrize("method", [*METHODS, li.QuasiNewton(), li.BlockNewton(2), li.Jacobi()])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_torch(kind, method, window):
    theirs, ours = pair(kind, method=method, bidirectional=True, num_layers=2)
    ours.window = window
    packed = sequences()
    for one, other in zip(loss_and_gradients(ours, packed), loss_and_gradients(theirs, packed), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)  # solves stop at residuals of 1e-12


@compiled
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_code_does_the_work(kind, method, monkeypatch):
    """No derivative is made by operations of torch, in the forward pass or in the backward pass."""

    def refuse(*arguments):
        raise AssertionError("left to operations of torch")

    theirs, ours = pair(kind, method=method, bidirectional=True)
    packed = sequences()
    expected = loss_and_gradients(theirs, packed)
    for product in "jvp", "vjp", "jacobian", "diagonal", "block_diagonal":
        monkeypatch.setattr(MaskedDerivatives, product, refuse)
    for one, other in zip(loss_and_gradients(ours, packed), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@compiled
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()])
def test_iterations_are_those_of_each_sequence_alone(method):
    _, layer = pair("GRU", 3, 8, method=method)
    each = [torch.randn(n, 3, dtype=torch.float64) for n in LENGTHS]
    layer(pack_sequence(each, enforce_sorted=False))
    counts = layer.last_solution[0].iterations.tolist()
    for sequence, count in zip(each, counts, strict=True):
        layer(sequence.unsqueeze(1))
        assert int(layer.last_solution[0].iterations) == count


@compiled
def test_a_fused_iteration_of_masked_rows_is_that_of_the_loop():
    """Proposal, frontier and residual, with padded rows that are not 0 yet."""
    module = torch.nn.GRU(3, 8, dtype=torch.float64)
    f = li.nn.GRURecurrence.from_module(module)
    mask = (torch.arange(20).unsqueeze(1) < torch.tensor(LENGTHS)).to(torch.float64).unsqueeze(-1)
    with torch.no_grad():
        u, s0 = f.inputs(torch.randn(20, 4, 3, dtype=torch.float64)), torch.full((4, 8), 0.5, dtype=torch.float64)
        states = torch.cat([s0.unsqueeze(0), s0.expand(20, 4, 8)]).contiguous()
        lo, hi = torch.zeros(4, dtype=torch.int64), torch.full((4,), 20)
        proposal = torch.empty_like(states)
        request = IterationRequest(li.Newton(), (u, mask), states, proposal, s0, 0, lo, hi, 1e-12, 1e-12)
        found = Masked(f).fused_iteration(request)
        value = Masked(f)(states[:-1], (u, mask))
        expected = li.solve(Masked(f), s0, (u, mask), li.Newton(), max_iters=1, throw=False).states
        torch.testing.assert_close(found.residual, (value - states[1:]).abs().amax((0, -1)))
        torch.testing.assert_close(proposal[1:], expected)
        assert bool((proposal[1:] * (1 - mask) == 0).all())
        assert found.lo.tolist() == [0, 0, 0, 0]


def test_what_padding_would_overflow_to_reaches_no_gradient():
    """A relu network that grows by 1.5 a step: 400 padded rows would end in inf."""
    theirs, ours = pair("RNN", 3, 4, nonlinearity="relu", dtype=torch.float32)
    with torch.no_grad():
        for layer in theirs, ours:
            layer.weight_hh_l0.copy_(1.5 * torch.eye(4))
            layer.weight_ih_l0.fill_(0.1)
            layer.bias_hh_l0.fill_(0.1)
    x = [torch.zeros(400, 3) - 10, torch.ones(2, 3)]  # the long one stays at 0
    for layer in theirs, ours:
        layer(pack_sequence(x))[0].data.sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert bool(one.grad.isfinite().all())
        torch.testing.assert_close(one.grad, other.grad)
