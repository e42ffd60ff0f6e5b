"""`li.scan` against a plain loop and torch's own scan: values, outputs, gradients, and what it refuses."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch.utils import _pytree as pytree

import lds_iter as li

METHODS = [None, li.Newton(), li.QuasiNewton(), li.Jacobi(), li.TrustRegion(li.Newton())]
SOLVED = {"rtol": 0, "atol": 1e-9}
"""In float64 the residual is 1e-10 at most, and the steps here contract."""


def loop(step, init, xs, length=None, reverse=False):
    """The same, one step after the other."""
    length = len(next(leaf for leaf in pytree.tree_leaves(xs) if leaf is not None)) if length is None else length
    carry, ys = init, []
    for t in reversed(range(length)) if reverse else range(length):
        carry, y = step(carry, pytree.tree_map(lambda leaf, t=t: leaf if leaf is None else leaf[t], xs))
        ys.append(y)
    ys = ys[::-1] if reverse else ys
    return carry, pytree.tree_map(lambda *rows: None if rows[0] is None else torch.stack(rows), *ys)


def assert_same(ours, theirs, **tolerances):
    one, other = pytree.tree_flatten(ours), pytree.tree_flatten(theirs)
    assert one[1] == other[1]
    for a, b in zip(one[0], other[0], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **(tolerances or SOLVED))


def real(leaf):
    return (torch.stack([leaf.real, leaf.imag], -1) if leaf.is_complex() else leaf).flatten().double()


def mixing(weight):
    """A step of any carry: every number of the next one is a tanh of all numbers of the last one and of the inputs."""

    def step(carry, x):
        flat = torch.cat([real(leaf) for leaf in pytree.tree_leaves(carry)])
        now = torch.tanh(flat @ weight + sum(real(leaf).sum() for leaf in pytree.tree_leaves(x)))
        parts = iter(now.split([real(leaf).numel() for leaf in pytree.tree_leaves(carry)]))

        def shaped(leaf):
            part = next(parts)
            return (
                torch.complex(*part.view(-1, 2).unbind(-1)).reshape(leaf.shape).to(leaf.dtype)
                if (leaf.is_complex())
                else part.reshape(leaf.shape).to(leaf.dtype)
            )

        return pytree.tree_map(shaped, carry), {"now": now, "sign": now > 0, "none": None}

    return step


LEAVES = st.tuples(
    st.lists(st.integers(1, 3), max_size=2).map(tuple), st.sampled_from([torch.float64, torch.complex128])
)
CARRIES = st.recursive(
    LEAVES.map(lambda leaf: ("leaf", *leaf)),
    lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
    max_leaves=3,
)


def made(carry):
    if isinstance(carry, list):
        return [made(part) for part in carry]
    if isinstance(carry, dict):
        return {name: made(part) for name, part in carry.items()}
    return torch.randn(carry[1], dtype=carry[2])


@hypothesis.given(
    CARRIES, st.integers(1, 12), st.booleans(), st.sampled_from(METHODS), st.sampled_from([None, 1, 3, 100])
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_equals_the_loop_for_any_carry(carry, length, reverse, method, window):
    torch.manual_seed(0)
    init = made(carry)
    size = sum(real(leaf).numel() for leaf in pytree.tree_leaves(init))
    weight = (torch.randn(size, size, dtype=torch.float64) / (2 * math.sqrt(size))).requires_grad_()
    xs = (torch.randn(length, 2, dtype=torch.float64, requires_grad=True), {"b": torch.randn(length).double()})
    leaves = [leaf.requires_grad_() for leaf in pytree.tree_leaves(init)]
    step, wanted = mixing(weight), [weight, xs[0], *leaves]

    def slopes(last, ys):
        total = ys["now"].square().sum() + sum(real(leaf).sum() for leaf in pytree.tree_leaves(last))
        return torch.autograd.grad(total, wanted)

    ours = li.scan(step, init, xs, method=method, reverse=reverse, window=window)
    theirs = loop(step, init, xs, reverse=reverse)
    assert_same(ours[0], theirs[0])
    assert_same({**ours[1], "sign": None}, {**theirs[1], "sign": None})
    assert_same(slopes(*ours), slopes(*theirs), rtol=0, atol=1e-7)  # states to 1e-10, adjoints to 1e-10, sums of 100


def gated(carry, x):
    """Two leaves of unlike shapes, and two outputs; elements of a batch do not see each other."""
    h = torch.tanh(0.5 * carry["h"] + x)
    mean = 0.9 * carry["mean"] + 0.1 * h.square().mean(-1)
    return {"h": h, "mean": mean}, (h.sum(-1), mean > 0.1)


def gated_problem(batch=(), length=40):
    torch.manual_seed(1)
    init = {"h": torch.zeros(*batch, 3).double(), "mean": torch.zeros(batch).double()}
    return gated, init, torch.randn(length, *batch, 3).double()


@pytest.mark.parametrize("reverse", [False, True])
def test_equals_torch_s_scan(reverse):
    """torch's own wants outputs that are no carries, and tensors alone."""
    from torch._higher_order_ops.scan import scan

    step, init, xs = gated_problem()
    ours = li.scan(step, init, xs, method=li.Newton(), reverse=reverse)
    assert_same(ours, scan(step, init, xs, reverse=reverse))


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)])
def test_batches_are_found(batch):
    step, init, xs = gated_problem(batch)
    f, s0, _ = li.scan_recurrence(step, init, xs)
    assert f.packing.batch == batch
    assert s0.shape == (*batch, 4)
    assert_same(li.scan(step, init, xs, method=li.Newton()), loop(step, init, xs))


@pytest.mark.parametrize(
    ("step", "shape", "batch"),
    [
        (lambda c, x: (0.5 * c.tanh() + x, None), (3, 2), (3,)),
        (lambda c, x: (0.5 * c.tanh() + 0 * c.mean(0) + x, None), (3, 2), ()),  # a dependence that is zero here
        (lambda c, x: (0.5 * (c - c.mean(-2, keepdim=True)).tanh() + x, None), (5, 3, 2), (5,)),
        (lambda c, x: (0.5 * c.roll(1, 0) + x, None), (5, 3), ()),
        (lambda c, x: (c @ torch.full((4, 4), 0.1).double() + x, None), (4, 4), (4,)),
        (lambda c, x: (torch.full((4, 4), 0.1).double() @ c + x, None), (4, 4), ()),
    ],
)
def test_what_is_batch(step, shape, batch):
    xs = torch.randn(7, *shape, dtype=torch.float64)
    assert li.scan_recurrence(step, torch.zeros(shape).double(), xs)[0].packing.batch == batch
    assert_same(li.scan(step, torch.zeros(shape).double(), xs, method=li.Newton()), loop(step, xs[0] * 0, xs))


def test_a_vectorized_step_takes_many_time_steps():
    seen = []

    def counted(carry, x):
        seen.append(x.shape)
        return gated(carry, x)

    _, init, xs = gated_problem((4,))
    ours = li.scan(counted, init, xs, method=li.Newton(), vectorized=True)
    assert_same(ours, loop(gated, init, xs))
    assert (40, 4, 3) in seen


def test_a_step_for_one_element_under_vmap():
    def one(carry, x):
        assert x.shape == (3,)
        return gated(carry, x)

    _, init, xs = gated_problem((4,))
    assert_same(li.scan(torch.func.vmap(one), init, xs, method=li.Newton()), loop(gated, init, xs))


@pytest.mark.parametrize("method", METHODS)
def test_length_without_inputs(method):
    def step(carry, x):
        assert x is None
        return torch.cos(carry), carry.square()

    ours = li.scan(step, torch.ones(2).double(), method=method, length=30)
    assert_same(ours, loop(step, torch.ones(2).double(), None, 30))


def test_a_guess_is_a_pytree_of_carries():
    step, init, xs = gated_problem()
    for reverse in False, True:
        states = []

        def keeping(carry, x):
            now, _ = gated(carry, x)
            return now, now

        _, states = loop(keeping, init, xs, reverse=reverse)
        counts = []
        li.scan(step, init, xs, method=li.Jacobi(), guess=states, reverse=reverse, max_iters=0,
                callback=lambda progress, counts=counts: counts.append(int(progress.iterations)))  # fmt: skip
        assert counts == [0]  # the guess is the solution


def test_mixed_precision():
    """States in the widest dtype, the tolerance of the narrowest; every leaf comes back in its own dtype."""

    def step(carry, x):
        low = torch.tanh(0.5 * carry[0] + x)
        return (low, 0.5 * carry[1] + low.double().sum()), None

    init = torch.zeros(3), torch.zeros((), dtype=torch.float64)
    (low, high), _ = li.scan(step, init, torch.randn(50, 3), method=li.Newton())
    assert low.dtype == torch.float32
    assert high.dtype == torch.float64


def test_numbers_as_carries_and_outputs():
    carry, ys = li.scan(lambda c, x: (0.5 * c + x, (1, 2.0, None)), 0.0, torch.ones(20))
    assert carry.shape == ()
    assert ys[0].tolist() == [1] * 20
    assert ys[1].tolist() == [2.0] * 20
    assert ys[2] is None


def test_gradients_by_finite_differences():
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    init = torch.randn(2, dtype=torch.float64, requires_grad=True)
    xs = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)

    def solved(weight, init, xs):
        def step(carry, x):
            now = torch.tanh(weight * carry + x)
            return now, now * x

        carry, ys = li.scan(step, init, xs, method=li.Newton(), rtol=0, atol=0)
        return carry, ys

    assert torch.autograd.gradcheck(solved, (weight, init, xs))


def test_gradients_of_a_cell_of_torch():
    """Which vmap has no rule for: `fold` takes it to many time steps at once."""
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(3, 4).double()
    folded = li.fold(lambda h, x: cell(x, h))

    def step(h, x):
        now = folded(h, x)
        return now, now

    xs = torch.randn(30, 2, 3).double()
    by_scan = functools.partial(li.scan, method=li.Newton(), vectorized=True)
    ours, theirs = (
        torch.autograd.grad(run(step, torch.zeros(2, 4).double(), xs)[1].square().sum(), list(cell.parameters()))
        for run in (by_scan, loop)
    )
    assert_same(ours, theirs)


def test_the_recurrence_gives_the_solution():
    step, init, xs = gated_problem((2,))
    f, s0, inputs = li.scan_recurrence(step, init, xs, reverse=True)
    solution = li.solve(f, s0, inputs, li.Newton(), record=True)
    assert solution.history is not None
    carry, _ = loop(step, init, xs, reverse=True)
    assert_same(f.carries(solution.states[-1]), carry)


def test_auto_tells_steps_of_equal_shapes_apart():
    first, second = (li.scan_recurrence(step, torch.zeros(2), torch.ones(9, 2))[0] for step in (gated_like, decaying))
    assert first.__code__ != second.__code__


def gated_like(carry, x):
    return torch.tanh(carry + x), None


def decaying(carry, x):
    return 0.5 * carry + x, None


BAD = {
    "a step that is no function": (lambda: li.scan(3, 0.0, torch.ones(9)), TypeError, "`step` must be a function"),
    "no pair": (lambda: li.scan(lambda c, x: c, torch.ones(2), torch.ones(9)), TypeError, "must return a pair"),
    "another structure": (lambda: li.scan(lambda c, x: ((c, c), None), 0.0, torch.ones(9)), TypeError, "structure"),
    "another shape": (lambda: li.scan(lambda c, x: (c + x, None), 0.0, torch.ones(9, 2)), ValueError, "reshape"),
    "another dtype": (lambda: li.scan(lambda c, x: (c.double(), None), 0.0, torch.ones(9)), ValueError, "float32"),
    "whole numbers": (lambda: li.scan(decaying, {"n": torch.zeros(2).long()}, torch.ones(9)), TypeError, "A counter"),
    "a Python int": (lambda: li.scan(decaying, 0, torch.ones(9)), TypeError, "A counter belongs"),
    "half precision": (lambda: li.scan(decaying, torch.zeros(2).half(), torch.ones(9)), TypeError, "at least float32"),
    "an infinite carry": (lambda: li.scan(decaying, -math.inf, torch.ones(9)), ValueError, "running maximum"),
    "an empty leaf": (lambda: li.scan(decaying, torch.zeros(0), torch.ones(9)), ValueError, "is empty"),
    "no carry": (lambda: li.scan(decaying, (), torch.ones(9)), TypeError, "at least one tensor"),
    "no length": (lambda: li.scan(decaying, 0.0), ValueError, "length=T"),
    "two lengths": (lambda: li.scan(decaying, 0.0, torch.ones(9), length=8), ValueError, "Leave `length` out"),
    "uneven inputs": (lambda: li.scan(decaying, 0.0, (torch.ones(9), torch.ones(8))), ValueError, "`xs` must all lead"),
    "no such batch": (lambda: li.scan(decaying, torch.zeros(2), torch.ones(9), batch_dims=2), ValueError, "batch_dims"),
    "a branch": (
        lambda: li.scan(lambda c, x: (c if x > 0 else -c, None), torch.ones(2), torch.ones(9)), RuntimeError, "vmap"
    ),
    "random numbers": (
        lambda: li.scan(lambda c, x: (c + torch.randn(2), None), torch.ones(2), torch.ones(9)), RuntimeError, "vmap"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_errors_say_what_to_type(case):
    call, kind, words = BAD[case]
    with pytest.raises(kind) as caught:
        call()
    assert words in " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


def test_a_scan_that_does_not_converge_says_so():
    with pytest.raises(li.SolveError):
        li.scan(gated_like, torch.zeros(2), torch.ones(90, 2), method=li.Jacobi(), max_iters=2)
