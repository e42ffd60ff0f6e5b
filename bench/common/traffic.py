"""What one iteration of a method must move and compute, counted: for rooflines, of whatever kernels.

Counts are per row (one time step of one sequence), in numbers, not bytes. Two ways to count the memory:

    fused    one pass over memory: states and inputs are read once, states written once. No iteration moves less.
    staged   step, scan and update as three passes, each of which reads its arguments and writes its results once
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: what a row of its step costs.

    Attributes:
        name: of the cell.
        width: numbers of a state.
        inputs: numbers of the inputs of a row, pre-activations included.
        products: floating-point operations of its matrix products.
        special: evaluations of sigmoid and tanh.
    """

    name: str
    width: int
    inputs: int
    products: int
    special: int


def rnn(width: int) -> Cell:
    """`tanh(x + W h)`."""
    return Cell("RNN", width, width, 2 * width**2, width)


def gru(width: int) -> Cell:
    """Three gates."""
    return Cell("GRU", width, 3 * width, 6 * width**2, 3 * width)


def lstm(width: int) -> Cell:
    """Four gates and the tanh of the cell; a state is `(h, c)`, `2 width` numbers."""
    return Cell("LSTM", 2 * width, 4 * width, 8 * width**2, 5 * width)


@dataclass(frozen=True)
class Structure:
    """A structured transition: numbers per row, and operations that the scan needs per row.

    Attributes:
        name: of the structure.
        numbers: of one `A_t`.
        making: operations beyond the step that make one in closed form.
        scanning: operations of a work-efficient scan: two combinations of transitions and two applications.
    """

    name: str
    numbers: int
    making: int
    scanning: int


def zero(cell: Cell) -> Structure:
    """Jacobi: no transition and no scan; the update is the residual."""
    del cell
    return Structure("Zero", 0, 0, 0)


def identity(cell: Cell) -> Structure:
    """Picard: a cumulative sum."""
    return Structure("Identity", 0, 0, cell.width)


def diagonal(cell: Cell) -> Structure:
    """Quasi-Newton."""
    return Structure("Diagonal", cell.width, 8 * cell.width, 6 * cell.width)


def blocks(cell: Cell, size: int) -> Structure:
    """Block Newton: `size x size` blocks; a product of two takes `2 size^3` operations."""
    count = cell.width // size
    return Structure(
        f"{size}x{size} blocks",
        count * size**2,
        8 * count * size**2,
        count * (4 * size**3 + 4 * size**2),
    )


def dense(cell: Cell) -> Structure:
    """Newton."""
    return Structure("Dense", cell.width**2, cell.products, 4 * cell.width**3 + 4 * cell.width**2)


@dataclass(frozen=True)
class Iteration:
    """One iteration of a method on a cell, per row."""

    fused: int
    staged: int
    operations: int
    special: int


def iteration(cell: Cell, structure: Structure) -> Iteration:
    """The counts of one iteration.

    Fused: a state is read once (it is both row t's state and row t+1's predecessor), the inputs once, the new state
    written. Staged: the step writes the residual and `A`; the scan reads both and writes the update; the update reads
    the states and it, and writes the states. Without a scan the residual is the update.
    """
    fused = 2 * cell.width + cell.inputs
    step = cell.width + cell.inputs + cell.width + structure.numbers
    scan = 2 * cell.width + structure.numbers if structure.scanning else 0
    update = 3 * cell.width
    operations = cell.products + structure.making + structure.scanning
    return Iteration(fused, step + scan + update, operations, cell.special)
