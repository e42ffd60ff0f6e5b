"""Everything public can be pickled, copied and deep-copied."""

import copy
import functools
import inspect

import pytest
import torch
from abilities import COMPILES, compiles
from catalogue import METHODS, transitions
from read_again import pickled, saved
from torch.utils import _pytree as pytree

import lds_iter as li


def f(s, u):
    return torch.tanh(0.5 * s + u)


def failed():
    with pytest.raises(li.SolveError) as caught:
        li.solve(f, torch.zeros(2), torch.ones(9, 2), li.Jacobi(), max_iters=1)
    return caught.value


def progress():
    seen = []
    li.solve(f, torch.zeros(2), torch.ones(9, 2), li.Jacobi(), callback=seen.append)
    return seen[-1]


def used_compiled():
    """With code, which belongs to this process, where torch can compile."""
    made = li.Compiled(f, functools.partial(torch.compile, backend="eager"))
    if COMPILES:
        li.solve(made, torch.zeros(2), torch.ones(9, 2))
    return made


MADE = {
    "Solution": lambda: li.solve(f, torch.zeros(2), torch.ones(9, 2), li.TrustRegion(li.Newton()), record=True),
    "History": lambda: li.solve(f, torch.zeros(2), torch.ones(9, 2), record=True).history,
    "Trust": lambda: li.solve(f, torch.zeros(2), torch.ones(9, 2), li.TrustRegion(li.Newton())).carry,
    "Decision": lambda: li.Decision(0, 0, "Newton()", "it is known"),
    "Result": lambda: li.Result.SUCCESS,
    "SolveError": failed,
    "PerformanceWarning": lambda: li.PerformanceWarning("slow"),
    "Implicit": lambda: li.Implicit(li.Newton(), rtol=1e-3),
    "Unroll": lambda: li.Unroll(),
    "Coarse": lambda: li.Coarse(4, f),
    "Auto": lambda: li.Auto(),
    "Compiled": used_compiled,
    "Autodiff": lambda: li.Autodiff(f),
    "RankError": lambda: li.RankError("rank 1 is gone", 1),
    "ElementwiseDerivatives": lambda: li.ElementwiseDerivatives(torch.ones(3, 2), torch.ones(3, 2)),
    "StructuredDerivatives": lambda: li.StructuredDerivatives(torch.ones(3, 2), li.Diagonal(torch.ones(3, 2))),
    "Iterate": lambda: li.iterate(li.start(f, torch.zeros(2), torch.ones(9, 2), li.Newton())),
    "After": lambda: li.After(3),
    "Elapsed": lambda: li.Elapsed(1.0),
    "SmallUpdate": lambda: li.SmallUpdate(0.1),
    "Filter": lambda: li.Filter(),
    "Smoother": lambda: li.Smoother(),
    "AdjointCounts": lambda: li.AdjointCounts(torch.ones(2), torch.zeros(2), torch.zeros(2)),
    "Verification": lambda: li.verify(f, torch.zeros(2), torch.ones(9, 2)),
    "Comparison": lambda: li.compare(f, torch.zeros(2), torch.ones(9, 2), [li.Newton()]),
    "Compared": lambda: li.compare(f, torch.zeros(2), torch.ones(9, 2), [li.Newton()]).methods[0],
    "Below": lambda: li.Below(0.1),
    "Stalled": lambda: li.Stalled(),
    "ExactDiagonal": lambda: li.ExactDiagonal(),
    "Hutchinson": lambda: li.Hutchinson(2, seed=3),
}


def numbers(value):
    """The tensors of an object, dataclasses included."""
    if isinstance(value, torch.Tensor):
        return [value]
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return [leaf for field in vars(value).values() for leaf in numbers(field)]
    if isinstance(value, list | tuple | dict):
        return [leaf for part in pytree.tree_leaves(value) for leaf in numbers(part)]
    return []


def same(one, other):
    assert type(one) is type(other)
    ours, theirs = numbers(one), numbers(other)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize("name", MADE)
def test_public_objects_copy(name):
    made = MADE[name]()
    copy.copy(made)
    copy.deepcopy(made)


@pytest.mark.parametrize("again", [pickled, saved])
@pytest.mark.parametrize("name", MADE)
def test_public_objects_pickle(name, again):
    made = MADE[name]()
    if name == "Solution":  # a pickle leaves out what error_estimate needs
        assert torch.equal(again(made).states, made.states)
        return
    same(again(made), made)


@compiles
def test_compiled_code_is_made_anew_after_a_pickle():
    made = used_compiled()
    problem = torch.zeros(2), torch.ones(9, 2)
    assert torch.equal(li.solve(pickled(made), *problem).states, li.solve(made, *problem).states)


@pytest.mark.parametrize("name", [name for name in METHODS if "where" not in name])  # which holds the user's lambda
def test_methods_copy_and_pickle(name):
    method = METHODS[name]
    for again in copy.copy, copy.deepcopy, pickled, saved:
        same(again(method), method)


@pytest.mark.parametrize("name", transitions(1, (), 2))
def test_transitions_copy_and_pickle(name):
    transition = transitions(3, (2,), 4)[name]
    for again in copy.copy, copy.deepcopy, pickled, saved:
        same(again(transition), transition)


def test_every_public_class_is_tried():
    public = {
        name for name, cls in inspect.getmembers(li)
        if inspect.isclass(cls) and not inspect.isabstract(cls) and cls.__module__.startswith("lds_iter")
    }  # fmt: skip
    tried = set(MADE)

    def classes(value):
        parts = vars(value).values() if hasattr(value, "__dict__") else []
        return {type(value).__name__}.union(
            *[classes(part) for part in parts if type(part).__module__[:8] == "lds_iter"]
        )

    for value in [*METHODS.values(), *transitions(1, (), 2).values()]:
        tried |= classes(value)
    unpicklable = {"Linearization", "Progress", "FunctionDerivatives", "KalmanForm", "AbstractRule"}
    assert public - tried <= unpicklable, "add an example to MADE, or say why it is none"
