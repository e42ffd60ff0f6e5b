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

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lds_iter.depth.layers.forward_mode import forward_mode
from lds_iter.depth.layers.recurrence import DepthRecurrence
from lds_iter.depth.layers.up_to_rounding import agree, others, state_dtype
from lds_iter.errors import note_source, shapes_of
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

    Raises:
        ValueError: for a `depth` that is no whole number of at least 1, an `h0` of fewer dimensions, and, when it is
            solved, for a block that returns another shape.
        TypeError: when it is solved, for a block that does not return a tensor.
    """
    _check_depth(depth)
    return _recurrence(lambda s, _: _in_one_batch(block, s, h0, dims), h0, torch.arange(depth, device=h0.device), dims)


@spelled
def injected(
    core: Callable[[Tensor, Tensor], Tensor], h0: Tensor, e: Tensor, depth: int, *, dims: int = 2
) -> DepthRecurrence:
    """A core that sees the embedded input `e` anew at every depth: `h_t = core(h_{t-1}, e)`.

    Args:
        core: `(N, tokens, width)` twice to `(N, tokens, width)`.
        h0: the first state, `(*batch, tokens, width)`.
        e: what is injected; leads with the same `*batch`.
        depth: how often.
        dims: see `shared`.

    Raises:
        TypeError, ValueError: see `shared`; for an `e` of another batch.
    """
    _check_depth(depth)
    if e.shape[:-dims] != h0.shape[:-dims]:
        raise ValueError(
            f"`e` must lead with the batch of `h0`, {tuple(h0.shape[:-dims])}, and have {dims} dimensions behind it, "
            f"got {tuple(e.shape)} for `h0` {tuple(h0.shape)}. Type `e.expand_as(h0)`."
        )

    def f(s: Tensor, _: Tensor) -> Tensor:
        rows = e.expand(s.shape[0], *e.shape).flatten(0, -dims - 1)
        return _in_one_batch(lambda h: core(h, rows), s, h0, dims)

    return _recurrence(f, h0, torch.arange(depth, device=h0.device), dims)


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
    return _recurrence(f, h0, torch.arange(len(blocks), device=h0.device), dims)


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


def _check_depth(depth: Any) -> None:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ValueError(f"`depth` must be a whole number of at least 1, got {depth!r}.")


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


SHARP = 4
"""Factor on parameters that makes attention prefer some tokens: at freshly initialised weights it averages all of them,
whatever scale is configured. GPT-2's blocks that scale by depth differ by 1e-5 as they are, and by 6e-2 so."""
SHARP_ROUNDING = 1e-2
"""Relative. Encoder layers of one kind, so sharpened, differed by 2e-5 at most over 80 draws in float32."""


@torch.no_grad()
def _check_by_running(layers: list[nn.Module], problem: DepthRecurrence, h0: Tensor, dims: int) -> None:
    """Every layer by itself gives what its row of the recurrence gives: on hidden states of no particular kind, with
    its own parameters, and with much larger ones."""
    rows = others(h0).flatten(-dims).to(problem.s0.dtype).expand(len(layers), *problem.s0.shape)
    for factor in 1, SHARP:
        states = [_scaled(layer, factor) for layer in layers]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        with forward_mode():  # vmap has no rule for the fast path of torch's own layers
            together = problem.f(rows, stacked)
            runs = [functools.partial(_with, layer, state) for layer, state in zip(layers, states, strict=True)]
            alone = torch.cat([_in_one_batch(run, rows[:1], h0, dims) for run in runs])
        for number, layer in enumerate(layers):
            if factor == SHARP and not alone[number].isfinite().all():
                continue  # too large for half precision: no evidence
            least = SHARP_ROUNDING if factor == SHARP else 1e-4
            if not agree(together[number], alone[number], h0.dtype, least):
                raise ValueError(
                    f"`stack` runs every layer as layer 0 with other parameters, but layer {number} "
                    f"({type(layer).__name__}) then returns something else than by itself. In order of likelihood: it "
                    "is configured differently (number of heads, activation, norm order, a scale that depends on the "
                    "depth); it is random (type `layer.eval()`). Type `loop(layers, h0)`, which runs every layer by "
                    "itself."
                )


def _scaled(layer: nn.Module, factor: float) -> dict[str, Tensor]:
    """What `functional_call` takes: all parameters times a factor, and all buffers."""
    return {**{name: factor * value for name, value in layer.named_parameters()}, **dict(layer.named_buffers())}


def _with(layer: nn.Module, state: dict[str, Tensor], h: Tensor) -> Any:
    return functional_call(layer, state, (h,))


def _recurrence(f: Callable[[Tensor, Any], Tensor], h0: Tensor, inputs: Any, dims: int) -> DepthRecurrence:
    if h0.ndim < dims:
        raise ValueError(
            f"`h0` must be (*batch, {'tokens, width' if dims == 2 else f'and {dims} dimensions'}), got "
            f"{tuple(h0.shape)}. Type dims=1 for a block that takes (N, width)."
        )
    if isinstance(inputs, Tensor):
        inputs = inputs.to(h0.device)
    return DepthRecurrence(f, h0.flatten(-dims).to(state_dtype(h0.dtype)), inputs, h0.shape[-dims:])


def _in_one_batch(block: Hidden, s: Tensor, h0: Tensor, dims: int) -> Tensor:
    """Apply a block to `(rows, *batch, D)`, all leading dimensions as one batch, in the dtype of `h0`."""
    given = s.reshape(-1, *h0.shape[-dims:]).to(h0.dtype)
    try:
        hidden = block(given)
    except TypeError as error:
        error.add_note(
            "A block is called with hidden states alone. Layers of transformers models want masks and positions too: "
            "type `li.depth.over_depth(model, input_ids)`."
        )
        raise
    except Exception as error:
        note_source(error, f"a block, called with hidden states {shapes_of(given)}.")
        raise
    if not isinstance(hidden, Tensor):
        raise TypeError(
            f"A block must return hidden states, got {type(hidden).__name__}. Type `lambda h: block(h)[0]` for one "
            "that returns them first."
        )
    if hidden.shape != given.shape:
        raise ValueError(f"A block must keep the shape {tuple(given.shape)}, got {tuple(hidden.shape)}.")
    return hidden.reshape(s.shape).to(s.dtype)
