"""All that a recurrence may be and may offer, and adapters from what users have to the layout of `solve`.

A recurrence is any callable `f(s, u)`, batched over all leading dimensions. It may know more than its value; every part
is optional, and is looked up here and nowhere else. A wrapper of a recurrence delegates every part that it does not
change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Function = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class IterationRequest:
    """What a recurrence needs to compute one whole iteration.

    Attributes:
        method: the method whose iteration is wanted.
        inputs: of the rows at hand, a pytree of tensors that lead with n.
        states: the state before each row at hand and, last, the one after them, `(n + 1, *batch, D)`.
        proposal: of the same shape; takes the proposed states, from its second row on.
        s0: what a row falls back to where nothing is finite, `(*batch, D)`.
        start: the time of the first row at hand.
        lo: the first row of each sequence that is not accepted yet, int64, `(*batch)`.
        hi: the time after the last row of each sequence that may move, `(*batch)`.
        rtol, atol: of the stopping rule.
    """

    method: Any
    inputs: Any
    states: Tensor
    proposal: Tensor
    s0: Tensor
    start: int
    lo: Tensor
    hi: Tensor
    rtol: float
    atol: float


@dataclass(frozen=True)
class IterationResult:
    """What such an iteration measured; all but `finite` have shape `(*batch)`.

    Attributes:
        lo: the first row that is not accepted yet.
        residual: the largest residual of the open rows.
        excess: by how much a residual exceeds the relative tolerance at most; 0 where none does.
        accepted: the largest residual of the rows accepted now.
        resets: proposed rows that were not finite and were replaced.
        broken: whether `f` of the frontier row is not finite.
        finite: whether the proposals are repaired and hold `f` at the frontier row; if not, the loop does it.
    """

    lo: Tensor
    residual: Tensor
    excess: Tensor
    accepted: Tensor
    resets: Tensor
    broken: Tensor
    finite: bool = True


class Recurrence(Protocol):
    """An `f` that knows more than its value. Every part but the call is optional.

    - `linearize(s, u) -> AbstractDerivatives`: value and derivatives in closed form.
    - `steps(s0, inputs) -> Tensor | None`: all states `(T, *batch, D)`, step by step in compiled code.
    - `fused_iteration(request) -> IterationResult | None`: a whole iteration, on a CPU or a device.
    - `solve_adjoint(prev, inputs, g) -> Tensor | None`: the adjoint recurrence, solved directly.
    - `iterate(problem, method, state, options)`: an iteration in place of `loop.iterate`, as `Compiled` has.
    - `iterate_adjoint(states, inputs, g, method, options)`: the same for the solve of a gradient.
    - `is_linear: bool`: whether `f` is affine in the state.

    A part that returns None leaves this case to the library.
    """

    def __call__(self, s: Tensor, inputs: Any) -> Tensor: ...


EVALUATED_PARTS = "linearize", "steps", "fused_iteration", "solve_adjoint", "iterate", "iterate_adjoint"
"""The parts that evaluate `f`, for wrappers that do something around every evaluation."""


def own_linearize(f: Any) -> Callable[[Tensor, Any], Any] | None:
    """The closed-form derivatives of a recurrence, `(s, inputs) -> AbstractDerivatives`."""
    return getattr(f, "linearize", None)


def own_steps(f: Any) -> Callable[[Tensor, Any], Tensor | None] | None:
    """Its evaluation step by step in compiled code, `(s0, inputs) -> states`."""
    return getattr(f, "steps", None)


def own_fused_iteration(f: Any) -> Callable[[IterationRequest], IterationResult | None] | None:
    """Its whole iterations."""
    return getattr(f, "fused_iteration", None)


def own_solve_adjoint(f: Any) -> Callable[[Tensor, Any, Tensor], Tensor | None] | None:
    """Its direct solution of the adjoint recurrence, `(prev, inputs, g) -> l`."""
    return getattr(f, "solve_adjoint", None)


def own_iterate(f: Any) -> Callable[..., Any] | None:
    """Its iteration of the loop."""
    return getattr(f, "iterate", None)


def own_iterate_adjoint(f: Any) -> Callable[..., Tensor] | None:
    """Its iterations of the adjoint recurrence."""
    return getattr(f, "iterate_adjoint", None)


def is_linear(f: Any) -> bool:
    """Whether a recurrence says that it is affine in the state."""
    return getattr(f, "is_linear", False) is True


def ravel(state: Any, batch_dims: int = 0) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Turn a structured state, such as an LSTM's (h, c), an image or a sequence of tokens, into one `(*batch, D)`.

    Args:
        state: a pytree of tensors that all begin with the same `batch_dims` batch dimensions.
        batch_dims: how many leading dimensions are batch.

    Returns:
        The tensor, and the inverse, which takes `(..., D)` with any leading dimensions back to the structure.

    Raises:
        TypeError, ValueError: for a structure without tensors, of several dtypes, or of different batches.

    Example:
        >>> flat, unravel = li.ravel((torch.zeros(2, 3), torch.ones(2, 4)), batch_dims=1)
        >>> flat.shape, [leaf.shape for leaf in unravel(flat)]
        (torch.Size([2, 7]), [torch.Size([2, 3]), torch.Size([2, 4])])
    """
    if isinstance(batch_dims, bool) or not isinstance(batch_dims, int) or batch_dims < 0:
        raise ValueError(f"`batch_dims` must be a whole number, 0 or more, got {batch_dims!r}.")
    leaves, spec = pytree.tree_flatten(state)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(f"`state` must be a pytree of tensors, with at least one, got {type(state).__name__}.")
    batch = leaves[0].shape[:batch_dims]  # compared, not put into a set: what is hashed, a compiler takes for fixed
    if len(batch) < batch_dims or any(leaf.shape[:batch_dims] != batch for leaf in leaves[1:]):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(f"`state` must have the same first {batch_dims} dimension(s) in every tensor, got {shapes}.")
    if len({leaf.dtype for leaf in leaves}) > 1:
        raise TypeError(f"`state` must have one dtype, got {sorted({str(leaf.dtype) for leaf in leaves})}.")
    shapes = [leaf.shape[batch_dims:] for leaf in leaves]
    sizes = [shape.numel() for shape in shapes]
    flat = torch.cat([leaf.reshape(*leaf.shape[:batch_dims], -1) for leaf in leaves], dim=-1)

    def unravel(tensor: Tensor) -> Any:
        if tensor.shape[-1:] != (sum(sizes),):
            raise ValueError(
                f"`unravel` takes tensors that end with D = {sum(sizes)}, the numbers of {shapes} together, got "
                f"{tuple(tensor.shape)}."
            )
        parts = tensor.split(sizes, dim=-1) if len(sizes) > 1 else [tensor]
        shaped = [part.reshape(*part.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]
        return pytree.tree_unflatten(shaped, spec)

    return flat, unravel


def check_value(value: Any, prev: Tensor, who: str = "`f`") -> Tensor:
    """`f(prev, u)`: a tensor like `prev`, at every call.

    Args:
        value: what came.
        prev: the states that `f` was given, `(n, *batch, D)`.
        who: what was called.

    Raises:
        ValueError: when it is something else.
    """
    if isinstance(value, Tensor) and value.shape == prev.shape and value.dtype == prev.dtype:
        return value
    got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"{who} must return the same kind of tensor at every call: given states {prev.dtype} {tuple(prev.shape)} it "
        f"returned {got}. In order of likelihood: it depends on the number of rows; it counts its calls or changes "
        "what it keeps; it has branches that return different types. `f` must map every row by itself, the same at "
        "every call."
    )


def take_rows(inputs: Any, start: int, stop: int) -> Any:
    """The rows `[start, stop)` of every tensor of a pytree that leads with time."""
    return pytree.tree_map(lambda leaf: leaf[start:stop] if isinstance(leaf, Tensor) else leaf, inputs)


def detached(inputs: Any) -> Any:
    """The same pytree, cut off from autograd."""
    return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, inputs)


def check_order(f: Any) -> None:
    """`f`: not a cell of `torch.nn`, which takes the input first."""
    if isinstance(f, torch.nn.RNNCellBase):
        swapped = "" if isinstance(f, torch.nn.LSTMCell) else ", or `li.fold(lambda s, u: cell(u, s))`"
        raise TypeError(
            f"torch.nn.{type(f).__name__} takes (input, state), and `f` must take (state, input). Type "
            f"`li.nn.Recurrent(cell)` for a layer of it{swapped}."
        )


def fold(f: Function) -> Function:
    """Adapt a function or module that takes states `(N, D)` and inputs `(N, ...)` to any number of leading dimensions.

    Args:
        f: `(s, u) -> s` on states `(N, D)`, such as `lambda h, x: cell(x, h)`.

    Returns:
        The same for states `(n, *batch, D)` and inputs that begin with the same leading dimensions.

    Example:
        >>> cell = torch.nn.GRUCell(3, 4)
        >>> step = li.fold(lambda h, x: cell(x, h))
        >>> step(torch.zeros(5, 2, 4), torch.zeros(5, 2, 3)).shape
        torch.Size([5, 2, 4])

    Raises:
        TypeError: for a cell of `torch.nn`, which takes the input first and the state second.
    """
    if isinstance(f, type) or not callable(f):
        raise TypeError(f"`f` must be a function (s, u) -> s or a module, got {f!r}.")
    check_order(f)

    def folded(s: Tensor, inputs: Any) -> Tensor:
        lead = s.shape[:-1]

        def flatten(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if leaf.shape[: len(lead)] != lead:
                raise ValueError(
                    f"`fold` needs inputs that begin with the state's leading dimensions {tuple(lead)}, got a tensor "
                    f"of shape {tuple(leaf.shape)}. Expand it, or index it inside your own function instead of `fold`."
                )
            return leaf.reshape(-1, *leaf.shape[len(lead) :])

        out = f(s.reshape(-1, s.shape[-1]), pytree.tree_map(flatten, inputs))
        return out.reshape(*lead, *out.shape[1:])

    return folded
