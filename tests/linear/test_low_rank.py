"""A diagonal plus low rank: its scan against the loop over time, and Newton on recurrences that declare it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lds_iter as li
from lds_iter.linear import leaves
from lds_iter.linear.low_rank import low_rank_scan
from lds_iter.testing import check_derivatives, check_transition

# float64: a few roundings of 1e-16 for each of at most 40 steps, in units of the largest state.
ROUNDING = 1e-11


@st.composite
def problems(draw):
    """Any diagonal, zeros and numbers above 1 among them; ranks 0 to 3; any batch, also one that broadcasts."""
    n, width, rank = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 3, 7, 16])), draw(st.integers(0, 3))
    batch = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    shared = tuple(1 for _ in batch) if draw(st.booleans()) else batch
    diagonal = draw(st.sampled_from([0.0, 0.5, 1.0, 1.3])) * normal(n, *batch, width)
    if draw(st.booleans()):
        diagonal = diagonal.masked_fill(normal(n, *batch, width) > 0, 0)
    if draw(st.booleans()):
        diagonal = torch.ones((), dtype=torch.float64).expand(n, *batch, width)
    u, v = normal(n, *shared, width, rank), normal(n, *batch, width, rank) / width
    if draw(st.booleans()):
        u = u.masked_fill(normal(n, *shared, 1, 1) > 0, 0)
    return li.LowRank(diagonal, u, v), normal(n, *batch, width), normal(*batch, width)


def by_steps(transition, b, initial):
    x, rows = initial, []
    for d, u, v, now in zip(transition.diagonal, transition.u, transition.v, b, strict=True):
        x = d * x + (u @ (v.mT @ x.unsqueeze(-1))).squeeze(-1) + now
        rows.append(x)
    return torch.stack(rows)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING * max(1.0, float(expected.abs().max())))


@given(problems())
def test_the_scans_are_the_loop(problem):
    transition, b, initial = problem
    expected = by_steps(transition, b, initial)
    close(li.linear_scan(transition, b, initial), expected)
    with torch.no_grad():
        by_torch, by_after = b.clone(), b.clone()
        low_rank_scan(transition, by_torch, initial)  # as on CUDA
        li.reference_scan(transition, by_after, initial)
    close(by_torch, expected)
    close(by_after, expected)
    backwards = li.LowRank(*(leaf.flip(0) for leaf in leaves(transition)))
    close(li.linear_scan(backwards, b.flip(0), initial, reverse=True).flip(0), expected)


@given(problems())
def test_the_laws_of_the_structure(problem):
    transition, b, _ = problem
    check_transition(transition, b)
    torch.testing.assert_close(transition.matrices().mv(b), transition.mv(b))


@given(problems())
def test_a_transposed_scan_is_the_adjoint(problem):
    """`g . x(b)` equals `l(g) . b`, with `l_t = g_t + A_{t+1}^T l_{t+1}`."""
    transition, b, _ = problem
    g = torch.randn_like(b)
    rows = torch.arange(1, len(b) + 1) % len(b)
    later = li.LowRank(*(leaf[rows] for leaf in leaves(transition.transpose())))
    one = (g * li.linear_scan(transition, b)).sum()
    other = (li.linear_scan(later, g, reverse=True) * b).sum()
    scale = (g.abs() * li.linear_scan(transition, b).abs()).sum().clamp(min=1)
    assert (one - other).abs() <= ROUNDING * scale


def test_a_product_never_has_more_than_d_columns():
    one = li.LowRank(torch.randn(3, 4), torch.randn(3, 4, 3), torch.randn(3, 4, 3))
    assert one.after(one).rank == 4
    torch.testing.assert_close(one.after(one).matrices().matrix, one.matrices().matrix @ one.matrices().matrix)


def test_shapes_that_do_not_fit_are_answered():
    with pytest.raises(ValueError, match=r"got \(5, 4\), \(5, 4\) and \(5, 4\)\. For rank 1 type `u\.unsqueeze\(-1\)`"):
        li.LowRank(torch.ones(5, 4), torch.ones(5, 4), torch.ones(5, 4))
    with pytest.raises(ValueError, match="takes a diagonal"):
        li.LowRank(torch.ones(5, 4), torch.ones(5, 4, 1), torch.ones(5, 4, 2))
    wrong = li.LowRank(torch.ones(5, 4), torch.ones(5, 4, 1), torch.ones(5, 4, 1))
    with pytest.raises(ValueError, match=r"has width D = 4, and the states have 3"):
        li.linear_scan(wrong, torch.ones(5, 3))
    with pytest.raises(TypeError, match=r"must have tensors of torch.float64 like the states, got \['torch.float32'\]"):
        li.linear_scan(wrong, torch.ones(5, 4, dtype=torch.float64))


class Householder:
    """`s' = tanh(a) s - beta k (k . sin s) + u`: a diagonal plus rank one, which changes with the state."""

    def __init__(self, k, decay):
        self.k, self.decay = k, decay

    def __call__(self, s, u):
        return self.decay * s - 0.7 * self.k * (self.k * s.sin()).sum(-1, keepdim=True) + u

    def linearize(self, s, u):
        d, k = self.decay.expand_as(s), self.k.expand_as(s).unsqueeze(-1)
        transition = li.LowRank(d, -0.7 * k, k * s.cos().unsqueeze(-1))
        return li.StructuredDerivatives(self(s, u), transition)


def householder(width=6, batch=(2,), length=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    k = torch.nn.functional.normalize(torch.randn(width, generator=generator, dtype=torch.float64), dim=-1)
    decay = torch.rand(width, generator=generator, dtype=torch.float64)
    u = torch.randn(length, *batch, width, generator=generator, dtype=torch.float64)
    return Householder(k, decay), torch.zeros(*batch, width, dtype=torch.float64), u


def test_the_derivatives_of_a_recurrence_that_declares_it():
    f, _, u = householder()
    check_derivatives(f, torch.randn_like(u), u)


class Chosen(li.TransitionApproximation):
    """Newton, which notes what it chose."""

    def __init__(self):
        self.seen = []

    def transition(self, lin):
        chosen = li.Newton().transition(lin)
        self.seen.append(type(chosen))
        return chosen


def test_newton_takes_the_structure_that_f_declares():
    f, s0, u = householder()
    for step, kind in (f, li.LowRank), (lambda s, u: f(s, u), li.Dense):
        method = Chosen()
        solution = li.solve(step, s0, u, method)
        assert set(method.seen) == {kind}
        torch.testing.assert_close(solution.states, li.sequential(f, s0, u), rtol=1e-9, atol=1e-9)
    # The same matrices: as many iterations.
    assert torch.equal(li.solve(f, s0, u).iterations, li.solve(lambda s, u: f(s, u), s0, u).iterations)


@pytest.mark.parametrize("method", [
    li.Newton(), li.Damped(li.Newton(), 0.1), li.Clipped(li.Newton(), 0.9), li.TrustRegion(li.Newton()),
    li.Chord(li.Newton(), 2), li.LowPrecision(li.Newton(), torch.float32), li.LevenbergMarquardt(30.0),
    li.Then(li.QuasiNewton(), li.Newton(), 2),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("window", [None, 7])
def test_every_wrapper_solves_it(method, window):
    f, s0, u = householder()
    solution = li.solve(f, s0, u, method, window=window)
    torch.testing.assert_close(solution.states, li.sequential(f, s0, u), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("adjoint", [li.Implicit(), li.Implicit(li.QuasiNewton()), li.Implicit(window=9), li.Unroll()])
def test_gradients_are_those_of_the_loop(adjoint):
    f, s0, u = householder(length=25)
    arguments = s0.requires_grad_(), u.requires_grad_(), f.k.requires_grad_(), f.decay.requires_grad_()
    states = li.solve(f, s0, u, adjoint=adjoint, rtol=1e-13, atol=1e-13).states
    found = torch.autograd.grad(states.square().sum(), arguments)
    expected = torch.autograd.grad(li.sequential(f, s0, u).square().sum(), arguments)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_blockwise_finds_the_blocks(size):
    mix = torch.randn(size, size, dtype=torch.float64)

    class Blocks:
        def __call__(self, s, u):
            groups = torch.tanh(s.unflatten(-1, (-1, size)) @ mix + u.unflatten(-1, (-1, size)))
            return groups.flatten(-2)

        def linearize(self, s, u):
            return li.blockwise(self, s, u, size)

    u = torch.randn(30, 2, 12, dtype=torch.float64)
    check_derivatives(Blocks(), torch.randn_like(u), u)
    solution = li.solve(Blocks(), torch.zeros(2, 12, dtype=torch.float64), u)
    torch.testing.assert_close(solution.states, li.sequential(Blocks(), torch.zeros(2, 12, dtype=torch.float64), u))


def test_what_is_no_structure_is_answered():
    with pytest.raises(ValueError, match=r"divides the state's width D = 4, got 3"):
        li.blockwise(lambda s, u: s, torch.ones(2, 4), None, 3)
    with pytest.raises(TypeError, match=r"such as li\.Diagonal\(slopes\).*got Tensor"):
        li.StructuredDerivatives(torch.ones(2, 4), torch.ones(2, 4))  # pyright: ignore
