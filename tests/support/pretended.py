"""A device that is not there: its tensors say that they are elsewhere, and have their numbers on the CPU.

torch has no kernels for the device `lazy` and nothing to start, and runs its backward passes in the calling thread.
While `pretended()` is entered, an operation on tensors of that device runs on the CPU, and fails where it would on a
GPU: when tensors of both devices meet, or when one is asked for its memory.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

AWAY = torch.device("lazy")
_COPIES, _INDEXING = {"aten::copy_"}, {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class Away(Tensor):
    """A tensor of the pretended device."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=AWAY,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What torch does in C++ beside its operations: tensors of lists, and lists of tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and torch.device(given.get("device") or "cpu").type == AWAY.type:
            wanted = given.pop("requires_grad", False)
            return func(*args, **{**given, "device": "cpu"}).to(AWAY).requires_grad_(wanted)
        if func is Tensor.new_tensor and isinstance(args[0], Away):
            return args[0].held.new_tensor(*args[1:], **given).to(AWAY)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Away):
            args = args[0], pytree.tree_map_only(list, _as_index, args[1], is_leaf=_is_list), *map(_as_value, args[2:])
        if func in (Tensor.__matmul__, Tensor.matmul, torch.matmul) and isinstance(args[0], Away) and args[0].ndim == 1:
            return (args[0].unsqueeze(0) @ args[1]).squeeze(0)  # torch changes the shape in place, where nobody sees it
        if func is Tensor.tolist and isinstance(args[0], Away):
            return args[0].held.tolist()
        return func(*args, **given)


def _is_list(index: Any) -> bool:
    return isinstance(index, list)


def _as_index(index: list[Any]) -> Tensor:
    return torch.tensor(index, device="cpu").to(AWAY)


def _as_value(value: Any) -> Any:
    return value if isinstance(value, Tensor) else torch.tensor(value, device="cpu")


@contextlib.contextmanager
def pretended():
    """While it is entered, the device is there."""
    with _Calls(), _Operations():
        yield


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = [isinstance(tensor, Away) for tensor in tensors]
    _check(func, tensors, away)
    wanted = kwargs.get("device")
    leaves = any(away) if wanted is None else wanted.type == AWAY.type
    inner_args, inner_kwargs = pytree.tree_map_only(Away, lambda tensor: tensor.held, (args, kwargs))
    if wanted is not None:
        inner_kwargs["device"] = torch.device("cpu")
    if func._schema.name == "aten::_efficientzerotensor":  # has no memory, and kernels that know it by its device
        func = torch.ops.aten.zeros.default
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
