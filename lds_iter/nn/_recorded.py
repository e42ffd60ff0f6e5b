"""Calls of a layer that are recorded or transformed, not just run. Torch's own kernel computes them.

This concerns tracing, scripting, exporting, `torch.func`, forward-mode derivatives, meta and fake tensors. A recording
can hold neither the decisions that a solve bases on numbers, nor calls of compiled code.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad

_PROXY = torch._C._TorchDispatchModeKey.PROXY  # pyright: ignore


def traced_as_leaf(module: torch.nn.Module, input: Any) -> bool:
    """Whether `input` is a proxy with which `torch.fx` traces a model that holds the module."""
    proxies = sys.modules.get("torch.fx.proxy")
    return proxies is not None and isinstance(input, proxies.Proxy) and input.tracer.root is not module


def as_leaf(module: torch.nn.Module, input: Any, hx: Any) -> Any:
    """A call of the module in the graph that `torch.fx` records, as one of a module of `torch.nn`."""
    tracer = input.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (input, hx), {})


def recorded(*arguments: Any) -> bool:
    """Whether a call with these arguments is recorded or transformed."""
    return (
        torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or torch.compiler.is_exporting()
        or _functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_dispatch_mode(_PROXY) is not None  # pyright: ignore
        or any(_has_no_numbers(leaf) for leaf in arguments)
    )


def watched() -> bool:
    """Whether a mode observes every operation of torch, such as a counter of FLOPs; it cannot see compiled code."""
    return torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore


def saves_elsewhere() -> bool:
    """Whether hooks replace the tensors that autograd saves, as checkpointing does, which recomputes them later."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)  # pyright: ignore
    return torch.is_grad_enabled() and hooks is not None


def _has_no_numbers(leaf: Any) -> bool:
    """Whether `leaf` is a tensor without numbers (meta or fake), or a sequence of such tensors."""
    if isinstance(leaf, tuple | list):
        return any(_has_no_numbers(one) for one in leaf)
    if not isinstance(leaf, Tensor):
        return False
    if leaf.device.type == "meta":
        return True
    fakes = sys.modules.get("torch._subclasses.fake_tensor")
    return type(leaf) is not Tensor and fakes is not None and isinstance(leaf, fakes.FakeTensor)
