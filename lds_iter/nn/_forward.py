"""A forward of a module: first a plan for every layer and direction, then its execution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lds_iter._torch import without_autocast
from lds_iter.auto import Auto
from lds_iter.compile.compiled import CompileCache
from lds_iter.nn._boundary import Sequences
from lds_iter.nn._plan import HALF, MALFORMED, SAVED, WATCHED, LayerOutcome, Part, Plan
from lds_iter.nn._recorded import saves_elsewhere, watched
from lds_iter.nn._sequences import reverse
from lds_iter.nn._shared import by_ranks, shared_sequences
from lds_iter.nn._ways import Way, by_method, by_race, by_steps
from lds_iter.nn._weights import layer_weights
from lds_iter.nn.cell import CellRecurrence
from lds_iter.nn.gru import GRURecurrence
from lds_iter.nn.lstm import LSTMRecurrence
from lds_iter.nn.options import SolveOptions
from lds_iter.nn.rnn import RNNRecurrence


def forward_pass(
    module: torch.nn.RNNBase,
    options: SolveOptions,
    auto: Callable[[], Auto],
    cache: CompileCache | None,
    input: Any,
    hx: Any,
) -> LayerOutcome:
    """One forward of a module by this library.

    Args:
        module: a layer of `torch.nn`.
        options: of its solves.
        auto: makes the strategy that chooses on an accelerator when no method is given.
        cache: compiled iterations, when solves are compiled.
        input: the input that `forward` was given.
        hx: the initial states that `forward` was given.
    """
    if options.mesh is not None:
        batch, shards = shared_sequences(module, options.mesh, input, hx)
        return _carried_out(module, batch, by_ranks(module, options, shards))
    batch = Sequences.of(module, input, hx)
    if batch is None:
        return LayerOutcome(None, MALFORMED)
    plan = _way(module, options, auto, cache, batch)
    if isinstance(plan, Plan):
        return LayerOutcome(None, plan)
    return _carried_out(module, batch, plan)


def _carried_out(module: torch.nn.RNNBase, batch: Sequences, way: Way) -> LayerOutcome:
    """The outcome of a forward by one way."""
    with without_autocast(batch.x):
        results, parts = _stack(module, batch, way)
    solutions = tuple(part.solution for part in parts if part.solution is not None)
    if results is None:
        return LayerOutcome(None, parts[-1].plan, solutions)
    return LayerOutcome(batch.results(module, *results), parts[-1].plan, solutions)


def _way(
    module: torch.nn.RNNBase,
    options: SolveOptions,
    auto: Callable[[], Auto],
    cache: CompileCache | None,
    batch: Sequences,
) -> Way | Plan:
    """The way to evaluate each layer and direction, or the reason why torch's kernel computes the module."""
    if options.method is not None:
        return by_method(module, batch.lengths, options, options.method, cache)
    if batch.x.device.type == "cpu":
        return WATCHED if watched() else by_steps(batch.lengths)
    if batch.dtype.itemsize < 4:
        return HALF
    return SAVED if saves_elsewhere() else by_race(module, batch.lengths, options, auto())


def _stack(
    module: torch.nn.RNNBase, batch: Sequences, one: Way
) -> tuple[tuple[Tensor, tuple[Tensor, ...]] | None, list[Part]]:
    """The output of the last layer `(T, B, directions * D)` with the final states, or None if one layer has no
    result; and the outcomes of all layers and directions."""
    x, lengths, directions = batch.x, batch.lengths, 2 if module.bidirectional else 1
    finals: list[tuple[Tensor, ...]] = []
    parts: list[Part] = []
    for layer in range(module.num_layers):
        outputs = []
        for backward in (False, True)[:directions]:
            f, place = recurrence_of(module, layer, backward, x.dtype), len(parts)
            sequence = reverse(x, lengths) if backward else x
            part = one(place, f, sequence, tuple(state[place] for state in batch.start))
            parts.append(part)
            if part.results is None:
                return None, parts
            output, final = part.results
            outputs.append(reverse(output, lengths) if backward else output)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if module.dropout > 0 and layer + 1 < module.num_layers:
            x = functional.dropout(x, module.dropout, module.training)
    return (x, tuple(torch.stack(kind) for kind in zip(*finals, strict=True))), parts


def recurrence_of(module: torch.nn.RNNBase, layer: int, backward: bool, dtype: torch.dtype) -> CellRecurrence:
    """One layer and direction of a module, in a dtype to compute in."""
    weights = layer_weights(module, layer, backward)
    if weights["weight_hh"].dtype != dtype:
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
    if isinstance(module, torch.nn.LSTM):
        return LSTMRecurrence(**weights)
    if isinstance(module, torch.nn.GRU):
        return GRURecurrence(**weights)
    return RNNRecurrence(**weights, nonlinearity=module.nonlinearity)  # pyright: ignore[reportArgumentType]
