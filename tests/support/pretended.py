"""A device that is not there: its tensors say that they are elsewhere, and have their numbers on the CPU.

torch has no kernels for the device `lazy` and nothing to start, and runs its backward passes in the calling thread.
While a `Pretended` is entered, an operation on tensors of that device runs on the CPU, and fails where it would on a
GPU: when tensors of both devices meet, or when one is asked for its memory.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

AWAY = torch.device("lazy")
_COPIES, _INDEXING = {"aten::copy_"}, {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class Away(Tensor):
    """A tensor of the pretended device."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=AWAY,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """While it is entered, the device is there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = [isinstance(tensor, Away) for tensor in tensors]
    _check(func, tensors, away)
    wanted = kwargs.get("device")
    leaves = any(away) if wanted is None else wanted.type == AWAY.type
    inner_args, inner_kwargs = pytree.tree_map_only(Away, lambda tensor: tensor.inner, (args, kwargs))
    if wanted is not None:
        inner_kwargs["device"] = torch.device("cpu")
    found = func(*inner_args, **inner_kwargs)
    written = _written(func, args, kwargs)
    if written:  # in place: the numbers have changed, and the tensors are those that were given
        return None if not func._schema.returns else written[0] if len(written) == 1 else tuple(written)
    return pytree.tree_map_only(Tensor, Away, found) if leaves else found


def _check(func: Any, tensors: list[Tensor], away: list[bool]) -> None:
    """As on a GPU, tensors of two devices do not meet but as numbers, in copies and as indices."""
    name = func._schema.name
    there = not any(away) or all(there or tensor.ndim == 0 for there, tensor in zip(away, tensors, strict=True))
    if not there and name not in _COPIES and not (name in _INDEXING and away[0]):
        raise RuntimeError(f"{name} got tensors on the CPU beside tensors of a device")


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    changes = [arg.name for arg in func._schema.arguments if arg.alias_info is not None and arg.alias_info.is_write]
    return [given[name] for name in changes if name in given]
