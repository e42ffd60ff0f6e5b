"""Structured transitions: the matrices `A_t` of a linear dynamical system, one per time step.

A transition holds the matrices of `n` consecutive steps at once. The scan needs three operations from it, and nothing
else:

    mv(x)            A_t x_t                                 for all t at once, x of shape (n, *batch, D)
    after(earlier)   the composition  self_t . earlier_t     in the same structure
    transpose()      A_t^T                                   for the adjoint

so a user's own structure works everywhere once it is a frozen dataclass with these three. Its tensor fields ("leaves")
lead with time; fields that are not tensors are the same at every step. A fourth is optional: `scaled(factor)`, each
matrix times a number, lets the loop cut and damp within the structure instead of around it, so that a scan registered
for the structure serves in `solve` too.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

A = TypeVar("A", bound="AbstractTransition")


class AbstractTransition(ABC):
    """The matrices `A_t` of `n` consecutive steps, in one structure.

    Subclasses are frozen dataclasses; every tensor field has shape `(n, *batch, ...)`, time first.
    """

    @abstractmethod
    def mv(self, x: Tensor) -> Tensor:
        """Multiply every row by its matrix: `x` of shape `(n, *batch, D)` to the same shape."""

    @abstractmethod
    def after(self, earlier: Any) -> Self:
        """The composition "first `earlier`, then `self`", in the structure that both have."""

    @abstractmethod
    def transpose(self) -> Self:
        """The transposed matrices, in the same structure."""


@dataclass(frozen=True)
class Dense(AbstractTransition):
    """A full matrix per step. `matrix`: `(n, *batch, D, D)`."""

    matrix: Tensor

    def mv(self, x: Tensor) -> Tensor:
        return (self.matrix @ x.unsqueeze(-1)).squeeze(-1)

    def after(self, earlier: Any) -> Dense:
        return Dense(self.matrix @ earlier.matrix)

    def transpose(self) -> Dense:
        return Dense(self.matrix.mT)


@dataclass(frozen=True)
class BlockDiagonal(AbstractTransition):
    """Square blocks of one size along the diagonal. `blocks`: `(n, *batch, D // size, size, size)`."""

    blocks: Tensor

    def mv(self, x: Tensor) -> Tensor:
        return (self.blocks @ x.unflatten(-1, self.blocks.shape[-3:-1]).unsqueeze(-1)).flatten(-3)

    def after(self, earlier: Any) -> BlockDiagonal:
        return BlockDiagonal(self.blocks @ earlier.blocks)

    def transpose(self) -> BlockDiagonal:
        return BlockDiagonal(self.blocks.mT)


@dataclass(frozen=True)
class Diagonal(AbstractTransition):
    """A diagonal matrix per step. `diagonal`: `(n, *batch, D)`."""

    diagonal: Tensor

    def mv(self, x: Tensor) -> Tensor:
        return self.diagonal * x

    def after(self, earlier: Any) -> Diagonal:
        return Diagonal(self.diagonal * earlier.diagonal)

    def transpose(self) -> Diagonal:
        return self


@dataclass(frozen=True)
class ScaledIdentity(AbstractTransition):
    """A multiple of the identity. `scale`: a number for all steps, or a tensor `(n, *batch, 1)`."""

    scale: float | Tensor

    def mv(self, x: Tensor) -> Tensor:
        return self.scale * x

    def after(self, earlier: Any) -> ScaledIdentity:
        return ScaledIdentity(self.scale * earlier.scale)

    def transpose(self) -> ScaledIdentity:
        return self


@dataclass(frozen=True)
class Identity(AbstractTransition):
    """The identity at every step; its scan is a cumulative sum."""

    def mv(self, x: Tensor) -> Tensor:
        return x

    def after(self, earlier: Any) -> Identity:
        return self

    def transpose(self) -> Identity:
        return self


@dataclass(frozen=True)
class Zero(AbstractTransition):
    """Zero at every step; its scan does nothing."""

    def mv(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def after(self, earlier: Any) -> Zero:
        return self

    def transpose(self) -> Zero:
        return self


@dataclass(frozen=True)
class Scaled(AbstractTransition):
    """Any other structure times a number per step: what `scaled` makes of a structure that it does not know.

    `factor`: `(n, *batch, 1)`. A factor of 0 gives exactly 0, also where the inner matrix is inf or NaN.
    """

    inner: AbstractTransition
    factor: Tensor

    def mv(self, x: Tensor) -> Tensor:
        return torch.where(self.factor == 0, 0, self.factor * self.inner.mv(x))

    def after(self, earlier: Any) -> Scaled:
        return Scaled(self.inner.after(earlier.inner), self.factor * earlier.factor)

    def transpose(self) -> Scaled:
        return Scaled(self.inner.transpose(), self.factor)


def map_leaves(fn: Callable[[Tensor], Tensor], transition: A) -> A:
    """Apply `fn` to every tensor field (nested transitions included) and rebuild the transition."""

    def mapped(value: Any) -> Any:
        if isinstance(value, Tensor):
            return fn(value)
        return map_leaves(fn, value) if isinstance(value, AbstractTransition) else value

    fields = dataclasses.fields(transition)  # pyright: ignore[reportArgumentType]
    return type(transition)(**{field.name: mapped(getattr(transition, field.name)) for field in fields})


def leaves(transition: AbstractTransition) -> list[Tensor]:
    """The tensor fields, nested transitions included, in the order of `map_leaves`."""
    found: list[Tensor] = []
    map_leaves(lambda leaf: found.append(leaf) or leaf, transition)
    return found


def take(transition: A, rows: slice) -> A:
    """The matrices of some of the steps."""
    return map_leaves(lambda leaf: leaf[rows], transition)


def scaled(transition: AbstractTransition, factor: float | Tensor) -> AbstractTransition:
    """`factor * A`, in the tightest structure.

    Args:
        factor: a number, or one per row, `(n, *batch, 1)`. A zero in the tensor gives exactly zero, also where `A` is
            inf or NaN; a structure's own `scaled` must do so too (`torch.where(factor == 0, 0, factor * leaf)`).
    """

    def times(leaf: Tensor, extra: int) -> Tensor:
        if not isinstance(factor, Tensor):
            return leaf * factor
        wide = factor.reshape(*factor.shape, *[1] * extra)
        return (leaf * wide).masked_fill_(wide == 0, 0)  # in place: a second tensor of that size costs more

    match transition:
        case Zero():
            return transition
        case Identity():
            return ScaledIdentity(factor)
        case ScaledIdentity(scale) if not isinstance(scale, Tensor):
            return ScaledIdentity(scale * factor)
        case ScaledIdentity(scale):
            return ScaledIdentity(times(scale, 0))  # pyright: ignore[reportArgumentType]
        case Diagonal(diagonal):
            return Diagonal(times(diagonal, 0))
        case BlockDiagonal(blocks):
            return BlockDiagonal(times(blocks, 2))
        case Dense(matrix):
            return Dense(times(matrix, 1))
        case _:
            if not isinstance(factor, Tensor):
                like = leaves(transition)[0]
                factor = like.new_full((like.shape[0], *[1] * (like.ndim - 1)), factor)
            own = getattr(transition, "scaled", None)
            return Scaled(transition, factor) if own is None else own(factor)


def zero_with_leaves(transition: AbstractTransition) -> bool:
    """Whether a matrix is zero where the tensors of the transition are, so that nothing else need be made of it."""
    return isinstance(transition, Dense | BlockDiagonal | Diagonal) or (
        isinstance(transition, ScaledIdentity) and isinstance(transition.scale, Tensor)
    )


def headless(transition: AbstractTransition, rows: int, like: Tensor) -> AbstractTransition:
    """The transition with exact zeros in its first `rows` steps. `like`: a tensor `(n, *batch, D)`."""
    if zero_with_leaves(transition):
        return map_leaves(lambda leaf: torch.cat([torch.zeros_like(leaf[:rows]), leaf[rows:]]), transition)
    keep = like.new_ones(like.shape[0], *[1] * (like.ndim - 1))
    keep[:rows] = 0
    return scaled(transition, keep)


def clipped(transition: AbstractTransition, bound: float) -> AbstractTransition:
    """Scale every block down to an induced infinity norm (largest absolute row sum) of at most `bound`.

    The blocks are the entries of a `Diagonal`, the blocks of a `BlockDiagonal`, the whole of a `Dense` matrix; an
    infinity norm of at most 1 keeps every product of the blocks bounded by 1.

    Raises:
        TypeError: for a structure it does not know.
    """

    def shrink(matrix: Tensor) -> Tensor:
        norm = matrix.abs().sum(-1, keepdim=True).amax(-2, keepdim=True)
        return matrix * (bound / norm).clamp(max=1)

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
            return BlockDiagonal(shrink(blocks))
        case Dense(matrix):
            return Dense(shrink(matrix))
        case _:
            raise TypeError(
                f"`clipped` does not know the structure {type(transition).__name__}. Clip the matrices where the "
                "method makes them, or return one of Dense, BlockDiagonal, Diagonal, ScaledIdentity."
            )


def dense(transition: AbstractTransition, like: Tensor) -> Dense:
    """Any structure as full matrices. `like`: a tensor `(n, *batch, D)` that gives shape, dtype and device."""
    if isinstance(transition, Dense):
        return transition
    eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    columns = [transition.mv(column.expand_as(like)) for column in eye]
    return Dense(torch.stack(columns, dim=-1))


def select(first: Tensor, one: AbstractTransition, other: AbstractTransition, like: Tensor) -> AbstractTransition:
    """`one` in the rows where `first` is true, `other` elsewhere, in the tightest structure that holds both.

    Args:
        first: bool, `(n, *batch, 1)`.
        like: a tensor `(n, *batch, D)` that gives shape, dtype and device.
    """
    if isinstance(one, Zero):
        return scaled(other, (~first).to(like.dtype))
    if isinstance(other, Zero):
        return scaled(one, first.to(like.dtype))
    diagonal = Diagonal | ScaledIdentity | Identity
    if isinstance(one, diagonal) and isinstance(other, diagonal):
        ones = torch.ones_like(like)
        return Diagonal(torch.where(first, one.mv(ones), other.mv(ones)))
    return Dense(torch.where(first.unsqueeze(-1), dense(one, like).matrix, dense(other, like).matrix))
