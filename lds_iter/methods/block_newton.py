"""Newton with the diagonal blocks of the Jacobian, between quasi-Newton (size 1) and Newton (size D)."""

from dataclasses import dataclass

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import BlockDiagonal
from lds_iter.methods.arguments import check_count, fix
from lds_iter.methods.base import TransitionApproximation


@dataclass(frozen=True)
class BlockNewton(TransitionApproximation):
    """`A_t` = the blocks of `size` along the diagonal of `J_t`, coordinates grouped as they lie.

    For states whose coordinates couple in groups: LSTM cells as (h, c) pairs, positions and velocities, channels.

    Attributes:
        size: of a block; must divide D.

    Raises:
        ValueError: when `size` is no whole number, 1 or more; in a solve, when it does not divide D.
    """

    size: int

    def __post_init__(self) -> None:
        fix(self, size=check_count("size", self.size, least=1))

    def transition(self, lin: Linearization) -> BlockDiagonal:
        width = lin.residual.shape[-1]
        if width % self.size:
            raise ValueError(
                f"BlockNewton(size={self.size}) needs a state whose width is a multiple of `size`, but D = {width}."
            )
        return BlockDiagonal(lin.block_diagonal(self.size))
