"""Derivatives for which a kernel has computed the value and the diagonal blocks of the Jacobian in advance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from lds_iter.derivatives.closed_form import AbstractDerivatives


class FusedDerivatives(AbstractDerivatives):
    """The value and the diagonal blocks of one size as given; all else comes from another object, made on demand.

    Args:
        value: `(n, *batch, D)`.
        blocks: `(n, *batch, D // size, size, size)`.
        rest: makes the object that computes all other derivatives.
        jacobian: makes the full Jacobians; None where `rest` computes them.
    """

    def __init__(
        self,
        value: Tensor,
        blocks: Tensor,
        rest: Callable[[], AbstractDerivatives],
        jacobian: Callable[[], Tensor | None] = lambda: None,
    ) -> None:
        self.value = value
        self._blocks, self._make, self._full = blocks, rest, jacobian

    @cached_property
    def _rest(self) -> AbstractDerivatives:
        return self._make()

    def jvp(self, v: Tensor) -> Tensor:
        return self._rest.jvp(v)

    def vjp(self, w: Tensor) -> Tensor:
        return self._rest.vjp(w)

    def jacobian(self) -> Tensor:
        full = self._full()
        return self._rest.jacobian() if full is None else full

    def diagonal(self) -> Tensor:
        diagonal = self._blocks.diagonal(dim1=-2, dim2=-1)
        return diagonal.flatten(-2) if self._blocks.shape[-1] > 1 else self._blocks.view(self.value.shape)

    def block_diagonal(self, size: int) -> Tensor:
        return self._blocks if size == self._blocks.shape[-1] else self._rest.block_diagonal(size)
