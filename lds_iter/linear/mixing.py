"""Transitions made of transitions: bounded ones, and mixtures that take each row from one of two."""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.errors import warn_of_slowness
from lds_iter.linear.registry import kernel_of
from lds_iter.linear.transitions import (
    AbstractTransition,
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    ScaledIdentity,
    Zero,
)


def clipped(transition: AbstractTransition, bound: float, like: Tensor) -> AbstractTransition:
    """Scale every block down to an induced infinity norm (largest absolute row sum) of at most `bound`.

    The blocks are the entries of a `Diagonal`, the blocks of a `BlockDiagonal`, the whole matrix of other structures.
    An infinity norm of at most 1 keeps every product of the blocks bounded by 1.

    Args:
        transition: the matrices of n rows.
        bound: the largest norm allowed.
        like: a tensor `(n, *batch, D)` that gives shape, dtype and device.
    """
    match transition:
        case Zero():
            return transition
        case Identity():
            return ScaledIdentity(min(1.0, bound))
        case ScaledIdentity(scale) if isinstance(scale, Tensor):
            return ScaledIdentity(scale.clamp(-bound, bound))
        case ScaledIdentity(scale):
            return ScaledIdentity(max(-bound, min(scale, bound)))  # pyright: ignore[reportArgumentType]
        case Diagonal(diagonal):
            return Diagonal(diagonal.clamp(-bound, bound))
        case BlockDiagonal(blocks):
            return BlockDiagonal(_shrunk(blocks, bound))
        case Dense(matrix):
            return Dense(_shrunk(matrix, bound))
        case _:
            return transition.scaled(_shrinking(_infinity_norm(transition, like), bound))


def _shrunk(matrix: Tensor, bound: float) -> Tensor:
    return matrix * _shrinking(matrix.abs().sum(-1, keepdim=True).amax(-2, keepdim=True), bound)


def _shrinking(norm: Tensor, bound: float) -> Tensor:
    """The factors that take norms to the bound. Norms of 0 are not divided by: backpropagation would find 0 * inf."""
    large = ~(norm <= bound)  # NaN, too: what is NaN is repaired by the loop, not hidden here
    return torch.where(large, bound / torch.where(large, norm, 1), 1)


def _infinity_norm(transition: AbstractTransition, like: Tensor) -> Tensor:
    """The largest absolute row sum of each matrix, `(n, *batch, 1)`, one column after the other."""
    sums = torch.zeros_like(like)
    for column in torch.eye(like.shape[-1], dtype=like.dtype, device=like.device):
        sums = sums + transition.mv(column.expand_as(like)).abs()
    return sums.amax(-1, keepdim=True)


def select(first: Tensor, one: AbstractTransition, other: AbstractTransition, like: Tensor) -> AbstractTransition:
    """`one` in the rows where `first` is true, `other` elsewhere, in the tightest structure that holds both.

    Two unlike structures of which one is no diagonal become `Dense`, T D^2 numbers.

    Args:
        first: bool, `(n, *batch, 1)`.
        one, other: transitions of n rows.
        like: a tensor `(n, *batch, D)` that gives shape, dtype and device.
    """
    if isinstance(one, Zero):
        return other.scaled((~first).to(like.dtype))
    if isinstance(other, Zero):
        return one.scaled(first.to(like.dtype))
    one, other = in_one_structure(one, other, like)
    if isinstance(one, Diagonal) and isinstance(other, Diagonal):
        return Diagonal(torch.where(first, one.diagonal, other.diagonal))
    assert isinstance(one, Dense)
    assert isinstance(other, Dense)
    return Dense(torch.where(first.unsqueeze(-1), one.matrix, other.matrix))


def in_one_structure(
    one: AbstractTransition, other: AbstractTransition, like: Tensor
) -> tuple[Diagonal, Diagonal] | tuple[Dense, Dense]:
    """Both as `Diagonal` where both are, else as `Dense`."""
    diagonal = Diagonal | ScaledIdentity | Identity | Zero
    if isinstance(one, diagonal) and isinstance(other, diagonal):
        ones = torch.ones_like(like)
        return Diagonal(one.mv(ones)), Diagonal(other.mv(ones))
    for transition in one, other:
        structure = type(transition)
        own = not structure.__module__.startswith("lds_iter.")
        if own and kernel_of(structure, like.device.type).forward is not None:
            warn_of_slowness(
                f"The scan registered for {structure.__name__} is not used where its transitions are mixed with "
                "those of another structure: they become dense, T D^2 numbers. Use the method by itself or in Switch."
            )
    return one.dense(like), other.dense(like)
