"""Gradients: implicit = unrolled = backpropagation through the Python loop = finite differences."""

import copy

import pytest
import torch
from catalogue import ADVERSARIES, METHODS
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem

import lds_iter as li
from lds_iter.nn.gru import GRUDerivatives

EVERY = {**METHODS, **ADVERSARIES}
TIGHT = {"rtol": 1e-12, "atol": 1e-12}
# float64, residuals of 1e-12 forward and backward, trajectories of at most 24 steps that do not expand.
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
# Methods whose iterates stay finite on a tanh network, so that backpropagation through them does too.
UNROLLED = ["newton", "quasi", "block", "jacobi", "damped-newton", "damped-block", "jacobi-then-newton"]


class Network(torch.nn.Module):
    """`tanh(W s + b + u * gain)`, with parameters, and inputs of several kinds."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(0.45 * torch.randn(4, 4, generator=generator, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))

    def forward(self, s, inputs):
        gain = inputs["gain"].reshape(-1, *[1] * (s.ndim - 1))
        return torch.tanh(s @ self.weight.T + self.bias + gain * inputs["drive"] + 0 * inputs["count"].sum())


def setting(length, batch, seed=0):
    network, (s0, drive) = Network(seed), problem(length, batch, seed=seed)
    inputs = {"drive": drive.requires_grad_(), "gain": torch.rand(length, dtype=torch.float64).requires_grad_()}
    inputs["count"] = torch.arange(length)
    wanted = [*network.parameters(), s0.requires_grad_(), inputs["drive"], inputs["gain"]]
    return network, s0, inputs, wanted, torch.randn(length, *batch, 4, dtype=torch.float64)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=12)
@given(length=st.integers(1, 24), batch=st.sampled_from([(), (3,), (2, 2)]), seed=st.integers(0, 9), data=st.data())
def test_implicit_equals_backpropagation_through_the_loop(name, length, batch, seed, data):
    window = data.draw(st.one_of(st.none(), st.integers(1, length + 1)))
    network, s0, inputs, wanted, weights = setting(length, batch, seed)
    states = li.solve(network, s0, inputs, EVERY[name], window=window, **TIGHT).states
    ours = torch.autograd.grad((states * weights).sum(), wanted)
    theirs = torch.autograd.grad((li.sequential(network, s0, inputs) * weights).sum(), wanted)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("name", UNROLLED)
@settings(max_examples=8)
@given(length=st.integers(1, 20), batch=st.sampled_from([(), (3,)]), seed=st.integers(0, 9))
def test_unrolled_equals_implicit(name, length, batch, seed):
    network, s0, inputs, wanted, weights = setting(length, batch, seed)
    grads = []
    for adjoint in li.Implicit(), li.Unroll():
        states = li.solve(network, s0, inputs, METHODS[name], adjoint=adjoint, **TIGHT).states
        grads.append(torch.autograd.grad((states * weights).sum(), wanted))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["newton", "quasi", "picard", "jacobi", "block", "quasi-hutchinson"])
@pytest.mark.parametrize("window", [None, 3])
def test_gradcheck(name, window):
    network, (s0, u) = Network(), problem(5, (1,))
    inputs = {"gain": torch.ones(5, dtype=torch.float64), "count": torch.zeros(5)}

    def states(s0, drive, weight, bias):
        module = torch.func.functional_call
        f = lambda s, i: module(network, {"weight": weight, "bias": bias}, (s, i))  # noqa: E731
        return li.solve(f, s0, {**inputs, "drive": drive}, METHODS[name], window=window, rtol=1e-13, atol=1e-13).states

    leaves = [leaf.detach().requires_grad_() for leaf in (s0, u, network.weight, network.bias)]
    assert torch.autograd.gradcheck(states, leaves)


def test_the_gradient_of_quasi_newton_is_exact_where_the_diagonal_adjoint_is_not():
    """Released quasi-DEER code solves the adjoint with diag J in place of J^T; on this GRU that is 10 % off or more."""
    module = torch.nn.GRU(32, 32, dtype=torch.float64)
    x, weights = torch.randn(200, 32, dtype=torch.float64), torch.randn(200, 32, dtype=torch.float64)
    f = li.nn.GRURecurrence.from_module(module)
    exact = torch.autograd.grad((module(x)[0] * weights).sum(), module.weight_hh_l0)[0]
    solution = li.solve(f, torch.zeros(32, dtype=torch.float64), f.inputs(x), li.QuasiNewton())
    ours = torch.autograd.grad((solution.states * weights).sum(), module.weight_hh_l0)[0]
    assert (ours - exact).norm() < 1e-6 * exact.norm()
    with torch.no_grad():
        prev = torch.cat([torch.zeros(1, 32, dtype=torch.float64), solution.states[:-1]])
        diagonal = f.linearize(prev, f.inputs(x)).diagonal()
        wrong = li.linear_scan(li.Diagonal(torch.cat([diagonal[1:], diagonal[:1]])), weights, reverse=True)
    f = li.nn.GRURecurrence.from_module(module)  # a fresh graph
    value = f(prev, f.inputs(x))
    theirs = torch.autograd.grad(value, module.weight_hh_l0, wrong)[0]
    assert (theirs - exact).norm() > 0.1 * exact.norm()


def adjoint_iterations(method, monkeypatch, length=1000):
    """Evaluations of the adjoint recurrence in one backward pass, less the one that finds it solved."""
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", "0")  # compiled code solves it directly
    f = li.nn.GRURecurrence.from_module(torch.nn.GRU(8, 8))
    u = tuple(leaf.detach().requires_grad_() for leaf in f.inputs(torch.randn(length, 1, 8)))
    states = li.solve(f, torch.zeros(1, 8), u, method).states
    calls, plain = [], GRUDerivatives.vjp
    monkeypatch.setattr(GRUDerivatives, "vjp", lambda self, w: calls.append(w.shape) or plain(self, w))
    states.square().mean().backward()
    return len(calls) - 1


@pytest.mark.parametrize(("method", "most"), [(li.Newton(), 1), (li.BlockNewton(4), 12), (li.QuasiNewton(), 12)])
def test_the_adjoint_takes_newton_one_iteration_and_a_diagonal_method_a_handful(method, most, monkeypatch):
    assert 1 <= adjoint_iterations(method, monkeypatch) <= most


def test_a_warm_up_and_a_damping_are_left_out_of_the_adjoint(monkeypatch):
    assert adjoint_iterations(li.Then(li.Jacobi(), li.Damped(li.Newton(), 0.3), 16), monkeypatch, 100) == 1


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_scale_of_the_loss_does_not_matter(scale):
    network, s0, inputs, wanted, weights = setting(60, (2,))
    states = li.solve(network, s0, inputs, li.QuasiNewton()).states
    ours = torch.autograd.grad((states * weights).sum() * scale, wanted)
    theirs = torch.autograd.grad((li.sequential(network, s0, inputs) * weights).sum() * scale, wanted)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-8 * other.norm()


def test_a_loss_on_the_last_state_of_one_sequence_leaves_the_others_at_zero():
    network, s0, inputs, wanted, _ = setting(30, (3,))
    states = li.solve(network, s0, inputs, li.QuasiNewton()).states
    grads = torch.autograd.grad(states[-1, 1].sum(), wanted)
    assert torch.equal(grads[2][0], torch.zeros(4, dtype=torch.float64))
    assert grads[2][1].abs().max() > 0
    assert torch.equal(grads[3][:, 2], torch.zeros(30, 4, dtype=torch.float64))


def test_only_what_is_asked_for_gets_a_gradient():
    network, s0, inputs, _, _ = setting(20, (2,))
    network.bias.requires_grad_(False)
    inputs["gain"] = inputs["gain"].detach()
    s0 = s0.detach()
    li.solve(network, s0, inputs, li.QuasiNewton()).states.sum().backward()
    assert network.weight.grad is not None
    assert inputs["drive"].grad is not None
    assert network.bias.grad is None
    assert s0.grad is None
    nothing = li.solve(lambda s, u: 0.5 * s + u, s0, inputs["drive"].detach())
    assert not nothing.states.requires_grad


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_no_gradient_and_no_graph_without_grad_mode(context):
    network, s0, inputs, _, _ = setting(20, (2,))
    with context():
        assert not li.solve(network, s0, inputs, li.QuasiNewton()).states.requires_grad


def test_gradient_checkpointing_and_hooks():
    network, s0, inputs, wanted, weights = setting(20, (2,))
    seen = []

    def run(drive):
        states = li.solve(network, s0, {**inputs, "drive": drive}, li.QuasiNewton(), **TIGHT).states
        states.register_hook(lambda g: seen.append(g.shape))
        return states

    plain = torch.autograd.grad((run(inputs["drive"]) * weights).sum(), wanted)
    states = torch.utils.checkpoint.checkpoint(run, inputs["drive"], use_reentrant=False)
    again = torch.autograd.grad((states * weights).sum(), wanted)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
    assert seen == [(20, 2, 4), (20, 2, 4)]


def test_second_derivatives_are_refused_by_implicit_and_given_by_unroll():
    network, s0, inputs, wanted, _ = setting(10, (2,))
    states = li.solve(network, s0, inputs, li.Newton(), **TIGHT).states
    with pytest.raises(RuntimeError, match=r"adjoint=li\.Unroll\(\)"):
        torch.autograd.grad(states.square().sum(), wanted, create_graph=True)

    def second(states):
        first = torch.autograd.grad(states.square().sum(), network.weight, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), network.weight)[0]

    # Two Newton iterations from the solution carry second derivatives exactly.
    guess = li.sequential(network, s0, inputs).detach()
    unrolled = li.solve(
        network, s0, inputs, li.Newton(), adjoint=li.Unroll(), guess=0.9 * guess, rtol=1e-13, atol=1e-13
    ).states
    torch.testing.assert_close(second(unrolled), second(li.sequential(network, s0, inputs)), rtol=1e-6, atol=1e-6)


def test_torch_func_transforms_say_what_works_instead():
    network, s0, inputs, _, _ = setting(10, (2,))
    with pytest.raises(RuntimeError, match=r"torch\.autograd\.grad.*li\.sequential"):
        torch.func.grad(lambda s0: li.solve(network, s0, inputs, li.Newton()).states.sum())(s0)


def test_a_gradient_that_is_not_finite_stays_so_and_nothing_hangs():
    network, s0, inputs, _, _ = setting(10, (2,))
    states = li.solve(network, s0, inputs, li.QuasiNewton()).states
    (states * torch.inf).sum().backward()
    assert network.weight.grad.isnan().all()


def test_wrong_adjoints():
    network, s0, inputs, _, _ = setting(4, ())
    with pytest.raises(TypeError, match=r"Type `Implicit\(\)`"):
        li.solve(network, s0, inputs, adjoint=li.Implicit)
    with pytest.raises(TypeError, match=r"li\.Implicit\(\) or li\.Unroll\(\)"):
        li.solve(network, s0, inputs, adjoint="implicit")


def test_autocast_is_refused_with_the_way_round():
    linear = torch.nn.Linear(4, 4)
    f = lambda s, u: torch.nn.functional.linear(s, linear.weight)  # noqa: E731
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match=r"autocast.*\.float\(\)"):
        li.solve(f, torch.zeros(4), torch.zeros(5, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert li.solve(lambda s, u: f(s, u).float() + u, torch.zeros(4), torch.zeros(5, 4)).converged


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()], ids=repr)
def test_a_gru_trains_like_torch(method):
    """Fifty steps of SGD on the same data from the same weights: the two losses agree to float32 rounding."""
    module = torch.nn.GRU(3, 8)
    x, target = torch.randn(300, 2, 3), torch.randn(300, 2, 8).tanh()
    losses = []
    for ours in True, False:
        torch.manual_seed(1)
        net, trace = copy.deepcopy(module), []
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(50):
            if ours:
                f = li.nn.GRURecurrence.from_module(net)
                out = li.solve(f, torch.zeros(2, 8), f.inputs(x), method, rtol=0, atol=1e-6).states
            else:
                out = net(x)[0]
            loss = (out - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trace.append(loss.item())
        losses.append(trace)
    assert losses[1][-1] < 0.95 * losses[1][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


class SolvesItsAdjoint:
    """A recurrence with an adjoint of its own, here one that overflows for the first sequence."""

    def __call__(self, s, u):
        return 0.5 * s + u

    def solve_adjoint(self, prev, u, g):
        found = torch.stack([sum(0.5 ** (k - t) * g[k] for k in range(t, len(g))) for t in range(len(g))])
        found[1, 0] = torch.inf
        return found


def test_a_direct_adjoint_is_used_and_nan_where_it_is_not_finite():
    u = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    s0, weights = torch.zeros(2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    (found,) = torch.autograd.grad((li.solve(SolvesItsAdjoint(), s0, u).states * weights).sum(), u)
    (exact,) = torch.autograd.grad((li.sequential(SolvesItsAdjoint(), s0, u) * weights).sum(), u)
    assert found[:, 0].isnan().all()
    torch.testing.assert_close(found[:, 1], exact[:, 1])
    states = li.solve(SolvesItsAdjoint(), s0, u, adjoint=li.Implicit(method=li.Newton())).states
    torch.testing.assert_close(torch.autograd.grad((states * weights).sum(), u)[0], exact)


@pytest.mark.parametrize("name", ["newton", "quasi", "picard", "jacobi"])
def test_a_recurrence_whose_jacobian_is_the_identity(name):
    """A vector-Jacobian product by the identity is its argument itself, into which nothing may be written."""
    gain = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    s0, inputs = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3,), (20, 3)))
    walk = lambda s, u: s + gain * u  # noqa: E731
    weights = torch.randn(20, 3, dtype=torch.float64)
    ours = (li.solve(walk, s0, inputs, METHODS[name], **TIGHT).states * weights).sum()
    theirs = (li.sequential(walk, s0, inputs) * weights).sum()
    wanted = [gain, s0, inputs]
    for one, other in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
