"""Front ends whose user's function refuses forward mode, or `torch.func` altogether, and how often they find out."""

import copy
import pickle

import pytest
import torch
from problems import CLOSE, problem
from refusing import WEIGHT, WIDTH, Older, Once, WithoutJvp

import lds_iter as li


class Counted(torch.autograd.Function):
    """A tanh that vmap takes, and that counts how often forward mode is tried."""

    generate_vmap_rule = True
    tries = 0

    forward, setup_context, backward = WithoutJvp.forward, WithoutJvp.setup_context, WithoutJvp.backward

    @staticmethod
    def jvp(ctx, tangent):
        Counted.tries += 1
        raise NotImplementedError("no derivative in forward mode")


@pytest.fixture(autouse=True)
def none_tried():
    Counted.tries = 0


KINDS = {"counted": Counted.apply, "without-vmap": WithoutJvp.apply, "older": Older.apply}
"""A kernel that refuses forward mode, one that refuses vmap too, and one that `torch.func` does not take at all."""

quietly = pytest.mark.filterwarnings("ignore::lds_iter.PerformanceWarning")


def logdensity_of(tanh):
    return lambda x: -x.square().sum(-1) / 2 - tanh(x @ WEIGHT.T).square().sum(-1) / 4


def for_one(logdensity):
    """The same for one position alone, so that it has to be mapped over many."""

    def alone(x):
        assert x.ndim == 1
        return logdensity(x)

    return alone


def start():
    return torch.randn(3, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def draws(sampler, **options):
    return li.mcmc.sample(sampler, start(), 4, generator=torch.Generator().manual_seed(1), **options).positions


@quietly
@pytest.mark.parametrize("single", [False, True], ids=["batched", "mapped"])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", [None, li.QuasiNewton(li.Hutchinson())], ids=["default", "hutchinson"])
def test_samplers(name, single, method):
    found, expected = (
        draws(li.mcmc.mala(for_one(density) if single else density, 0.2), method=method)
        for density in (logdensity_of(KINDS[name]), logdensity_of(torch.tanh))
    )
    torch.testing.assert_close(found, expected, **CLOSE)
    assert Counted.tries <= 1


@quietly
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "method", [li.Newton(), li.BlockNewton(2), li.mcmc.ProbedBlocks(2)], ids=["newton", "blocks", "probed"]
)
def test_leapfrog_steps_find_out_once_for_all_moves(name, method):
    found, expected = (
        li.mcmc.sample_in_turn(
            li.mcmc.hmc(logdensity_of(tanh), 0.2, None, 8),
            start(), 4, generator=torch.Generator().manual_seed(1), leapfrog=method,
        ).positions
        for tanh in (KINDS[name], torch.tanh)
    )  # fmt: skip
    torch.testing.assert_close(found, expected, **CLOSE)
    assert Counted.tries == (name == "counted")


def integral(tanh, method, *, times=None, grad=False):
    y0 = start().requires_grad_(grad)
    times = torch.linspace(0, 1, 17, dtype=torch.float64) if times is None else times
    ys = li.ode.odeint(lambda t, y: tanh(y @ WEIGHT.T) - t * y, y0, times, method=method)
    return torch.autograd.grad(ys.sin().sum(), y0)[0] if grad else ys


@quietly
@pytest.mark.parametrize("grad", [False, True], ids=["states", "gradient"])
@pytest.mark.parametrize("method", ["rk4", "trapezoid", "deer"])
@pytest.mark.parametrize("name", KINDS)
def test_differential_equations(name, method, grad):
    found, expected = (integral(tanh, method, grad=grad) for tanh in (KINDS[name], torch.tanh))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # the tolerance of the steps
    assert Counted.tries <= 1


@quietly
def test_each_integral_finds_out_once_however_many_steps_and_iterations():
    """A long chaotic one, in spans with solves on coarser grids, each with many linearizations."""
    func = li.ode.recurrence(lambda t, y: 8 * Counted.apply(3 * y @ WEIGHT.T) - y, start(), torch.linspace(0, 9, 900))
    assert not func[0].refusals.words
    li.ode.odeint(lambda t, y: 8 * Counted.apply(3 * y @ WEIGHT.T) - y, start(), torch.linspace(0, 9, 900).double())
    assert Counted.tries <= 1


def test_a_function_without_a_rule_for_vmap_is_called_row_by_row_and_says_so():
    with pytest.warns(li.PerformanceWarning, match="generate_vmap_rule") as caught:
        integral(WithoutJvp.apply, "rk4")
    assert len(caught) == 1


@pytest.mark.parametrize("train", [False, True], ids=["no-grad", "training"])
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(li.Hutchinson())], ids=["newton", "hutchinson"])
def test_a_layer_finds_out_once_for_all_forwards(method, train):
    layer = li.nn.Recurrent(lambda x, s: Counted.apply(s @ WEIGHT.T + x), method=method, rtol=1e-12, atol=1e-12)
    x, s0 = problem(12, (3,))[1].requires_grad_(train), torch.zeros(3, WIDTH, dtype=torch.float64)
    for _ in range(3):
        states = layer(x, s0)[0]
        if train:
            states.sum().backward()
    expected = li.sequential(lambda s, u: torch.tanh(s @ WEIGHT.T + u), s0, x)
    torch.testing.assert_close(states, expected, **CLOSE)
    assert Counted.tries == 1
    for same in copy.deepcopy(layer.__getstate__()), layer.__getstate__():  # found while running, so no part of a copy
        assert "_refusals" not in same


def test_depth_finds_out_once():
    block = torch.nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
    stack = li.depth.shared(lambda h: Counted.apply(block(h)), start(), 9)
    with torch.no_grad():
        solution = stack.solve(li.QuasiNewton(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(solution.states, stack.sequential(), **CLOSE)
        assert Counted.tries == 1
        li.depth.growth_per_layer(stack, solution.states)
    assert Counted.tries == 2


def attend(s, u):
    """Torch's own attention over three tokens, which on every device has one derivative, in reverse mode."""
    tokens = s.reshape(-1, 3, WIDTH)
    query, key, value = (tokens @ WEIGHT.T).unsqueeze(1), tokens.unsqueeze(1), tokens.sin().unsqueeze(1)
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value).squeeze(1)
    return 0.5 * mixed.reshape(s.shape) + u


@pytest.mark.parametrize("train", [False, True], ids=["no-grad", "training"])
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton()], ids=["newton", "diagonal"])
def test_fused_attention(method, train):
    u = torch.randn(10, 2, 3 * WIDTH, dtype=torch.float64).requires_grad_(train)
    s0 = torch.zeros(2, 3 * WIDTH, dtype=torch.float64)
    states, expected = (
        li.solve(attend, s0, u, method, rtol=1e-12, atol=1e-12).states, li.sequential(attend, s0, u),
    )  # fmt: skip
    torch.testing.assert_close(states, expected, **CLOSE)
    if train:
        one, other = (torch.autograd.grad(x.cos().sum(), u)[0] for x in (states, expected))
        torch.testing.assert_close(one, other, **CLOSE)


def test_diagnostics():
    s0, u = problem(30, (2,))
    for tanh in Counted.apply, Older.apply:
        f = of(tanh)
        found, expected = li.diagnostics.lyapunov(f, s0, u), li.diagnostics.lyapunov(of(torch.tanh), s0, u)
        torch.testing.assert_close(found.exponents, expected.exponents, **CLOSE)
        li.verify(f, s0, u).raise_if_failed()
        for compared in li.compare(f, s0, u, [li.Newton(), li.QuasiNewton()]).methods:
            assert compared.error.max() < 1e-6
        found, expected = (li.diagnostics.predict_iterations(each, s0, u).iterations for each in (f, of(torch.tanh)))
        assert torch.equal(found, expected)


def of(tanh):
    return lambda s, u: tanh(s @ WEIGHT.T) + u


@quietly
@pytest.mark.parametrize(
    "attempt",
    [
        lambda: draws(li.mcmc.mala(logdensity_of(Once.apply), 0.3)),
        lambda: draws(li.mcmc.mala(logdensity_of(Once.apply), 0.3), method=li.QuasiNewton(li.Hutchinson())),
        lambda: integral(Once.apply, "deer", grad=True),
    ],
    ids=["jacobian", "product", "gradient"],
)
def test_a_second_derivative_that_is_not_there_is_never_taken_for_zero(attempt):
    """Autograd leaves it out without a word where a gradient of a gradient is asked for by `torch.autograd.grad`."""
    with pytest.raises(RuntimeError, match="cannot be differentiated twice") as caught:
        attempt()
    assert any("SDPBackend.MATH" in note for note in caught.value.__notes__)


@quietly
def test_first_derivatives_alone_do_not_need_the_second():
    for method in "rk4", "implicit_midpoint", "deer":
        torch.testing.assert_close(integral(Once.apply, method), integral(torch.tanh, method), rtol=1e-6, atol=1e-6)
    sampler = li.mcmc.mala(logdensity_of(Once.apply), 0.3)
    torch.testing.assert_close(
        draws(sampler, method=li.Picard()), draws(li.mcmc.mala(logdensity_of(torch.tanh), 0.3)), **CLOSE
    )


def test_what_was_refused_is_pickled_with_the_function():
    f = li.Autodiff(torch.nn.Tanh())
    f.refusals.words["J v in reverse mode"] = "why"
    assert pickle.loads(pickle.dumps(f)).refusals.words == copy.deepcopy(f).refusals.words == f.refusals.words
