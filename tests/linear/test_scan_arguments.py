"""What a scan is given is checked before any kernel sees it: all structures, both directions, by one rule."""

import re

import pytest
import torch

import lds_iter as li

B = torch.ones(3, 4)

TRANSITIONS = {
    "another width": (li.Dense(torch.ones(3, 2, 2)), ValueError, "Dense with tensors of shape (3, 4, 4)"),
    "blocks of another width": (li.BlockDiagonal(torch.ones(3, 2, 3, 3)), ValueError, "(3, D // size, size, size)"),
    "too few blocks": (li.BlockDiagonal(torch.ones(3, 1, 2, 2)), ValueError, "(3, 2, 2, 2)"),
    "another length": (li.Diagonal(torch.ones(4, 4)), ValueError, "shape (3, 4) for these 3 rows"),
    "no time": (li.Diagonal(torch.ones(4)), ValueError, "expand what is the same at every time"),
    "a matrix without time": (li.Dense(torch.ones(4, 4)), ValueError, "got (4, 4)"),
    "one number in a tensor": (li.ScaledIdentity(torch.tensor(0.5)), ValueError, "shape (3, 1)"),
    "a batch that b has not": (li.Diagonal(torch.ones(3, 2, 4)), ValueError, "got (3, 2, 4)"),
    "another dtype": (li.Diagonal(torch.ones(3, 4).double()), TypeError, "Type `a.to(b)`"),
    "whole numbers": (li.Diagonal(torch.ones(3, 4).int()), TypeError, "Type `a.to(b)`"),
    "another device": (li.Diagonal(torch.ones(3, 4, device="meta")), TypeError, "on cpu like `b`"),
    "a sparse tensor": (li.Diagonal(torch.ones(3, 4).to_sparse()), TypeError, "of layout torch.sparse_coo"),
    "a list": (li.Diagonal([1.0]), TypeError, "whose `diagonal` is a tensor, got list"),  # pyright: ignore
    "text": (li.ScaledIdentity("x"), TypeError, "is a tensor or a number, got str"),  # pyright: ignore
    "nothing": (li.Dense(None), TypeError, "whose `matrix` is a tensor, got NoneType"),  # pyright: ignore
    "a tensor": (torch.ones(3, 4), TypeError, "Type `li.Diagonal(a)`"),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_transitions_of_other_rows_are_refused(name, reverse):
    transition, error, message = TRANSITIONS[name]
    with pytest.raises(error, match=re.escape(message)):
        li.linear_scan(transition, B, reverse=reverse)


@pytest.mark.parametrize("name", [name for name in TRANSITIONS if name != "a tensor"])
def test_they_are_refused_where_a_method_scans_by_itself(name):
    """`lin.scan` in an `update` of one's own, which the check of a choice of A does not see."""
    transition, error, message = TRANSITIONS[name]

    class Own(li.LDSApproximation):
        def init(self, guess):
            return None

        def update(self, lin, carry):
            return lin.scan(transition, lin.residual), carry

    with pytest.raises(error, match=re.escape(message)):
        li.solve(lambda s, u: 0.5 * s.tanh() + u, torch.zeros(4), B, Own())


ARGUMENTS = {
    "b a list": ({"b": [1.0]}, TypeError, "`b` must be a dense tensor of floating-point numbers"),
    "b of whole numbers": ({"b": B.int()}, TypeError, "got torch.int32"),
    "b sparse": ({"b": B.to_sparse()}, TypeError, "torch.sparse_coo"),
    "b without D": ({"b": B[0]}, ValueError, "type `b.unsqueeze(-1)`"),
    "initial of another width": ({"initial": torch.ones(1)}, ValueError, "`initial` must have shape (4,), got (1,)"),
    "initial for every time": ({"initial": B}, ValueError, "`initial` must have shape (4,), got (3, 4)"),
    "initial of another dtype": ({"initial": B[0].double()}, TypeError, "Type `initial.to(b)`"),
    "initial a number": ({"initial": 3}, TypeError, "`initial` must be a tensor (4,), got int"),
    "out of another shape": ({"out": torch.ones(3, 3, 4)}, ValueError, "`out` must have shape (3, 4)"),
    "out of another dtype": ({"out": B.double()}, TypeError, "Type `out.to(b)`"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_other_arguments_belong_to_b(name):
    given, error, message = ARGUMENTS[name]
    with torch.no_grad(), pytest.raises(error, match=re.escape(message)):
        li.linear_scan(li.Diagonal(torch.ones(3, 4)), **{"b": B, **given})


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_transition_may_be_in_half_precision(half):
    a, b = (0.9 * torch.rand(50, 2, 3)).to(half), torch.randn(50, 2, 3)
    found, wanted = li.linear_scan(li.Diagonal(a), b), li.linear_scan(li.Diagonal(a.float()), b)
    assert found.dtype == torch.float32
    # Products of 2, 4, ..., 64 numbers are rounded once each, and the solution is a sum with weights below 1.
    torch.testing.assert_close(found, wanted, rtol=0, atol=6 * torch.finfo(half).eps * float(wanted.abs().max()))
