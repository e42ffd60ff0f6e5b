"""The form of `A_t` in a compiled iteration. Kernels know no methods; the caller translates a method into a form."""

from __future__ import annotations

from enum import IntEnum


class Form(IntEnum):
    """The diagonal of the Jacobian, its blocks within the channels, or all of it."""

    DIAGONAL = 0
    BLOCKS = 1
    FULL = 2
