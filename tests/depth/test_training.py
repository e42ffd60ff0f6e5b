"""Gradients of looped models by `li.Implicit`: equilibrium models, two states that take turns, looped layers."""

import pytest
import torch
from torch import nn

import lds_iter as li
from lds_iter import depth

CLOSE = 1e-9
"""Relative, in float64, with solves to 1e-11 whose error the adjoint passes on."""
EXACT = {"rtol": 0, "atol": 1e-11, "adjoint": li.Implicit(li.Jacobi(), rtol=0, atol=1e-12)}


class Core(nn.Module):
    """A small transformer block that sees the input anew; it contracts by its gain."""

    def __init__(self, gain=0.3):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.gain = gain

    def forward(self, h, e):
        return e + self.gain * self.layer(h + e).tanh()


def _check(ours, exact, parameters):
    pairs = zip(
        torch.autograd.grad(ours.sin().sum(), parameters),
        torch.autograd.grad(exact.sin().sum(), parameters),
        strict=True,
    )
    for a, b in pairs:
        assert (a - b).norm() <= CLOSE * b.norm()


@pytest.mark.parametrize("gain", [0.1, 0.3, 2.0])
def test_an_equilibrium_model_has_the_gradient_of_its_loop(gain):
    """At 2.0 nothing contracts within twelve steps: the gradient is that of the loop all the same."""
    core, e = Core(gain).double(), torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    h = torch.zeros_like(e)
    last = depth.injected(core, h, e, 12).solve(**EXACT).states[-1].view_as(e)
    for _ in range(12):
        h = core(h, e)
    _check(last, h, [e, *core.parameters()])


def test_two_states_that_take_turns_have_the_gradient_of_their_loop():
    """As in tiny recursive models: three times a thought `z <- net(x + y + z)`, then an answer `y <- net(y + z)`."""
    net, x = Core().double(), torch.randn(2, 1, 5, 8, dtype=torch.float64)

    def cycle(states, x):
        y, z = states.unbind(-3)
        for _ in range(3):
            z = net(z, x[..., 0, :, :] + y)
        return torch.stack([net(y, z), z], dim=-3)

    start = torch.zeros(2, 2, 5, 8, dtype=torch.float64)
    problem = depth.injected(cycle, start, x, 6, dims=3)
    last, exact = problem.unflatten(problem.solve(**EXACT).states[-1]), start
    for _ in range(6):
        exact = cycle(exact, x)
    _check(last[:, 0], exact[:, 0], list(net.parameters()))


def test_looped_layers_have_the_gradient_of_their_loop():
    layers = [Core().double() for _ in range(2)]
    h0 = torch.randn(2, 5, 8, dtype=torch.float64)

    def once(h):
        for layer in layers:
            h = layer(h, h0[:1])
        return h

    problem, exact = depth.shared(once, h0, 5), h0
    for _ in range(5):
        exact = once(exact)
    last = problem.unflatten(problem.solve(**EXACT).states[-1])
    _check(last, exact, [parameter for layer in layers for parameter in layer.parameters()])
