"""Every transform of torch: a solve has the derivative of the plain loop under it, or refuses it in words."""

import pytest
import torch
from catalogue import METHODS
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import lds_iter as li

GENERATOR = torch.Generator().manual_seed(0)
W = 0.5 * torch.randn(4, 4, generator=GENERATOR, dtype=torch.float64)
S0 = torch.randn(4, generator=GENERATOR, dtype=torch.float64)
U = torch.randn(12, 4, generator=GENERATOR, dtype=torch.float64)
AT = (W, S0, U)
ALONG = tuple(torch.randn(x.shape, generator=GENERATOR, dtype=torch.float64) for x in AT)
TIGHT = {"rtol": 1e-12, "atol": 1e-12}
CLOSE = {"rtol": 1e-8, "atol": 1e-8}  # residuals of 1e-12 in float64, twelve steps


def solved(weight, s0, u, method=None, **options):
    return li.solve(lambda s, u: torch.tanh(s @ weight.T + u), s0, u, method, **TIGHT, **options).states


def looped(weight, s0, u):
    return li.sequential(lambda s, u: torch.tanh(s @ weight.T + u), s0, u)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("name", [*METHODS, "auto"])
def test_jvp_is_that_of_the_loop(name, window):
    method = li.Auto() if name == "auto" else METHODS[name]
    states, tangent = jvp(lambda *at: solved(*at, method, window=window), AT, ALONG)
    expected = jvp(looped, AT, ALONG)
    torch.testing.assert_close(states, expected[0], **CLOSE)
    torch.testing.assert_close(tangent, expected[1], **CLOSE)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_jvp_in_one_argument(which):
    at = lambda run: lambda x: run(*AT[:which], x, *AT[which + 1 :])  # noqa: E731
    ours, theirs = (jvp(at(run), (AT[which],), (ALONG[which],))[1] for run in (solved, looped))
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_jvp_of_a_batch_and_of_one_step():
    s0, u = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(9, 2, 3, 4, dtype=torch.float64)
    for rows in (u, u[:1]):
        ours, theirs = (jvp(lambda s, u, run=run: run(W, s, u), (s0, rows), (s0, rows))[1] for run in (solved, looped))
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_jvp_of_what_does_not_depend_on_the_argument():
    assert not jvp(lambda x: solved(*AT) + x, (U,), (torch.zeros_like(U),))[1].any()


class ClosedForm:
    """A recurrence with derivatives of its own."""

    def __call__(self, s, u):
        return 0.5 * torch.sin(s) + u

    def linearize(self, s, u):
        return li.ElementwiseDerivatives(self(s, u), 0.5 * torch.cos(s))


def test_jvp_of_a_recurrence_with_derivatives_of_its_own():
    ours = jvp(lambda s, u: li.solve(ClosedForm(), s, u, **TIGHT).states, (S0, U), ALONG[1:])[1]
    theirs = jvp(lambda s, u: li.sequential(ClosedForm(), s, u), (S0, U), ALONG[1:])[1]
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_jvp_of_the_recurrence_of_a_layer():
    f = li.nn.GRURecurrence.from_module(torch.nn.GRU(4, 4, dtype=torch.float64).requires_grad_(False))
    ours = jvp(lambda s, u: li.solve(f, s, f.inputs(u), **TIGHT).states, (S0, U), ALONG[1:])[1]
    theirs = jvp(lambda s, u: li.sequential(f, s, f.inputs(u)), (S0, U), ALONG[1:])[1]
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_jacfwd_is_the_jacobian_of_the_loop():
    ours = jacfwd(solved, argnums=(0, 1, 2))(*AT)
    theirs = torch.autograd.functional.jacobian(looped, AT)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_jvp_of_layers(kind):
    ours, theirs = (getattr(where, kind)(3, 4, dtype=torch.float64) for where in (li.nn, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(80, 2, 3, dtype=torch.float64)
    tangents = [jvp(lambda x, layer=layer: layer(x)[0], (x,), (x,))[1] for layer in (ours, theirs)]
    torch.testing.assert_close(*tangents, **CLOSE)


def test_a_gradient_in_reverse_and_of_a_functional_call():
    class Cell(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))

        def forward(self, s, u):
            return torch.tanh(s @ self.weight.T + u)

    cell = Cell()
    weight, s0, u = (x.clone().requires_grad_() for x in AT)
    call = lambda s, u: functional_call(cell, {"weight": weight}, (s, u))  # noqa: E731
    ours = torch.autograd.grad(li.solve(call, s0, u, **TIGHT).states.sin().sum(), (weight, s0, u))
    theirs = torch.autograd.grad(looped(weight, s0, u).sin().sum(), (weight, s0, u))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_second_derivatives_by_unroll():
    found = []
    for run in (lambda *at: solved(*at, adjoint=li.Unroll()), looped):
        weight = W.clone().requires_grad_()
        (first,) = torch.autograd.grad(run(weight, S0, U).sin().sum(), weight, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), weight)[0])
    # Newton's last iteration squares the error of the states and that of their derivatives is about its root, twice
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def with_a_graph(*at):
    weight = W.clone().requires_grad_()
    return jvp(lambda s: solved(weight, s, U), (S0,), (ALONG[1],))


def double_backward():
    weight = W.clone().requires_grad_()
    (first,) = torch.autograd.grad(solved(weight, S0, U).sum(), weight, create_graph=True)
    return first


def batched_backward():
    s0 = S0.clone().requires_grad_()
    eye = torch.eye(4, dtype=torch.float64)
    return torch.autograd.grad(solved(W, s0, U)[-1], s0, eye, is_grads_batched=True)


def dual_tensors():
    with forward_ad.dual_level():
        return solved(W, forward_ad.make_dual(S0, S0), U)


REFUSED = {
    "vmap over s0": (lambda: vmap(lambda s: solved(W, s, U))(torch.stack([S0, S0])), "into the batch"),
    "vmap over parameters": (lambda: vmap(lambda w: solved(w, S0, U))(torch.stack([W, W])), "into the batch"),
    "vmap of jvp": (
        lambda: vmap(lambda s: jvp(lambda s: solved(W, s, U), (s,), (s,))[1])(torch.stack([S0, S0])),
        "into the batch",
    ),
    "grad": (lambda: grad(lambda s: solved(W, s, U).sum())(S0), "torch.autograd.grad"),
    "vjp": (lambda: vjp(lambda s: solved(W, s, U), S0), "torch.autograd.grad"),
    "jacrev": (lambda: jacrev(lambda s: solved(W, s, U))(S0), "torch.autograd.grad"),
    "hessian": (lambda: hessian(lambda s: solved(W, s, U).sum())(S0), "li.sequential"),
    "jacfwd of jacfwd": (lambda: jacfwd(jacfwd(lambda s: solved(W, s, U)))(S0), "li.sequential"),
    "grad of jvp": (
        lambda: grad(lambda w: jvp(lambda s: solved(w, s, U), (S0,), (S0,))[1].sum())(W),
        "li.sequential",
    ),
    "backward of jvp": (with_a_graph, "torch.no_grad"),
    "double backward": (double_backward, "Unroll"),
    "batched backward": (batched_backward, "one after the other"),
    "dual tensors": (dual_tensors, "torch.func.jvp"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_in_words(name):
    run, says = REFUSED[name]
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        run()
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert "solve" in said
    assert says in said
