"""`torch.func.vmap` over scans: one more dimension of the batch, for every kernel."""

import itertools

import pytest
import torch
from catalogue import STRUCTURES, transitions

import lds_iter as li
from lds_iter.linear import registry
from lds_iter.linear.transitions import leaves, map_leaves

OPERATORS = ("dense", "block", "diagonal", "scaled")
CLOSE = {"rtol": 1e-10, "atol": 1e-10}  # float64, 7 steps of size 1


def arguments(name, copies=3):
    """A structure and `copies` values of each argument."""
    given = transitions(7, (2,), 4, generator=torch.Generator().manual_seed(1))[name]
    leaf = torch.stack([(i + 1) / copies * leaves(given)[0] for i in range(copies)])
    return given, leaf, torch.randn(copies, 7, 2, 4).double(), torch.randn(copies, 2, 4).double()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_mapped_over_any_of_its_arguments_it_is_the_scan_of_each(name, reverse):
    given, leaf, b, initial = arguments(name)

    def scan(leaf, b, initial):
        return li.linear_scan(map_leaves(lambda _: leaf, given), b, initial, reverse=reverse)

    for dims in set(itertools.product((0, None), repeat=3)) - {(None, None, None)}:
        stacked = [x if dim == 0 else x[0] for x, dim in zip((leaf, b, initial), dims, strict=True)]
        expected = torch.stack(
            [scan(*(x[i] if dim == 0 else x for x, dim in zip(stacked, dims, strict=True))) for i in range(3)]
        )
        torch.testing.assert_close(torch.func.vmap(scan, in_dims=dims)(*stacked), expected, **CLOSE)
    moved = torch.func.vmap(scan, in_dims=(0, 1, -1), out_dims=2)(leaf, b.movedim(0, 1), initial.movedim(0, -1))
    expected = torch.stack([scan(*each) for each in zip(leaf, b, initial, strict=True)], 2)
    torch.testing.assert_close(moved, expected, **CLOSE)


@pytest.mark.parametrize("name", OPERATORS)
def test_mapped_twice_and_differentiated(name):
    given, leaf, b, _ = arguments(name)
    leaf, b = leaf.requires_grad_(), b.requires_grad_()

    def scan(leaf, b):
        return li.linear_scan(map_leaves(lambda _: leaf, given), b)

    twice = torch.func.vmap(torch.func.vmap(scan, in_dims=(None, 0)), in_dims=(0, None))(leaf, b)
    expected = torch.stack([torch.stack([scan(one, other) for other in b]) for one in leaf])
    torch.testing.assert_close(twice, expected, **CLOSE)
    weights = torch.randn_like(expected)
    ours, plain = (torch.autograd.grad((x * weights).sum(), (leaf, b)) for x in (twice, expected))
    torch.testing.assert_close(ours, plain, **CLOSE)


def test_a_kernel_gets_plain_tensors_and_runs_once(monkeypatch):
    """As those for CUDA must, which write in place where a pointer says."""
    calls = []

    def kernel(transition, x, initial=None):
        calls.append(tuple(x.shape))
        assert not any(torch._C._functorch.is_batchedtensor(tensor) for tensor in (x, initial, *leaves(transition)))
        li.reference_scan(transition, x, initial)

    monkeypatch.setitem(registry._KERNELS, (li.Diagonal, "cpu"), registry.ScanKernel(kernel))
    _, leaf, b, initial = arguments("diagonal")
    torch.func.vmap(lambda *given: li.linear_scan(li.Diagonal(given[0]), *given[1:]))(leaf, b, initial)
    assert calls == [(7, 3, 2, 4)]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no rule for a sum in place
@pytest.mark.parametrize("name", sorted(set(STRUCTURES) - set(OPERATORS)))
def test_structures_without_an_operator_are_mapped_operation_by_operation(name):
    given, b = transitions(7, (2,), 4)[name], torch.randn(3, 7, 2, 4).double()
    mapped = torch.func.vmap(lambda b: li.linear_scan(given, b))(b)
    torch.testing.assert_close(mapped, torch.stack([li.linear_scan(given, each) for each in b]), **CLOSE)
