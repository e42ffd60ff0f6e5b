"""Settings of torch that change precision behind everyone's back: autocast, TF32, the default dtype."""

import pytest
import torch
from catalogue import METHODS
from problems import problem

import lds_iter as li

HALVES = torch.bfloat16, torch.float16
LINEAR = torch.nn.Linear(4, 4)


def rounded(s, u):
    """Under autocast a matrix product in half precision, returned as the states are."""
    return torch.tanh(LINEAR(s)).float() + u


def exact(s, u):
    """The same in full precision, whatever is set around it."""
    with torch.autocast("cpu", enabled=False):
        return torch.tanh(LINEAR(s)) + u


def data():
    s0, u = problem(20, (2,))
    return s0.float(), u.float()


@pytest.mark.parametrize("name", METHODS)
def test_autocast_reaches_f_alone(name):
    """Around an `f` that it does not touch, no scan and no algebra of a method is rounded: nothing changes."""
    s0, u = data()
    expected = li.solve(exact, s0, u, METHODS[name], throw=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = li.solve(exact, s0, u, METHODS[name], throw=False)
    assert torch.equal(found.states, expected.states)
    assert torch.equal(found.iterations, expected.iterations)


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.Auto()], ids=["newton", "diagonal", "auto"])
def test_states_keep_the_dtype_of_s0_and_are_those_of_f_under_autocast(half, method):
    s0, u = data()
    with torch.autocast("cpu", half):
        states = li.solve(rounded, s0, u, method).states
        torch.testing.assert_close(states, li.sequential(rounded, s0, u), rtol=0, atol=1e-4)  # ten times the tolerance
    assert states.dtype == torch.float32
    assert (states - li.sequential(rounded, s0, u)).abs().max() > 1e-4  # so autocast did something


@pytest.mark.parametrize("f", [rounded, li.Autodiff(rounded)], ids=["plain", "autodiff"])
def test_the_backward_pass_after_autocast_is_that_of_what_was_solved(f):
    """As torch advises: forward and loss under autocast, `backward()` outside."""
    s0, u = data()
    u.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = li.solve(f, s0, u).states, li.sequential(rounded, s0, u)
    wanted = u, *LINEAR.parameters()
    for one, other in zip(*(torch.autograd.grad(x.sin().sum(), wanted) for x in (found, expected)), strict=True):
        assert one.dtype == torch.float32
        # half a per cent is a rounding to bfloat16, which the loop makes of its sums over time too
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


@pytest.mark.parametrize("default", [torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_default_dtype_is_not_asked_for(default, dtype):
    s0, u = (x.to(dtype) for x in data())
    f = lambda s, u: torch.tanh(0.5 * s.roll(1, -1)) + u  # noqa: E731
    times = torch.linspace(0, 1, 9, dtype=dtype)
    expected = {name: li.solve(f, s0, u, method, throw=False).states for name, method in METHODS.items()}
    torch.set_default_dtype(default)
    try:
        for name, method in METHODS.items():
            states = li.solve(f, s0, u, method, throw=False).states
            assert torch.equal(states, expected[name]), name
            assert states.dtype == dtype
        assert li.solve(f, s0, u).error_estimate().dtype == dtype
        assert li.ode.odeint(lambda t, y: -y, s0, times).dtype == dtype
        sampler = li.mcmc.hmc(lambda x: -x.square().sum(-1) / 2, 0.3)
        assert li.mcmc.sample(sampler, s0, 9).positions.dtype == dtype
        li.diagnostics.lyapunov(f, s0, u)
    finally:
        torch.set_default_dtype(torch.float32)


def test_scans_on_a_gpu_do_not_use_tf32_where_it_is_allowed():
    """Their products are made of three, which is as exact as float32."""
    pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux")
    from lds_iter.kernels.triton.scans.dense_scan import precision_of

    torch.set_float32_matmul_precision("high")
    try:
        assert precision_of(torch.float32, torch.float32) == "tf32x3"
        assert precision_of(torch.float64, torch.float64) == "ieee"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_generator_of_another_device_is_refused_by_name():
    sampler = li.mcmc.hmc(lambda x: -x.square().sum(-1) / 2, 0.3)
    with pytest.raises(ValueError, match=r"`generator` must be on the device"):
        li.mcmc.sample(sampler, torch.zeros(2, device="meta"), 4, generator=torch.Generator("cpu"))


@pytest.mark.parametrize("structure", [li.Dense, li.Diagonal])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans_and_their_gradients_keep_full_precision_under_autocast(structure, reverse):
    shape = (12, 3, 3) if structure is li.Dense else (12, 3)
    numbers = 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    b = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))

    def found() -> list[torch.Tensor]:
        a, inhomogeneous, initial = (x.clone().requires_grad_() for x in (numbers, b, b[0]))
        x = li.linear_scan(structure(a), inhomogeneous, initial, reverse=reverse)
        return [x, *torch.autograd.grad(x.square().sum(), (a, inhomogeneous, initial))]

    plain = found()
    with torch.autocast("cpu", torch.bfloat16):
        under = found()
    torch.testing.assert_close(under, plain, rtol=0, atol=0)


def test_an_iteration_by_hand_keeps_its_scans_in_full_precision_under_autocast():
    f = lambda s, u: torch.tanh(0.9 * s.roll(1, -1) + u)  # noqa: E731
    u = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))

    def second() -> torch.Tensor:
        now = li.start(f, torch.zeros(4), u, li.Newton())
        with torch.no_grad():
            return li.iterate(li.iterate(now)).states

    plain = second()
    with torch.autocast("cpu", torch.bfloat16):
        under = second()
    torch.testing.assert_close(under, plain, rtol=0, atol=0)
