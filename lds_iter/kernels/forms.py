"""What a compiled iteration takes for `A_t`; who has a method translates it, for kernels know no methods."""

from __future__ import annotations

from enum import IntEnum


class Form(IntEnum):
    """The diagonal of the Jacobian, its blocks within the channels, or all of it."""

    DIAGONAL = 0
    BLOCKS = 1
    FULL = 2
