"""Reverse mode: from a function at some states to its products `J^T w`, and to `J v` as the transpose of these.

By `torch.func.vjp`, which raises where a function leaves torch on the way. It refuses some functions that plain
autograd takes (an older `torch.autograd.Function`, checkpointing), so these are served by plain autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter import _torch
from lds_iter.derivatives.refusals import Refusals

Map = Callable[[Tensor], Tensor]

PULLED = "J^T w by plain autograd"
"""The way that serves where `f` refuses `torch.func.vjp`."""

SLOPED = "gradients by plain autograd"
"""The way that serves where a function refuses `torch.func.grad`."""


def pullback(f: Map, s: Tensor, refusals: Refusals, *, attached: bool) -> Map:
    """`w -> J^T w` of `f` at `s`, as often as one likes.

    Args:
        f: from states to states of the same shape.
        s: the states, `(n, *batch, D)`.
        refusals: of the function.
        attached: whether the products carry a graph, to `s` and whatever `f` depends on.
    """
    return value_and_pullback(f, s, refusals, attached=attached)[1]


def value_and_pullback(f: Map, s: Tensor, refusals: Refusals, *, attached: bool | None = None) -> tuple[Tensor, Map]:
    """`f(s)`, and the products as `pullback` gives them, from one evaluation; with a graph where `f(s)` has one when
    `attached` is None."""

    def by_transform() -> tuple[Tensor, Map]:
        value, pull = torch.func.vjp(f, s)  # pyright: ignore[reportAssignmentType]
        return value, _first(pull)

    return refusals.ask(
        PULLED, by_transform, lambda: _by_autograd(f, s, _wanted(f, s) if attached is None else attached)
    )


def value_and_gradient(f: Map, s: Tensor, refusals: Refusals) -> tuple[Tensor, Tensor]:
    """The numbers `f` gives for all rows of `s`, `(...)`, and their gradients, `(..., D)`.

    Args:
        f: from `(..., D)` to `(...)`.
        s: `(..., D)`.
        refusals: of the function.
    """

    def total(s: Tensor) -> tuple[Tensor, Tensor]:
        value = f(s)
        return value.sum(), value

    def by_transform() -> tuple[Tensor, Tensor]:
        gradient, value = torch.func.grad(total, has_aux=True)(s)
        return value, gradient

    def by_autograd() -> tuple[Tensor, Tensor]:
        value, pull = _by_autograd(f, s, _wanted(f, s))
        return value, pull(torch.ones_like(value))

    if _torch.transformed():  # an error here may be about what happens around it
        return by_transform()
    return refusals.ask(SLOPED, by_transform, by_autograd)


def push_by_transposing(f: Map, s: Tensor, v: Tensor, *, attached: bool) -> Tensor:
    """`J v`: the product `J^T w` is linear in `w`, so its transpose is the product with `J`.

    Args:
        f, s, attached: as `pullback` takes them.
        v: of the shape of `s`.
    """
    if _torch.transformed():
        return torch.func.vjp(lambda w: torch.func.vjp(f, s)[1](w)[0], torch.zeros_like(v))[1](v)[0]
    w = _variable(v)
    with torch.inference_mode(False), torch.enable_grad():
        at = _variable_at(s, attached)
        pulled = _grad(_twice(f(at), at), at, w, True)
    return _grad(_twice(pulled, at), w, v, attached)


def second_by_transposing(f: Map, s: Tensor, v: Tensor, *, attached: bool) -> Tensor:
    """`d^2/de^2 f(s + e v)` at e = 0: `v^T H_w v` is linear in `w`, where `H_w` is the Hessian of `w^T f`.

    Args:
        f, s, v, attached: as `push_by_transposing` takes them.
    """
    if _torch.transformed():
        return push_by_transposing(lambda s: push_by_transposing(f, s, v, attached=True), s, v, attached=True)
    w = _variable(v)
    with torch.inference_mode(False), torch.enable_grad():
        at = _variable_at(s, attached)
        bent = _grad(_twice(_grad(_twice(f(at), at), at, w, True), at), at, v, True)
    return _grad(_twice(bent, at), w, v, attached)


def keepable(tree: Any) -> Any:
    """A pytree whose tensors autograd may keep: copies of those that inference mode has made."""
    leaves = pytree.tree_leaves(tree)
    if not any(isinstance(leaf, Tensor) and leaf.is_inference() for leaf in leaves):
        return tree
    with torch.inference_mode(False), torch.no_grad():
        return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


def _first(pull: Callable[[Tensor], tuple[Tensor]]) -> Map:
    return lambda w: pull(w)[0]


def _by_autograd(f: Map, s: Tensor, attached: bool) -> tuple[Tensor, Map]:
    with torch.inference_mode(False), torch.enable_grad():
        at = _variable_at(s, attached)
        value = _twice(f(at), at)  # `f` may be a derivative itself
    return value if attached else value.detach(), lambda w: _grad(value, at, w, attached)


def _wanted(f: Map, s: Tensor) -> bool:
    """Whether what `f` gives at `s` carries a graph."""
    return torch.is_grad_enabled() and (s.requires_grad or f(s).requires_grad)


def _variable_at(s: Tensor, attached: bool) -> Tensor:
    """The states as a variable of their own, which leads on to what they depend on where a graph is wanted."""
    return s.view_as(s) if attached and s.requires_grad else s.detach().clone().requires_grad_()


def _twice(found: Tensor, at: Tensor) -> Tensor:
    """A derivative that is to be differentiated again.

    Raises:
        RuntimeError: where a kernel on the way has no second derivative, and autograd would silently leave it out.
    """
    seen, todo = {at.grad_fn}, [found.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("A function in `f` cannot be differentiated twice (`once_differentiable`).")
        seen.add(node)
        todo += [before for before, _ in node.next_functions]
    return found


def _variable(like: Tensor) -> Tensor:
    """Zeros that products are linear in, and are differentiated by."""
    with torch.inference_mode(False):
        return torch.zeros_like(like, requires_grad=True)


def _grad(value: Tensor, at: Tensor, w: Tensor, attached: bool) -> Tensor:
    """`J^T w` of the step from `at` to `value`, whose graph stays."""
    if not value.requires_grad:
        return torch.zeros_like(at)
    with torch.inference_mode(False), torch.set_grad_enabled(attached):
        w = keepable(w)
        if attached and not w.requires_grad:  # of constants a `once_differentiable` gives another constant, silently
            w = w.detach().requires_grad_()
        found = torch.autograd.grad(value, at, w, retain_graph=True, create_graph=attached, allow_unused=True)[0]
    return torch.zeros_like(at) if found is None else found
