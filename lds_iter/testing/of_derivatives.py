"""The laws of derivatives: each product and each part is that of the Jacobian which backpropagation gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.autodiff import linearize
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.methods.spelling import spelled
from lds_iter.recurrence import Function
from lds_iter.testing.findings import Examination, Findings, Measurements
from lds_iter.testing.of_transitions import near, random_vectors

ROUNDINGS_OF_A_DERIVATIVE = 1 << 14
"""Roundings of a product allowed, in units of the largest number: two ways through a network round differently."""


@spelled
def check_derivatives(
    f: Function,
    s: Tensor,
    inputs: Any,
    derivatives: AbstractDerivatives | None = None,
    *,
    seed: int = 0,
    throw: bool = True,
) -> Findings:
    """Check the derivatives of a recurrence against backpropagation through its value.

    Args:
        f: the recurrence, made of operations that autograd knows.
        s: states, `(n, *batch, D)`; best in float64, and not all zero.
        inputs: of these rows, a pytree of tensors that lead with n.
        derivatives: what to check; when None those of `f.linearize(s, inputs)`, or of `torch.func` where `f` has none.
        seed: of the vectors that are multiplied.
        throw: raise where a law does not hold; otherwise see `Findings.passed`.

    Returns:
        What was found, law by law: print it.

    Raises:
        BrokenLaws: an AssertionError, with the findings.

    Example:
        >>> s, u = torch.randn(2, 5, 3, dtype=torch.float64)
        >>> li.testing.check_derivatives(lambda s, u: torch.tanh(s + u), s, u).passed
        True
    """
    look = Examination("derivatives")
    value, jacobian = by_backpropagation(f, s, inputs)
    v, part = random_vectors(s, seed, 1)[0], ROUNDINGS_OF_A_DERIVATIVE * torch.finfo(s.dtype).eps
    with torch.no_grad():
        with look.law(
            "value", "`value` is f(s, u)", "Compute the value in `f` and in its `linearize` by the same function."
        ) as measured:
            found = linearize(f, s, inputs) if derivatives is None else derivatives
            near(measured, found.value, value, "value", part)
        if not look.findings():
            return look.ended(throw)
        _check_parts(look, found, jacobian, v, part)
    return look.ended(throw)


def by_backpropagation(f: Function, s: Tensor, inputs: Any) -> tuple[Tensor, Tensor]:
    """`f(s, u)` and its Jacobian `(n, *batch, D, D)`, one row of it after the other; no forward mode takes part."""
    with torch.enable_grad():
        s = s.detach().requires_grad_()
        value = f(s, inputs)
        if not value.requires_grad:
            return value, torch.zeros(*s.shape, s.shape[-1], dtype=s.dtype, device=s.device)
        rows = []
        for i in range(s.shape[-1]):
            (row,) = torch.autograd.grad(value[..., i].sum(), s, retain_graph=True, allow_unused=True)
            rows.append(torch.zeros_like(s) if row is None else row)
    return value.detach(), torch.stack(rows, -2)


def _check_parts(look: Examination, found: AbstractDerivatives, jacobian: Tensor, v: Tensor, part: float) -> None:
    column = v.unsqueeze(-1)
    products: tuple[tuple[str, str, Callable[[], Tensor], Tensor], ...] = (
        ("jvp", "J v, for all rows at once", lambda: found.jvp(v), (jacobian @ column)[..., 0]),
        ("vjp", "J^T w: `w @ J` row by row, and not `J @ w`", lambda: found.vjp(v), (jacobian.mT @ column)[..., 0]),
        ("jacobian", "J[i, j] = d f_i / d s_j, not its transpose", found.jacobian, jacobian),
        ("diagonal", "the diagonal of J", found.diagonal, jacobian.diagonal(dim1=-2, dim2=-1)),
    )
    for name, meaning, compute, expected in products:
        with _part(look, name, meaning) as measured:
            near(measured, compute(), expected, name, part)
    width = v.shape[-1]
    with _part(
        look, "block_diagonal", "the blocks of `size` along the diagonal, (n, *batch, D // size, size, size)"
    ) as m:
        for size in (size for size in range(1, width + 1) if width % size == 0):
            near(m, found.block_diagonal(size), _blocks(jacobian, size), f"blocks of {size}", part)


def _blocks(jacobian: Tensor, size: int) -> Tensor:
    count = jacobian.shape[-1] // size
    cut = jacobian.unflatten(-1, (count, size)).unflatten(-3, (count, size))
    return torch.stack([cut[..., i, :, i, :] for i in range(count)], dim=-3)


@contextmanager
def _part(look: Examination, name: str, meaning: str) -> Iterator[Measurements]:
    """A law about a part that a recurrence need not offer."""
    cure = "Compare with li.FunctionDerivatives(f, s, inputs), which autodiff computes: it is what a plain `f` gets."
    with look.law(name, meaning, cure) as measured:
        try:
            yield measured
        except NotImplementedError:
            look.note(f"`{name}` is not implemented: methods that ask for it will not work with this recurrence.")
