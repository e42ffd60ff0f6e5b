"""Stacks of blocks as recurrences over depth.

    h_t = block_t(h_{t-1}),  t = 1..T          time is depth; the state is the whole hidden sequence

A hidden sequence `(*batch, tokens, width)` is one state per batch element, flattened to `(*batch, tokens * width)`. The
rows that the loop passes to `f` are depths, evaluated side by side:

- one block for all depths (`shared`, `injected`): the rows join the batch of one call;
- different layers that are alike (`stack`): their parameters are stacked and become *inputs* of the recurrence, so that
  row t meets the weights of layer t, under `torch.func.vmap`;
- layers that are not alike, or that vmap cannot take (`loop`): one call per row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lds_iter.depth.layers.forward_mode import forward_mode
from lds_iter.depth.layers.recurrence import DepthRecurrence
from lds_iter.depth.layers.up_to_rounding import agree, others, state_dtype
from lds_iter.methods.spelling import spelled

Hidden = Callable[[Tensor], Tensor]
"""A block: hidden states `(N, tokens, width)` to the same shape; sequences do not see each other."""


@spelled
def shared(block: Hidden, h0: Tensor, depth: int, *, dims: int = 2) -> DepthRecurrence:
    """One block applied `depth` times.

    Args:
        block: see `Hidden`.
        h0: `(*batch, tokens, width)`.
        depth: how often.
        dims: how many trailing dimensions make up one state; 1 for a block that takes `(N, width)`.
    """
    return _recurrence(lambda s, _: _in_one_batch(block, s, h0, dims), h0, torch.arange(depth), dims)


@spelled
def injected(
    core: Callable[[Tensor, Tensor], Tensor], h0: Tensor, e: Tensor, depth: int, *, dims: int = 2
) -> DepthRecurrence:
    """A core that sees the embedded input `e` anew at every depth: `h_t = core(h_{t-1}, e)`.

    Args:
        core: `(N, tokens, width)` twice to `(N, tokens, width)`.
        h0: the first state, `(*batch, tokens, width)`.
        e: what is injected, the same shape.
        depth: how often.
        dims: see `shared`.
    """

    def f(s: Tensor, _: Tensor) -> Tensor:
        rows = e.expand(s.shape[0], *e.shape).flatten(0, -dims - 1)
        return _in_one_batch(lambda h: core(h, rows), s, h0, dims)

    return _recurrence(f, h0, torch.arange(depth), dims)


@spelled
def loop(blocks: Sequence[Hidden], h0: Tensor, *, dims: int = 2) -> DepthRecurrence:
    """Different layers, one call per row: for what `stack` cannot take. Layer t is evaluated on row t.

    Args:
        blocks: at least one, see `Hidden`.
        h0: see `shared`.
        dims: see `shared`.

    Raises:
        ValueError: for no blocks.
    """

    def f(s: Tensor, index: Tensor) -> Tensor:
        rows = zip(index.tolist(), s.split(1), strict=True)
        return torch.cat([_in_one_batch(blocks[depth], row, h0, dims) for depth, row in rows])

    if not len(blocks):
        raise ValueError("`blocks` must hold at least one layer.")
    return _recurrence(f, h0, torch.arange(len(blocks)), dims)


@spelled
def stack(layers: Sequence[nn.Module], h0: Tensor, *, dims: int = 2) -> DepthRecurrence:
    """Different layers of one kind, all at once: their parameters, stacked, are the inputs of the recurrence.

    Layer t is evaluated as layer 0 with the parameters of layer t. Each layer runs once by itself, too, and layers
    whose results differ raise: numbers of heads, activations and scales that depend on the depth are no parameters.
    Gradients reach the layers' own parameters.

    Args:
        layers: of one class and one configuration, without randomness.
        h0: see `shared`.
        dims: see `shared`.

    Raises:
        ValueError: where the layers are not alike; says to type `loop`.
    """
    layers = list(layers)
    _check_alike(layers)
    states = [{**dict(layer.named_parameters()), **dict(layer.named_buffers())} for layer in layers]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def one(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return _in_one_batch(lambda h: functional_call(layers[0], parameters, (h,)), row[None], h0, dims)[0]

    problem = _recurrence(lambda s, parameters: torch.func.vmap(one)(parameters, s), h0, stacked, dims)
    _check_by_running(layers, problem, h0, dims)
    return problem


def _check_alike(layers: list[nn.Module]) -> None:
    if not layers:
        raise ValueError("`layers` must hold at least one layer.")
    first = {name: tensor.shape for name, tensor in layers[0].named_parameters()}
    for number, layer in enumerate(layers):
        shapes = {name: tensor.shape for name, tensor in layer.named_parameters()}
        if type(layer) is not type(layers[0]) or shapes != first:
            raise ValueError(
                f"`stack` needs layers of one kind, but layer {number} ({type(layer).__name__}) differs from layer 0 "
                f"({type(layers[0]).__name__}) in class or parameters. Type `loop(layers, h0)`."
            )


@torch.no_grad()
def _check_by_running(layers: list[nn.Module], problem: DepthRecurrence, h0: Tensor, dims: int) -> None:
    """Every layer by itself, on hidden states of no particular kind, gives what its row of the recurrence gives."""
    rows = others(h0).flatten(-dims).to(problem.s0.dtype).expand(len(layers), *problem.s0.shape)
    with forward_mode():  # vmap has no rule for the fast path of torch's own layers
        together = problem.f(rows, problem.inputs)
        alone = torch.cat([_in_one_batch(layer, rows[:1], h0, dims) for layer in layers])
    for number, layer in enumerate(layers):
        if not agree(together[number], alone[number], h0.dtype):
            raise ValueError(
                f"`stack` runs every layer as layer 0 with other parameters, but layer {number} "
                f"({type(layer).__name__}) then returns something else than by itself. In order of likelihood: it is "
                "configured differently (number of heads, activation, norm order, a scale that depends on the depth); "
                "it is random (type `layer.eval()`). Type `loop(layers, h0)`, which runs every layer by itself."
            )


def _recurrence(f: Callable[[Tensor, Any], Tensor], h0: Tensor, inputs: Any, dims: int) -> DepthRecurrence:
    if isinstance(inputs, Tensor):
        inputs = inputs.to(h0.device)
    return DepthRecurrence(f, h0.flatten(-dims).to(state_dtype(h0.dtype)), inputs, h0.shape[-dims:])


def _in_one_batch(block: Hidden, s: Tensor, h0: Tensor, dims: int) -> Tensor:
    """Apply a block to `(rows, *batch, D)`, all leading dimensions as one batch, in the dtype of `h0`."""
    hidden = block(s.reshape(-1, *h0.shape[-dims:]).to(h0.dtype))
    return hidden.reshape(s.shape).to(s.dtype)
