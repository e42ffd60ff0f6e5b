"""Private interfaces of torch, and what the host may read of a device.

Reading a number that lives on an accelerator makes the host wait for everything queued before it. So the loop decides
with tensors and masks, and looks only where looking is free.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._compile import _disable_dynamo
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

REASON = (
    "A solve looks at its progress after every iteration, which no graph holds. Compile around it, without "
    "fullgraph=True; for compiled iterations type li.Compiled(f), or compiler=torch.compile for a layer."
)


def on_host(tensor: Tensor) -> bool:
    """Whether the host reads this tensor for free.

    Where it does, the loop looks and takes short cuts; where it does not, it masks instead of looking, and computes
    what may turn out not to be needed. A compiled loop does not look, for what it saw would be baked into the graph.
    Nor does one that autograd records, for short cuts write in place.
    """
    return tensor.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


class StopFlag:
    """Tells the loop when to stop; the only place where it waits for the device.

    On an accelerator the flag travels to the host while the next iteration is already queued, and is read one iteration
    late: a finished solve runs one more iteration, which its results ignore. (A window that slides reads its frontier
    at every iteration, and so do a recording and a callback: then there is no point in a lag.)
    """

    def __init__(self, lag: bool) -> None:
        self._lag = lag
        self._before: tuple[Tensor, torch.cuda.Event | None] | None = None

    def posted(self, flag: Tensor) -> bool:
        """Take this iteration's flag; returns it, or with a lag the one of the iteration before."""
        if not self._lag:
            return bool(flag)
        before, event = self._before, torch.cuda.Event() if flag.is_cuda else None
        self._before = (flag.to("cpu", non_blocking=flag.is_cuda), event)
        if event is not None:
            event.record()
        if before is None:
            return False
        if before[1] is not None:
            before[1].synchronize()
        return bool(before[0])


def lags(tensor: Tensor) -> bool:
    """Whether flags computed next to this tensor should be read late."""
    return tensor.is_cuda


class kept(Generic[T]):
    """Decorator: compute the property when it is first asked for, and keep it with the object; it must not be None."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = f"_kept_{compute.__name__}"
        self.__doc__ = compute.__doc__

    def __get__(self, owner: Any, kind: type) -> T:
        found = getattr(owner, self._name, None)
        if found is None:
            found = self._compute(owner)
            setattr(owner, self._name, found)
        return found


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: `torch.compiler.disable`, but without importing the compiler, which takes seconds, if none is used."""
    disabled = _disable_dynamo(function)
    disabled._torchdynamo_disable = True  # pyright: ignore[reportFunctionMemberAccess]
    disabled._torchdynamo_disable_msg = REASON  # pyright: ignore[reportFunctionMemberAccess]

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        return disabled(*args, **kwargs) if "torch._dynamo" in sys.modules else function(*args, **kwargs)

    return called


def autocast_is_on(device: str) -> bool:
    """Whether autocast is on for a type of device; some have none."""
    known = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)  # torch 2.11 cannot trace it
    return known and torch.is_autocast_enabled(device)


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """All operations where a tensor lives in full precision; entered only if autocast is on, for it takes a while."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if autocast_is_on(device) else nullcontext()


def has_tangent(tensor: Tensor) -> bool:
    """Whether a forward-mode derivative is being taken with respect to this tensor, by dual numbers or torch.func."""
    if not _takes_tangents():
        return False
    if _functorch.is_functorch_wrapped_tensor(tensor):
        level = _functorch.peek_interpreter_stack()
        if level is not None and level.key() == _functorch.TransformType.Jvp:
            return True
    return forward_ad.unpack_dual(tensor).tangent is not None


def under_jvp() -> bool:
    """Whether `torch.func.jvp`, or `jacfwd`, takes a derivative of what happens now."""
    return _takes_tangents() and any(key == _functorch.TransformType.Jvp for key in _transforms())


def transformed() -> bool:
    """Whether some transform of `torch.func` is at work."""
    return _functorch.peek_interpreter_stack() is not None


def other_transforms() -> bool:
    """Whether more than one derivative is being taken by `torch.func`."""
    return sum(key in (_functorch.TransformType.Jvp, _functorch.TransformType.Grad) for key in _transforms()) > 1


def has_graph(tensor: Tensor) -> bool:
    """Whether autograd records this tensor, which under `torch.func` is inside of its wrappers."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def no_tangents() -> AbstractContextManager[object]:
    """A context in which nothing has a tangent, as `torch.no_grad()` is one in which nothing has a graph."""
    return forward_ad._set_fwd_grad_enabled(False)


@contextmanager
def no_vmap_fallback() -> Iterator[None]:
    """A context in which `vmap` raises for an operation that it has no rule for, where else it would warn of a loop."""
    before = _functorch._is_vmap_fallback_enabled()
    _functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        _functorch._set_vmap_fallback_enabled(before)


def _takes_tangents() -> bool:
    return forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled()


def _transforms() -> list[Any]:
    """The transforms of `torch.func` at work, outermost first."""
    return [level.key() for level in _functorch.get_interpreter_stack() or ()]


def draws(call: Callable[[], object]) -> bool:
    """Whether a call draws from the generator of the process.

    The state of that generator tells less: other threads draw from it too.
    """
    with _Draws() as seen:
        call()
    return seen.any


class _Draws(TorchDispatchMode):
    """Looks at every operation of this thread for one that draws random numbers without a generator of its own."""

    any = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        own = kwargs is not None and kwargs.get("generator") is not None
        self.any = self.any or (torch.Tag.nondeterministic_seeded in func.tags and not own)
        return func(*args, **(kwargs or {}))
