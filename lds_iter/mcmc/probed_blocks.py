"""Estimated diagonal blocks of the Jacobian, for states too wide for D products: Hutchinson's estimator by blocks.

With random signs `z`, one to a block, and `e_j` the j-th unit vector of every block, `E[z_b (J (z e_j))_b]` is column j
of block b: `size` products a probe, whatever D is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import BlockDiagonal
from lds_iter.methods.arguments import check_count, fix
from lds_iter.methods.base import TransitionApproximation
from lds_iter.methods.quasi_newton import random_signs


@dataclass(frozen=True)
class ProbedBlocks(TransitionApproximation):
    """`A_t` = an estimate of the blocks of `size` along the diagonal of `J_t`, in `size` products a probe.

    What `QuasiNewton(Hutchinson())` is to `QuasiNewton()`, this is to `BlockNewton(size)`. For leapfrog steps of wide
    positions: `ProbedBlocks(2)`.

    Attributes:
        size: of a block; must divide the width of the state.
        probes: estimates to average.
        seed: of the signs, a whole number, 0 or more.

    Raises:
        ValueError: when one of them is no such number.
    """

    size: int = 2
    probes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        fix(
            self, size=check_count("size", self.size, least=1), probes=check_count("probes", self.probes, least=1),
            seed=check_count("seed", self.seed, least=0),
        )  # fmt: skip

    def transition(self, lin: Linearization) -> BlockDiagonal:
        width = lin.residual.shape[-1]
        if width % self.size:
            raise ValueError(f"`size` must divide the width of the state, {width}, got {self.size}.")
        total = lin.residual.new_zeros(*lin.residual.shape[:-1], width // self.size, self.size, self.size)
        for probe in range(self.probes):
            signs = random_signs(self.seed + 0x51ED27 * probe, lin.rows.start, lin.residual[..., :: self.size])
            total += torch.stack([self._column(lin, signs, j) for j in range(self.size)], -1)
        return BlockDiagonal(total / self.probes)

    def _column(self, lin: Linearization, signs: torch.Tensor, j: int) -> torch.Tensor:
        """Column j of every block, `(n, *batch, D // size, size)`."""
        unit = torch.eye(self.size, dtype=signs.dtype, device=signs.device)[j]
        v = (signs.unsqueeze(-1) * unit).flatten(-2).expand_as(lin.residual).contiguous()
        return lin.jvp(v).unflatten(-1, (-1, self.size)) * signs.unsqueeze(-1)
