"""The laws of transitions and scans, for every structure."""

from dataclasses import dataclass

import pytest
import torch
from catalogue import STRUCTURES, transitions
from hypothesis import given
from hypothesis import strategies as st

import lds_iter as li
from lds_iter.linear import registry
from lds_iter.linear.mixing import clipped, select
from lds_iter.linear.transitions import map_leaves
from lds_iter.testing import check_scan, check_transition

# float64 everywhere: what is left is rounding, a few units of 1e-16 times the number of terms.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SHAPES = st.tuples(st.integers(1, 40), st.sampled_from([(), (1,), (3,), (2, 2)]), st.sampled_from([2, 4]))


@pytest.fixture(params=["1", "0"], ids=["compiled", "plain"], autouse=True)
def _kernels(request, monkeypatch):
    """Every law with compiled kernels (where there is a compiler) and with plain torch operations."""
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", request.param)


def draw(name, shape, seed, scale=1.0):
    n, batch, width = shape
    generator = torch.Generator().manual_seed(seed)
    transition = transitions(n, batch, width, scale, generator)[name]
    b = torch.randn(n, *batch, width, generator=generator, dtype=torch.float64)
    initial = torch.randn(*batch, width, generator=generator, dtype=torch.float64)
    return transition, b, initial


@pytest.mark.parametrize("name", STRUCTURES)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_the_laws_of_a_structure(name, shape, seed):
    transition, b, _ = draw(name, shape, seed)
    check_transition(transition, b, seed=seed)


@pytest.mark.parametrize("name", STRUCTURES)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_the_laws_of_its_scan(name, shape, seed):
    transition, b, _ = draw(name, shape, seed)
    check_scan(transition, b, seed=seed)


@pytest.mark.parametrize("one", STRUCTURES)
@pytest.mark.parametrize("other", STRUCTURES)
def test_select_takes_each_row_from_its_transition(one, other):
    first, b, _ = draw(one, (5, (2,), 4), 1)
    second = draw(other, (5, (2,), 4), 2)[0]
    where = torch.tensor([True, False, True, True, False])[:, None, None].expand(5, 2, 1)
    mixed = select(where, first, second, b)
    torch.testing.assert_close(mixed.mv(b), torch.where(where, first.mv(b), second.mv(b)), **CLOSE)


def test_clipped_bounds_the_infinity_norm_of_every_block():
    for name, transition in transitions(7, (2,), 4, scale=5.0).items():
        like = torch.zeros(7, 2, 4, dtype=torch.float64)
        found = clipped(transition, 0.8, like)
        assert found.dense(like).matrix.abs().sum(-1).max() <= 0.8 + 1e-12, name
        torch.testing.assert_close(clipped(transition, 1e9, like).mv(like + 1), transition.mv(like + 1))
        if name.startswith("own"):
            assert type(found) is type(transition)


@pytest.mark.parametrize("name", STRUCTURES)
def test_gradients_of_a_scan(name):
    """Against finite differences, in every leaf, in `b` and in the initial value."""
    transition, b, initial = draw(name, (7, (2,), 2), 5)
    leaves = [leaf.clone().requires_grad_() for leaf in li.linear.leaves(transition)]

    def scan(b, initial, *values):
        remaining = list(values)
        return li.linear_scan(map_leaves(lambda _: remaining.pop(0), transition), b, initial)

    arguments = (b.requires_grad_(), initial.requires_grad_(), *leaves)
    assert torch.autograd.gradcheck(scan, arguments)
    assert torch.autograd.gradgradcheck(scan, arguments)


def test_gradient_memory_does_not_grow_with_the_square_of_time():
    a = torch.rand(20_000, 4, requires_grad=True)
    li.linear_scan(li.Diagonal(a), torch.ones(20_000, 4)).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_out_may_be_b_itself():
    with torch.no_grad():
        transition, b, initial = draw("diagonal", (9, (2,), 2), 0)
        expected = li.linear_scan(transition, b, initial)
        assert li.linear_scan(transition, b, initial, out=b) is b
        assert torch.equal(b, expected)
        with pytest.raises(ValueError, match="leave it out"):
            li.linear_scan(transition, b, reverse=True, out=b)


def test_a_registered_scan_is_used(monkeypatch):
    calls = []
    monkeypatch.setattr(registry, "_KERNELS", dict(registry._KERNELS))

    @li.register_scan(li.Zero, "cpu")
    def counted(transition, x, initial):
        calls.append(x.shape)

    li.linear_scan(li.Zero(), torch.ones(3, 2))
    assert calls == [(3, 2)]


def test_one_scan_a_structure_and_device(monkeypatch):
    monkeypatch.setattr(registry, "_KERNELS", dict(registry._KERNELS))
    with pytest.raises(ValueError, match=r"Diagonal has a forward scan for 'cpu' already: lds_iter\.kernels"):
        li.register_scan(li.Diagonal, "cpu")(li.reference_scan)
    with pytest.raises(ValueError, match=r"kind of device such as 'cpu' or 'cuda', got 'gpu'\. Did you mean 'cuda'"):
        li.register_scan(li.Zero, "gpu")
    with pytest.raises(TypeError, match=r"must be a class of transitions such as li\.Diagonal, got Zero"):
        li.register_scan(li.Zero())
    with pytest.raises(TypeError, match=r"no transition|must say what structure"):
        li.linear_scan(torch.ones(3, 2), torch.ones(3, 2))

    @li.register_scan(li.Zero, "cpu")
    def returns(transition, x, initial):
        return x

    with pytest.raises(TypeError, match=r"registered for Zero returns a value\. It must write the solution into"):
        li.linear_scan(li.Zero(), torch.ones(3, 2))


@pytest.mark.parametrize("name", STRUCTURES)
def test_signs_for_the_algebra(name):
    a, x, _ = draw(name, (6, (2,), 4), 0)
    b = draw(name, (6, (2,), 4), 1)[0]
    factor = torch.rand(6, 2, 1, dtype=x.dtype)
    torch.testing.assert_close((a @ b) @ x, a.mv(b.mv(x)), **CLOSE)
    torch.testing.assert_close(a.T @ x, a.transpose().mv(x), **CLOSE)
    for found in 0.5 * a, a * 0.5:
        torch.testing.assert_close(found @ x, 0.5 * a.mv(x), **CLOSE)
    for found in factor * a, a * factor:
        torch.testing.assert_close(found @ x, factor * a.mv(x), **CLOSE)
    torch.testing.assert_close(a.dense(x) @ x, a @ x, **CLOSE)


def test_structures_that_differ_do_not_compose():
    with pytest.raises(TypeError, match=r"got Identity and Zero. For full matrices type `a.dense\(x\) @ b.dense\(x\)`"):
        li.Identity() @ li.Zero()


@dataclass(frozen=True)
class MatrixFirst(li.AbstractTransition):
    """`diag(c) + Q`: a matrix in the first field, whose rank says nothing of the rank of the states."""

    q: torch.Tensor
    c: torch.Tensor

    def mv(self, x):
        return self.c * x + (self.q @ x.unsqueeze(-1)).squeeze(-1)

    def after(self, earlier):
        both = torch.diag_embed(self.c) @ earlier.q + self.q @ (torch.diag_embed(earlier.c) + earlier.q)
        return MatrixFirst(both, self.c * earlier.c)

    def transpose(self):
        return MatrixFirst(self.q.mT, self.c)

    def scaled(self, factor):
        return MatrixFirst(li.linear.times(factor, self.q), li.linear.times(factor, self.c))


@pytest.mark.parametrize("factor", [0.25, "rows"])
def test_the_rank_of_a_factor_is_that_of_the_states(factor):
    a, x = MatrixFirst(torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4)), torch.randn(5, 3, 4)
    factor = torch.rand(5, 3, 1) if factor == "rows" else factor
    torch.testing.assert_close(a.scaled(factor).mv(x), factor * a.mv(x))
    s0, u = torch.zeros(3, 4, dtype=torch.float64), torch.randn(30, 3, 4, dtype=torch.float64)

    class Own(li.TransitionApproximation):
        def transition(self, lin):
            return MatrixFirst(lin.jacobian().tril(-1), lin.diagonal())

    f = lambda s, u: torch.tanh(0.5 * s + 0.3 * s.roll(1, -1) + u)  # noqa: E731
    kalman = li.LevenbergMarquardt(9.0, Own())
    for method in li.Damped(Own(), 0.1), li.Clipped(Own(), 0.5), li.TrustRegion(Own()), kalman:
        solution = li.solve(f, s0, u, method)
        torch.testing.assert_close(solution.states, li.sequential(f, s0, u), **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_blocks_of_every_size(size, n):
    blocks = li.BlockDiagonal(torch.randn(n, 2, 3, size, size, dtype=torch.float64))
    b, initial = torch.randn(n, 2, 3 * size, dtype=torch.float64), torch.randn(2, 3 * size, dtype=torch.float64)
    for before in None, initial:
        expected = b.clone()
        li.reference_scan(blocks, expected, before)
        torch.testing.assert_close(li.linear_scan(blocks, b, before), expected)
