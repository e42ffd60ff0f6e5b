"""What the loop and a recurrence that computes whole sweeps itself say to each other.

Such a recurrence has a method `sweep(method, sweeping, inputs)` for main memory (see `lds_iter.kernels.cpu.cells`), or
`sweep_on_device`, alike, where the host does not look (see `kernels.triton.cells`). It returns what it found, or
None where the loop must do the sweep. `serves(method, s, inputs)` says of rows like these, `(n, *batch, D)`, whether
`sweep` would: `Auto` asks before it estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sweeping:
    """The rows to sweep.

    Attributes:
        buffer: the state before each row at hand and, last, the one after them, `(n + 1, *batch, D)`.
        spare: of the same shape; takes the proposals, from its second row on.
        s0: what rows fall back to where nothing is finite, `(*batch, D)`.
        start: the time of the first row at hand.
        lo: the first row of each sequence that is not accepted yet, `(*batch)`.
        hi: the time after the last row of each that may move, `(*batch)`.
        rtol: of the stopping rule.
        atol: of the stopping rule.
    """

    buffer: Tensor
    spare: Tensor
    s0: Tensor
    start: int
    lo: Tensor
    hi: Tensor
    rtol: float
    atol: float


@dataclass(frozen=True)
class Swept:
    """What a sweep found; all `(*batch)`.

    Attributes:
        lo: the first row that is not accepted yet.
        residual: the largest of the open rows.
        excess: by how much one exceeds the relative tolerance at most; 0 where none does.
        accepted: the largest residual of the rows accepted now.
    """

    lo: Tensor
    residual: Tensor
    excess: Tensor
    accepted: Tensor


@dataclass(frozen=True)
class Moved(Swept):
    """Proposals that the loop has still to repair.

    Attributes:
        flawed: whether one is not finite.
    """

    flawed: bool


@dataclass(frozen=True)
class Settled(Swept):
    """Proposals that are repaired and hold f's value at the frontier, on the device.

    Attributes:
        resets: rows whose proposal was not finite, `(*batch)`.
        broken: whether f's value of the frontier row is not finite, `(*batch)`.
    """

    resets: Tensor
    broken: Tensor
