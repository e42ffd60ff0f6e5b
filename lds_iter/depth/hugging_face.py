"""Any Hugging Face transformers model with a list of layers, as a recurrence over depth, through one call.

`over_depth(model, **inputs)` runs the model once and watches it: of all `nn.ModuleList`s it takes the one whose
elements pass the hidden states on in the longest chain, each call starting from what the call before returned. That
finds the layers of BERT, GPT and Llama alike, and in ALBERT the one group that is called twelve times. Masks, position
embeddings and whatever else the model hands to its layers are kept as they were seen.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recipes.recurrent_depth.depth import DepthRecurrence


@dataclass(frozen=True)
class Call:
    """One call of a layer, as the model made it; `hidden` came in, `output` went out."""

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hidden: Tensor
    output: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        """The same layer with the same masks, on other hidden states `(n * batch, tokens, width)`."""
        rows = hidden.shape[0] // self.hidden.shape[0]
        args = tuple(self._repeated(value, rows) for value in self.args)
        kwargs = {name: self._repeated(value, rows) for name, value in self.kwargs.items()}
        return _hidden_of(self.layer(hidden, *args, **kwargs))

    def _repeated(self, value: Any, rows: int) -> Any:
        """What belongs to a batch mate is repeated for every row; what is shared broadcasts as it is."""
        if isinstance(value, tuple):
            return tuple(self._repeated(part, rows) for part in value)
        batch = self.hidden.shape[0]
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == batch > 1:
            return value.repeat(rows, *[1] * (value.ndim - 1))
        return value


def over_depth(model: nn.Module, **inputs: Any) -> DepthRecurrence:
    """The layers of a transformers model as a recurrence; `s0` is what the first layer received.

    Args:
        model: any model with a list of layers, in evaluation mode.
        inputs: as the model takes them, such as `input_ids` and `attention_mask`, of one or more sequences.

    Returns:
        A recurrence of T = number of layer calls over states `(batch, tokens * width)`. For forward-mode derivatives
        load the model with `attn_implementation="eager"`, or solve within `attention.forward_mode()`.

    Raises:
        ValueError: where no chain of layers is found, or where a layer does not reproduce what it did in the model.
    """
    calls = watch(model, inputs)
    _check_reproduces(calls)
    first = calls[0].hidden
    same = all(call.layer is calls[0].layer and _same_arguments(call, calls[0]) for call in calls)

    def f(s: Tensor, index: Tensor) -> Tensor:
        hidden = s.unflatten(-1, first.shape[1:])
        if same:
            return calls[0](hidden.flatten(0, 1)).view(s.shape)
        rows = [calls[depth](row) for depth, row in zip(index.tolist(), hidden, strict=True)]
        return torch.stack(rows).flatten(2)

    return DepthRecurrence(f, first.flatten(1), torch.arange(len(calls), device=first.device), first.shape[1:])


def watch(model: nn.Module, inputs: dict[str, Any]) -> list[Call]:
    """Run the model once; the calls of its layers, in order."""
    if model.training:
        raise ValueError("`model` must be in evaluation mode, for dropout has no fixed point. Type `model.eval()`.")
    seen: dict[str, list[Call]] = {}
    hooks = [
        element.register_forward_hook(_recorder(seen, owner), with_kwargs=True)
        for owner, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        for element in dict.fromkeys(module)
    ]
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs = {"use_cache": False, **inputs}
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    chains = [calls for calls in seen.values() if _is_chain(calls)]
    if not chains:
        raise ValueError(
            f"No list of layers that pass hidden states (batch, tokens, width) on was found in {type(model).__name__}; "
            f"its lists of modules are {sorted(seen) or 'none'}. Type depth.loop(layers, h0) with layers of your own."
        )
    return max(chains, key=len)  # of equally long ones the outermost, which was named first


def _recorder(seen: dict[str, list[Call]], owner: str) -> Callable[..., None]:
    def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states", None)
        out = _hidden_of(output)
        if isinstance(hidden, Tensor) and isinstance(out, Tensor) and out.shape == hidden.shape and hidden.ndim == 3:
            seen.setdefault(owner, []).append(Call(layer, args[1:], kwargs, hidden, out))

    return record


def _hidden_of(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _is_chain(calls: list[Call]) -> bool:
    return all(torch.equal(after.hidden, before.output) for before, after in itertools.pairwise(calls))


def _same_arguments(a: Call, b: Call) -> bool:
    if len(a.args) != len(b.args) or a.kwargs.keys() != b.kwargs.keys():
        return False
    pairs = [*zip(a.args, b.args, strict=True), *((a.kwargs[name], b.kwargs[name]) for name in a.kwargs)]
    return all(_same(x, y) for x, y in pairs)


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x is y or (x.shape == y.shape and torch.equal(x, y))
    return x is y or (type(x) is type(y) and not isinstance(x, Tensor | tuple) and x == y)


def _check_reproduces(calls: list[Call]) -> None:
    """Every layer, called by itself on what it received in the model, returns what it returned there."""
    with torch.no_grad():
        for depth, call in enumerate(calls):
            if not torch.allclose(call(call.hidden), call.output, rtol=1e-4, atol=1e-5):
                raise ValueError(
                    f"Layer {depth} ({type(call.layer).__name__}) called again returns something else: it is random or "
                    "keeps a state. Type `model.eval()`, and pass `use_cache=False` where the model takes it."
                )
