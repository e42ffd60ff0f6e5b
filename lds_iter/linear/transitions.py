"""Structured transitions: the matrices `A_t` of a linear dynamical system, one per time step.

A transition holds the matrices of `n` consecutive steps at once. Four operations are all that the library needs:

    mv(x)            A_t x_t                                 for all t at once, x of shape (n, *batch, D)
    after(earlier)   the composition  self_t . earlier_t     in the same structure
    transpose()      A_t^T                                   for the adjoint
    scaled(factor)   c_t A_t                                 for the cut at the frontier and for damping

so a user's own structure works everywhere once it is a frozen dataclass with these four. Its tensor fields ("leaves")
lead with time; fields that are not tensors are the same at every step.
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
Factor = float | Tensor
"""A number for all rows, or one per row, `(n, *batch, 1)`."""


class AbstractTransition(ABC):
    """The matrices `A_t` of `n` consecutive steps, in one structure.

    Subclasses are frozen dataclasses; every tensor field has shape `(n, *batch, ...)`, time first. The four operations
    have signs: `A @ B` is `A.after(B)` (first B), `A @ x` is `A.mv(x)`, `A.T` is `A.transpose()`, and `c * A` is
    `A.scaled(c)`.
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

    @abstractmethod
    def scaled(self, factor: Factor) -> AbstractTransition:
        """Every matrix times a number, in the same structure (for a structure without numbers in the next wider one).

        Args:
            factor: a number, or one per row, `(n, *batch, 1)`. A zero in the tensor gives exactly zero, also where the
                matrix is inf or NaN: multiply each leaf by `li.linear.times(factor, leaf)`.
        """

    def dense(self, like: Tensor) -> Dense:
        """The same as full matrices. `like`: a tensor `(n, *batch, D)` that gives shape, dtype and device."""
        if isinstance(self, Dense):
            return self
        eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        return Dense(torch.stack([self.mv(column.expand_as(like)) for column in eye], dim=-1))

    @property
    def T(self) -> Self:
        """The transposed matrices."""
        return self.transpose()

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, Tensor):
            return self.mv(other)
        if not isinstance(other, AbstractTransition):
            return NotImplemented
        if type(self) is not type(other):
            raise TypeError(
                f"`@` composes transitions of one structure, got {type(self).__name__} and {type(other).__name__}. For "
                "full matrices type `a.dense(x) @ b.dense(x)`, with a tensor x of shape (n, *batch, D)."
            )
        return self.after(other)

    def __mul__(self, factor: Factor) -> AbstractTransition:
        return self.scaled(factor) if isinstance(factor, int | float | Tensor) else NotImplemented

    __rmul__ = __mul__


def times(factor: Factor, leaf: Tensor) -> Tensor:
    """`factor * leaf` with exact zeros where the factor is a zero of a tensor, for `AbstractTransition.scaled`.

    Args:
        factor: a number, or one per row, `(n, *batch, 1)`.
        leaf: any tensor of a transition, `(n, *batch, ...)`.
    """
    if not isinstance(factor, Tensor) or factor.ndim == 0:
        return leaf * factor
    wide = factor.reshape(*factor.shape[:-1], *[1] * (leaf.ndim - factor.ndim + 1)).to(leaf.dtype)
    product = leaf * wide
    # In place: a second tensor of the size of the Jacobians costs more.
    return product.masked_fill_(wide == 0, 0)


@dataclass(frozen=True)
class Dense(AbstractTransition):
    """A full matrix per step.

    Attributes:
        matrix: `(n, *batch, D, D)`.
    """

    matrix: Tensor

    def mv(self, x: Tensor) -> Tensor:
        return (self.matrix @ x.unsqueeze(-1)).squeeze(-1)

    def after(self, earlier: Any) -> Dense:
        return Dense(self.matrix @ earlier.matrix)

    def transpose(self) -> Dense:
        return Dense(self.matrix.mT)

    def scaled(self, factor: Factor) -> Dense:
        return Dense(times(factor, self.matrix))


@dataclass(frozen=True)
class BlockDiagonal(AbstractTransition):
    """Square blocks of one size along the diagonal.

    Attributes:
        blocks: `(n, *batch, D // size, size, size)`.
    """

    blocks: Tensor

    def mv(self, x: Tensor) -> Tensor:
        return (self.blocks @ x.unflatten(-1, self.blocks.shape[-3:-1]).unsqueeze(-1)).flatten(-3)

    def after(self, earlier: Any) -> BlockDiagonal:
        return BlockDiagonal(self.blocks @ earlier.blocks)

    def transpose(self) -> BlockDiagonal:
        return BlockDiagonal(self.blocks.mT)

    def scaled(self, factor: Factor) -> BlockDiagonal:
        return BlockDiagonal(times(factor, self.blocks))


@dataclass(frozen=True)
class Diagonal(AbstractTransition):
    """A diagonal matrix per step.

    Attributes:
        diagonal: `(n, *batch, D)`.
    """

    diagonal: Tensor

    def mv(self, x: Tensor) -> Tensor:
        return self.diagonal * x

    def after(self, earlier: Any) -> Diagonal:
        return Diagonal(self.diagonal * earlier.diagonal)

    def transpose(self) -> Diagonal:
        return self

    def scaled(self, factor: Factor) -> Diagonal:
        return Diagonal(times(factor, self.diagonal))


@dataclass(frozen=True)
class ScaledIdentity(AbstractTransition):
    """A multiple of the identity.

    Attributes:
        scale: a number for all steps, or a tensor `(n, *batch, 1)`.
    """

    scale: float | Tensor

    def mv(self, x: Tensor) -> Tensor:
        return self.scale * x

    def after(self, earlier: Any) -> ScaledIdentity:
        return ScaledIdentity(self.scale * earlier.scale)

    def transpose(self) -> ScaledIdentity:
        return self

    def scaled(self, factor: Factor) -> ScaledIdentity:
        return ScaledIdentity(times(factor, self.scale) if isinstance(self.scale, Tensor) else self.scale * factor)


@dataclass(frozen=True)
class Identity(AbstractTransition):
    """The identity at every step; its scan is a cumulative sum."""

    def mv(self, x: Tensor) -> Tensor:
        return x

    def after(self, earlier: Any) -> Identity:
        return self

    def transpose(self) -> Identity:
        return self

    def scaled(self, factor: Factor) -> ScaledIdentity:
        return ScaledIdentity(factor)


@dataclass(frozen=True)
class Zero(AbstractTransition):
    """Zero at every step; its scan does nothing."""

    def mv(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def after(self, earlier: Any) -> Zero:
        return self

    def transpose(self) -> Zero:
        return self

    def scaled(self, factor: Factor) -> Zero:
        return self


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
