"""The derivatives of a recurrence at some rows: what each kind of them offers, and the closed form of the simplest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 20
"""Products for several columns of a Jacobian run side by side in chunks of at most this many numbers (4 MiB in
float32, times the handful of intermediate results of `f`)."""


class AbstractDerivatives(ABC):
    """The value of `f` at some rows and its derivatives with respect to the state there, each computed when asked for.

    Attributes:
        value: `f(s, u)`, `(n, *batch, D)`.
    """

    value: Tensor

    @abstractmethod
    def jvp(self, v: Tensor) -> Tensor:
        """`J_t v_t` for all rows; `v` and the result `(n, *batch, D)`."""

    @abstractmethod
    def vjp(self, w: Tensor) -> Tensor:
        """`J_t^T w_t` for all rows; `w` and the result `(n, *batch, D)`."""

    @abstractmethod
    def jacobian(self) -> Tensor:
        """`J_t[i, j] = d f_i / d s_j` for all rows, `(n, *batch, D, D)`."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """The diagonal of `J_t`, exactly, `(n, *batch, D)`."""

    @abstractmethod
    def block_diagonal(self, size: int) -> Tensor:
        """The blocks of `size` along the diagonal of `J_t`, `(n, *batch, D // size, size, size)`."""


@dataclass(frozen=True)
class ElementwiseDerivatives(AbstractDerivatives):
    """For an `f` that acts on every coordinate by itself, so that its Jacobian is a diagonal.

    Attributes:
        value: `f(s, u)`, `(n, *batch, D)`.
        slope: `d f_i / d s_i`, the same shape.

    Raises:
        ValueError: when the shapes differ.
    """

    value: Tensor
    slope: Tensor

    def __post_init__(self) -> None:
        if self.slope.shape != self.value.shape:
            raise ValueError(
                f"`slope` must have the shape of `value`, {tuple(self.value.shape)}, got {tuple(self.slope.shape)}: "
                "one number per coordinate of every row, from the `linearize` of your `f`."
            )

    def jvp(self, v: Tensor) -> Tensor:
        return self.slope * v

    def vjp(self, w: Tensor) -> Tensor:
        return self.slope * w

    def jacobian(self) -> Tensor:
        return torch.diag_embed(self.slope)

    def diagonal(self) -> Tensor:
        return self.slope

    def block_diagonal(self, size: int) -> Tensor:
        return torch.diag_embed(self.slope.unflatten(-1, (-1, size)))
