"""What a model hands to its layers, recorded in one run: the calls of a chain of layers, with nothing that remembers.

Of all `nn.ModuleList`s the recorder takes the one whose elements pass the hidden states on in the longest chain, each
call starting from the output of the call before. That finds the layers of BERT, GPT and Llama alike, and in ALBERT the
one group that is called twelve times.

A recorded call is repeated many times, on many hidden states, so nothing in it may keep a state. A key-value cache
does: it would grow by every repetition, and attention would read stale keys. Caches are left out of the recording.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """One call of a layer, as the model made it.

    Attributes:
        layer: which.
        args: its positional arguments after the hidden states, without caches.
        kwargs: its keyword arguments, without caches.
        hidden: the hidden states that came in, `(batch, tokens, width)`; of the first call with their gradient.
        output: the hidden states that went out, the same shape.
        rest: what else it returned, where it returned a tuple.
    """

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hidden: Tensor
    output: Tensor
    rest: tuple[Any, ...] | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """The same layer with the same masks, on other hidden states `(n * batch, tokens, width)` of any dtype."""
        rows = hidden.shape[0] // self.hidden.shape[0]
        args = tuple(self._repeated(value, rows) for value in self.args)
        kwargs = {name: self._repeated(value, rows) for name, value in self.kwargs.items()}
        return hidden_of(self.layer(hidden.to(self.hidden.dtype), *args, **kwargs)).to(hidden.dtype)

    def _repeated(self, value: Any, rows: int) -> Any:
        """What belongs to a batch element is repeated for every row; what is shared broadcasts as it is."""
        if isinstance(value, tuple):
            return tuple(self._repeated(part, rows) for part in value)
        batch = self.hidden.shape[0]
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == batch > 1:
            return value.repeat(rows, *[1] * (value.ndim - 1))
        return value


def watch(model: nn.Module, inputs: dict[str, Any], layers: nn.ModuleList | None = None) -> list[Call]:
    """Run the model once; the calls of its layers, in order.

    Args:
        model: in evaluation mode.
        inputs: of its forward.
        layers: the list to watch; the one with the longest chain when None.

    Raises:
        ValueError: where the model, or a part of it, is in training mode, and where no chain of layers is found.
    """
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(
            f"`model` must be in evaluation mode, for dropout has no fixed point, but {training[0]} is in training "
            "mode. Type `model.eval()`."
        )
    seen = _record(model, inputs, layers)
    chains = [calls for calls in seen.values() if _is_chain(calls)]
    if not chains:
        raise ValueError(
            f"No list of layers that pass hidden states (batch, tokens, width) on was found in {type(model).__name__}; "
            f"its lists of modules are {sorted(seen) or 'none'}. {_way_round(model)}"
        )
    return max(chains, key=len)  # of equally long ones the outermost, which was named first


def watch_from(model: nn.Module, inputs: dict[str, Any], calls: list[Call], hidden: Tensor) -> list[Call]:
    """Run the model once more with `hidden` in place of the hidden states that reach the first of `calls`."""
    pending = [hidden]

    def replace(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
        if not pending:
            return None
        if args:
            return (pending.pop(), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": pending.pop()}

    hook = calls[0].layer.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        owners = _record(model, inputs, None).values()
    finally:
        hook.remove()
    chosen = [again for again in owners if [call.layer for call in again] == [call.layer for call in calls]]
    return chosen[0] if chosen else []


def finish_with(model: nn.Module, inputs: dict[str, Any], calls: list[Call], hidden: Tensor) -> Any:
    """The model's output with `hidden` as what its last layer returns; the layers themselves do not run."""
    hidden = hidden.to(calls[0].hidden.dtype)
    with _stand_ins(calls, hidden):
        return model(**fresh(model, inputs))


@contextlib.contextmanager
def _stand_ins(calls: list[Call], hidden: Tensor) -> Iterator[None]:
    """Within it every layer of the chain returns `hidden`, in the form in which it returned its output."""
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for call in {id(call.layer): call for call in calls}.values():
            changed.append((call.layer, call.layer.__dict__.get("forward")))  # a library may have put its own there
            output = hidden if call.rest is None else (hidden, *call.rest)
            call.layer.forward = lambda *args, _output=output, **kwargs: _output  # noqa: ARG005
        yield
    finally:
        for layer, own in changed:
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def fresh(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs for one run, without caches, since a run writes into them.

    Raises:
        ValueError: for a cache with tokens in it: what they were is not known to the layers below.
    """
    for name, value in inputs.items():
        if _is_cache(value) and value.get_seq_length():
            raise ValueError(
                f"`{name}` holds {value.get_seq_length()} tokens already, and hidden states over depth need all tokens "
                "of a sequence. Pass all tokens as `input_ids` and leave the cache out."
            )
    takes = inspect.signature(model.forward).parameters
    kept = without_caches(inputs)
    return {"use_cache": False, **kept} if "use_cache" in takes else kept


def _record(model: nn.Module, inputs: dict[str, Any], layers: nn.ModuleList | None) -> dict[str, list[Call]]:
    seen: dict[str, list[Call]] = {}
    hooks = [
        element.register_forward_hook(_recorder(seen, owner), with_kwargs=True)
        for owner, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and (layers is None or module is layers)
        for element in dict.fromkeys(module)
    ]
    try:
        model(**fresh(model, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _recorder(seen: dict[str, list[Call]], owner: str) -> Callable[..., None]:
    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states", None)
        out, rest = hidden_of(output), _detached(output[1:]) if isinstance(output, tuple) else None
        if isinstance(hidden, Tensor) and isinstance(out, Tensor) and out.shape == hidden.shape and hidden.ndim == 3:
            calls = seen.setdefault(owner, [])
            hidden = hidden.detach() if calls else hidden  # the gradient leaves through the first layer alone
            calls.append(Call(layer, without_caches(args[1:]), without_caches(kwargs), hidden, out.detach(), rest))

    return record


def hidden_of(output: Any) -> Any:
    """The hidden states of a layer's output, which may be a tuple of them and more."""
    return output[0] if isinstance(output, tuple) else output


def _detached(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.detach() if isinstance(value, Tensor) else value for value in values)


def without_caches(value: Any) -> Any:
    """The same arguments with None for every key-value cache."""
    if isinstance(value, tuple):
        return tuple(without_caches(part) for part in value)
    if isinstance(value, dict):
        return {name: without_caches(part) for name, part in value.items()}
    return None if _is_cache(value) else value


def _is_cache(value: Any) -> bool:
    """Whether this is a cache of transformers or made like one; by name, so that transformers need not be there."""
    return any(kind.__name__.endswith("Cache") for kind in type(value).__mro__)


def _is_chain(calls: list[Call]) -> bool:
    return all(torch.equal(after.hidden, before.output) for before, after in itertools.pairwise(calls))


def _way_round(model: nn.Module) -> str:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind == "hrm_text":
        return "Type `li.depth.hrm_over_depth(model, input_ids)`, which knows this kind of model."
    return "Type `li.depth.loop(layers, h0)` with layers of your own."
