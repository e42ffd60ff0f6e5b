"""Stacks of blocks as recurrences over depth.

    h_t = block_t(h_{t-1}),  t = 1..T          time is depth; the state is the whole hidden sequence

A hidden sequence `(*batch, tokens, width)` is one state per batch mate, flattened to `(*batch, tokens * width)`. The
rows that the loop passes to `f` are depths, evaluated side by side:

- one block for all depths (`shared`, `injected`): the rows join the batch of one call;
- different layers that are alike (`stack`): their parameters are stacked and become *inputs* of the recurrence, so that
  row t meets the weights of layer t, under `torch.func.vmap`;
- layers that are not alike, or that vmap cannot take (`loop`): one call per row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import lds_iter as li

Hidden = Callable[[Tensor], Tensor]
"""A block: hidden states `(N, tokens, width)` to the same shape; sequences do not see each other."""


@dataclass(frozen=True)
class DepthRecurrence:
    """A stack of blocks as the arguments of `li.solve`.

    Attributes:
        f: one layer, for any rows (depths) at once.
        s0: the flattened hidden states below the first layer, `(*batch, D)`.
        inputs: what tells the rows apart; leads with the depth T.
        shape: of one hidden state, `(tokens, width)` or whatever was flattened.
    """

    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any
    shape: torch.Size

    def solve(self, method: li.LDSApproximation | None = None, **options: Any) -> li.Solution:
        """All layers in parallel; options as `li.solve` takes them."""
        return li.solve(self.f, self.s0, self.inputs, method, **options)

    def sequential(self) -> Tensor:
        """Layer by layer; the states `(T, *batch, D)`."""
        return li.sequential(self.f, self.s0, self.inputs)

    def unflatten(self, states: Tensor) -> Tensor:
        """States `(..., D)` as hidden states `(..., tokens, width)`."""
        return states.unflatten(-1, self.shape)


def shared(block: Hidden, h0: Tensor, depth: int, *, dims: int = 2) -> DepthRecurrence:
    """One block applied `depth` times.

    Args:
        block: see `Hidden`.
        h0: `(*batch, tokens, width)`.
        depth: how often.
        dims: how many trailing dimensions make up one state; 1 for a block that takes `(N, width)`.
    """
    return _recurrence(lambda s, _: _in_one_batch(block, s, h0.shape[-dims:]), h0, torch.arange(depth), dims)


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
        return _in_one_batch(lambda h: core(h, rows), s, h0.shape[-dims:])

    return _recurrence(f, h0, torch.arange(depth), dims)


def loop(blocks: Sequence[Hidden], h0: Tensor, *, dims: int = 2) -> DepthRecurrence:
    """Different layers, one call per row: for what `stack` cannot take. Layer t is evaluated on row t."""

    def f(s: Tensor, index: Tensor) -> Tensor:
        rows = zip(index.tolist(), s.split(1), strict=True)
        return torch.cat([_in_one_batch(blocks[depth], row, h0.shape[-dims:]) for depth, row in rows])

    return _recurrence(f, h0, torch.arange(len(blocks)), dims)


def stack(layers: Sequence[nn.Module], h0: Tensor, *, dims: int = 2) -> DepthRecurrence:
    """Different layers of one kind, all at once: their parameters, stacked, are the inputs of the recurrence.

    Gradients reach the layers' own parameters. Falls back to nothing: layers that are not alike raise.

    Args:
        layers: of one class and one configuration, without buffers that matter or randomness.
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
        return _in_one_batch(lambda h: functional_call(layers[0], parameters, (h,)), row[None], h0.shape[-dims:])[0]

    return _recurrence(lambda s, parameters: torch.func.vmap(one)(parameters, s), h0, stacked, dims)


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


def _recurrence(f: Callable[[Tensor, Any], Tensor], h0: Tensor, inputs: Any, dims: int) -> DepthRecurrence:
    if isinstance(inputs, Tensor):
        inputs = inputs.to(h0.device)
    return DepthRecurrence(f, h0.flatten(-dims), inputs, h0.shape[-dims:])


def _in_one_batch(block: Hidden, s: Tensor, shape: torch.Size) -> Tensor:
    """Apply a block to `(rows, *batch, D)`, all leading dimensions as one batch."""
    hidden = block(s.reshape(-1, *shape))
    return hidden.reshape(s.shape)
