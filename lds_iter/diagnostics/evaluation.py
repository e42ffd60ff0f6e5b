"""Two ways to push directions through the Jacobians of a trajectory: parallel over time, and step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.diagnostics._along import Along
from lds_iter.diagnostics.products import orthonormal, push_frame, push_vector


class AbstractEvaluation(ABC):
    """A way to push directions through the Jacobians of a trajectory."""

    @abstractmethod
    def rows(self, trajectory: Along) -> int:
        """How many time steps to linearize at once."""

    @abstractmethod
    def push(self, lin: Linearization, first: int, last: int, frame: Tensor) -> tuple[Tensor, Tensor]:
        """`frame` after the rows `[first, last)` of `lin`, and the logarithm of its growth.

        Args:
            frame: orthonormal columns, `(*batch, D, k)`, float64.

        Returns:
            The frame, orthonormal again, and the growth in nats, `(*batch, k)`.
        """


@dataclass(frozen=True)
class ByScan(AbstractEvaluation):
    """Parallel over time: rescaled products in a tree for one exponent, chunks of QR steps side by side for more.

    Memory: the dense Jacobians of a stretch of rows, bounded; so it is made for states of up to some hundred numbers.
    """

    def rows(self, trajectory: Along) -> int:
        return trajectory.rows_that_fit()

    def push(self, lin: Linearization, first: int, last: int, frame: Tensor) -> tuple[Tensor, Tensor]:
        matrices = lin.jacobian()[first:last].double()
        return (push_vector if frame.shape[-1] == 1 else push_frame)(matrices, frame)


@dataclass(frozen=True)
class StepByStep(AbstractEvaluation):
    """One time step after the other by `jvp`, with a QR step after each: no matrix is formed, so D may be large."""

    def rows(self, trajectory: Along) -> int:  # noqa: ARG002
        return 1

    def push(self, lin: Linearization, first: int, last: int, frame: Tensor) -> tuple[Tensor, Tensor]:
        if (first, last) != (0, 1) or lin.prev.shape[0] != 1:
            raise ValueError("`StepByStep` takes one row at a time.")
        columns = [lin.jvp(column.to(lin.prev.dtype).unsqueeze(0))[0] for column in frame.unbind(-1)]
        return orthonormal(torch.stack(columns, -1).double())
