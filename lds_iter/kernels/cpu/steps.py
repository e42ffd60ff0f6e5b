"""Step by step in compiled code: all states of a cell of `lds_iter.nn` one after the other, and all their gradients.

`gru_steps.cpp`, `lstm_steps.cpp`, `rnn_steps.cpp`. On a processor a step of a cell is cheaper than its share of any
iteration, and needs no convergence. Reference: the loop of `lds_iter.sequential` over plain torch operations. Any width
is served; a result does not depend, to the bit, on other batch elements, on threads, or on the number of steps.
Functions return None where the reference must serve.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.kernels.cpu.build import function
from lds_iter.kernels.cpu.cells import CompiledCell, Tensors
from lds_iter.kernels.cpu.plain import addresses, plain, traced


@dataclass(frozen=True)
class StepsGradients:
    """The gradients of all steps; those that were not asked for are None.

    Attributes:
        s0: of the first state, `(*batch, parts D)`.
        inputs: of what the inputs contribute to each gate, `(T, *batch, D)` each.
        matrices: of the recurrent matrices, `(D, D)` each, or `(D, P)` with a projection.
        inner_bias: of the bias of the last product, `(D)`, where the cell has one.
        projection: of the projection, `(P, D)`.
    """

    s0: Tensor
    inputs: Tensors
    matrices: Tensors | None
    inner_bias: Tensor | None
    projection: Tensor | None


def steps(cell: CompiledCell, s0: Tensor, tensors: Tensors, projection: Tensor | None = None) -> Tensor | None:
    """All states from the first, without a graph.

    Args:
        cell: which one.
        s0: `(*batch, parts D)`, float32 or float64.
        tensors: what the inputs contribute to each gate, `(T, *batch, D)`, expanded or not; matrices `(D, D)`, or
            `(D, P)` with a projection; the bias of the last product, `(D)`, where the cell has one.
        projection: `(P, D)`; the matrices then multiply `projection h`.

    Returns:
        `(T, *batch, parts D)`, contiguous, in memory of its own.

    Raises:
        MemoryError: where there is no room for weights in another order.
    """
    projection = None if projection is None else projection.contiguous()
    ready = _ready(cell, s0, tensors, projection)
    if ready is None:
        return None
    s0, gates, weights = ready
    return _run(cell, s0, gates[0].shape[0], (*gates, *weights, projection), weights[0].shape, 0)


@dataclass(frozen=True)
class InputWeights:
    """The weights that read the inputs of a cell.

    Attributes:
        matrix: of all gates, one below the other, `(gates D, D_in)`.
        bias: of all gates, `(gates D)`, or None.
    """

    matrix: Tensor
    bias: Tensor | None


def steps_along(cell: CompiledCell, s0: Tensor, x: Tensor, read: InputWeights, weights: Tensors) -> Tensor | None:
    """All states from the first, without a graph, from a sequence itself.

    The products of the inputs are made on the way, a block of steps at a time, and stay in the cache.

    Args:
        cell: which one.
        s0: `(*batch, parts D)`, float32 or float64.
        x: the inputs, `(T, *batch, D_in)`.
        read: what they are multiplied by.
        weights: recurrent matrices and the bias of the last product, as for `steps`.

    Returns:
        `(T, *batch, parts D)`, contiguous, in memory of its own; None where the reference must serve.

    Raises:
        MemoryError: as `steps`.
    """
    given = (s0, x, read.matrix, *weights, *(() if read.bias is None else (read.bias,)))
    if traced() or s0.ndim == 0 or s0.shape[-1] % cell.parts or not plain(*given, dtype=s0.dtype):
        return None
    width, features = s0.shape[-1] // cell.parts, x.shape[-1]
    if x.shape[1:-1] != s0.shape[:-1] or read.matrix.shape != (cell.gates * width, features) or features == 0:
        return None
    if read.bias is not None and read.bias.shape != (cell.gates * width,):
        return None
    if not _weights_fit(cell, weights, width, width):
        return None
    weights = tuple(weight.contiguous() for weight in weights)
    bias = None if read.bias is None else read.bias.contiguous()
    table = (*[None] * cell.gates, *weights, None, x.contiguous(), read.matrix.contiguous(), bias)
    return _run(cell, s0.contiguous(), x.shape[0], table, weights[0].shape, features)


def _run(
    cell: CompiledCell, s0: Tensor, n: int, table: tuple[Tensor | None, ...], matrix: torch.Size, features: int
) -> Tensor | None:
    """All states of `n` steps by compiled code; None where there is none."""
    run = function(f"{cell.source}_steps", "steps" + cell.variant, s0.dtype, 9)
    if run is None:
        return None
    states = s0.new_empty(n, *s0.shape)
    if states.numel() > 0:
        pointers, (width, columns) = addresses(*table), matrix
        batch = states.numel() // (n * cell.parts * width)
        sizes = n, batch, width, columns, features, torch.get_num_threads()
        run(ctypes.addressof(pointers), s0.data_ptr(), states.data_ptr(), *sizes)
    return states


def steps_gradients(
    cell: CompiledCell, s0: Tensor, states: Tensor, tensors: Tensors, g: Tensor, projection: Tensor | None = None,
    *, matrices: bool = True,
) -> StepsGradients | None:  # fmt: skip
    """The gradients of a loss with gradients `g` of all states, without a graph.

    Args:
        cell: which one.
        s0: as for `steps`, as are `tensors` and `projection`.
        states: what `steps` returned, `(T, *batch, parts D)`.
        tensors: see `s0`.
        g: like `states`.
        projection: see `s0`.
        matrices: whether the gradients of matrices, bias and projection are wanted.

    Raises:
        MemoryError: as `steps`.
    """
    projection = None if projection is None else projection.contiguous()
    ready = _ready(cell, s0, tensors, projection)
    if ready is None or not plain(states, g, dtype=s0.dtype) or g.shape != states.shape:
        return None
    run = function(f"{cell.source}_steps", "backward" + cell.variant, s0.dtype, 11)
    if run is None:
        return None
    s0, gates, weights = ready
    states, g, first = states.contiguous(), g.contiguous(), torch.zeros_like(s0)
    made = [torch.empty_like(gates[0]) if k < cell.gates or k in cell.to_inputs else None for k in range(cell.made)]
    if states.numel() > 0:
        table, out = addresses(*gates, *weights, projection), addresses(*made)
        run(
            ctypes.addressof(table), s0.data_ptr(), states.data_ptr(), g.data_ptr(), ctypes.addressof(out),
            first.data_ptr(), *_call_sizes(gates, weights),
        )  # fmt: skip
    found = tuple(tensor for tensor in made if tensor is not None)
    inputs = tuple(tensor for k, tensor in enumerate(made) if tensor is not None and k in cell.to_inputs)
    if not matrices:
        return StepsGradients(first, inputs, None, None, None)
    return StepsGradients(first, inputs, *_of_weights(cell, s0, states, found[: cell.gates], weights, projection))


def _of_weights(
    cell: CompiledCell, s0: Tensor, states: Tensor, slopes: Tensors, weights: Tensors, projection: Tensor | None
) -> tuple[Tensors, Tensor | None, Tensor | None]:
    """From the gradients of all products those of matrices, bias and projection."""
    width = slopes[0].shape[-1]
    rows = [slope.reshape(-1, width) for slope in slopes]
    first, rest = (h[..., :: cell.parts].reshape(-1, width) for h in (s0, states[:-1]))
    first = first[: rows[0].shape[0]]  # none of it where there is no step

    def product(row: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Over all steps, without a copy of the states before them."""
        return torch.addmm(row[: before.shape[0]].T @ before, row[before.shape[0] :].T, after)

    bias = rows[-1].sum(0) if len(weights) > cell.gates else None
    if projection is None:
        return tuple(product(row, first, rest) for row in rows), bias, None
    fed = first @ projection.T, rest @ projection.T
    back = rows[0] @ weights[0]
    for row, weight in zip(rows[1:], weights[1 : cell.gates], strict=True):
        back.addmm_(row, weight)
    return tuple(product(row, *fed) for row in rows), bias, product(back, first, rest)


def _ready(
    cell: CompiledCell, s0: Tensor, tensors: Tensors, projection: Tensor | None
) -> tuple[Tensor, Tensors, Tensors] | None:
    """The first state, the inputs and the weights as compiled code reads them; None where it cannot."""
    gates, weights = tensors[: cell.gates], tensors[cell.gates :]
    given = (s0, *tensors, *(() if projection is None else (projection,)))
    if traced() or s0.ndim == 0 or s0.shape[-1] % cell.parts or not plain(*given, dtype=s0.dtype):
        return None
    width = s0.shape[-1] // cell.parts
    columns = width if projection is None else projection.shape[0]
    if projection is not None and projection.shape != (columns, width):
        return None
    if not _weights_fit(cell, weights, width, columns):
        return None
    shape = (gates[0].shape[0], *s0.shape[:-1], width)
    if any(gate.ndim != len(shape) or gate.shape[0] != shape[0] for gate in gates):
        return None
    try:
        gates = tuple(gate.expand(shape).contiguous() for gate in gates)
    except RuntimeError:  # of another batch
        return None
    return s0.contiguous(), gates, tuple(weight.contiguous() for weight in weights)


def _weights_fit(cell: CompiledCell, weights: Tensors, width: int, columns: int) -> bool:
    """Whether matrices and the bias of the last product are those of a cell of this width."""
    matrices, biases = weights[: cell.gates], weights[cell.gates :]
    fit = all(matrix.shape == (width, columns) for matrix in matrices) and all(
        bias.shape == (width,) for bias in biases
    )
    return fit and width * columns > 0


def _call_sizes(gates: Tensors, weights: Tensors) -> tuple[int, int, int, int, int]:
    """Steps, batch elements, width, columns of the matrices, threads."""
    n, width = gates[0].shape[0], gates[0].shape[-1]
    return n, gates[0].numel() // (n * width), width, weights[0].shape[-1], torch.get_num_threads()
