"""The parallel scan `x_t = A_t x_{t-1} + b_t`, for every structure of `A` and every device.

Affine maps compose associatively, `(A, b) after (A', b') = (A A', A b' + b)`, so all prefixes come out of O(log T)
batched steps (Blelloch, "Prefix sums and their applications", 1990). The recursion here is odd-even: fold neighbours
into pairs, solve the half-length problem for the odd rows, fill in the even ones. It does 2 T compositions in all
(work-efficient) and in eager PyTorch on a CPU beats the T log T form of Hillis and Steele from T of about 2000.

A faster scan for one structure on one kind of device is added with `register_scan`; the generic one stays its
reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from lds_iter._torch import without_autocast
from lds_iter.linear.arguments import check_scan_arguments
from lds_iter.linear.registry import kernel_of, operator_of, register_scan
from lds_iter.linear.transitions import (
    A,
    AbstractTransition,
    Diagonal,
    Identity,
    ScaledIdentity,
    Zero,
    leaves,
    map_leaves,
    take,
)


def linear_scan(
    transition: AbstractTransition,
    b: Tensor,
    initial: Tensor | None = None,
    *,
    reverse: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """All `x_t = A_t x_{t-1} + b_t`, in O(log n) parallel depth; differentiable in `A`, `b` and `initial`.

    Args:
        transition: the matrices `A_t` of `n` steps.
        b: `(n, *batch, D)`.
        initial: the value before the first step, `(*batch, D)`; zero when None.
        reverse: run backwards in time, `x_t = A_t x_{t+1} + b_t`, with `initial` after the last step.
        out: where to put the result, instead of new memory; may be `b` itself. Not with gradients or `reverse`.

    Returns:
        `x`, of the shape of `b`.

    Raises:
        TypeError, ValueError: for what is no transition of these rows, and for `out` where it cannot serve.

    Example:
        >>> x = li.linear_scan(li.Diagonal(torch.full((3, 1), 0.5)), torch.ones(3, 1))
        >>> x.flatten().tolist()
        [1.0, 1.5, 1.75]
    """
    if not isinstance(transition, AbstractTransition):
        raise TypeError(
            f"`transition` must say what structure A has, got {type(transition).__name__}. Type `li.Diagonal(a)` for "
            "numbers of the shape of `b`, `li.Dense(a)` for matrices (n, *batch, D, D)."
        )
    if not torch.compiler.is_compiling():
        check_scan_arguments(transition, b, initial, out)
    if out is not None and (reverse or torch.is_grad_enabled()):
        raise ValueError("`out` works forward in time and under `torch.no_grad()` only; leave it out.")
    if reverse:
        backwards = kernel_of(type(transition), b.device.type).reverse
        if backwards is not None and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            x = b.clone(memory_format=torch.contiguous_format)
            backwards(transition, x, initial)
            return x
        flipped = map_leaves(lambda leaf: leaf.flip(0), transition)
        return linear_scan(flipped, b.flip(0), initial).flip(0)
    operator = operator_of(type(transition))
    if operator is not None and (torch.compiler.is_compiling() or _batched(transition, b, initial)):
        x = operator(transition, b, initial)
        return x if out is None else out.copy_(x)
    tensors = [b, *leaves(transition), *([] if initial is None else [initial])]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _DifferentiableScan.apply(transition, b, initial, *leaves(transition))  # pyright: ignore[reportReturnType]
    return _scan(transition, b, initial, out)


def _batched(transition: AbstractTransition, b: Tensor, initial: Tensor | None) -> bool:
    """Whether `torch.func.vmap` is at work: kernels write in place, and know nothing of it, but operators do."""
    tensors = [b, *leaves(transition), *([] if initial is None else [initial])]
    return any(is_batchedtensor(tensor) for tensor in tensors)


def _scan(transition: AbstractTransition, b: Tensor, initial: Tensor | None, out: Tensor | None = None) -> Tensor:
    if out is None:
        out = b.clone(memory_format=torch.contiguous_format)
    elif out is not b:
        out.copy_(b)
    scan = kernel_of(type(transition), b.device.type).forward or reference_scan
    with without_autocast(b):
        returned = scan(transition, out, initial)
    if returned is not None:
        raise TypeError(
            f"The scan registered for {type(transition).__name__} returns a value. It must write the solution into its "
            "second argument, in place (`x.copy_(solution)`), and return None."
        )
    return out


def reference_scan(transition: AbstractTransition, x: Tensor, initial: Tensor | None = None) -> None:
    """The odd-even scan in place, from `mv` and `after` alone.

    Every structure gets it, and every faster scan is tested against it.

    Args:
        transition: the matrices of n steps.
        x: on entry `b`, on return the solution, `(n, *batch, D)`.
        initial: the value before the first step, `(*batch, D)`; zero when None.
    """
    if initial is not None:
        x[:1] += take(transition, slice(0, 1)).mv(initial.unsqueeze(0))
    _odd_even(transition, x)


def _odd_even(transition: AbstractTransition, x: Tensor) -> None:
    odd_even(transition, x, _odd_even)


def odd_even(transition: A, x: Tensor, solve: Callable[[A, Tensor], None]) -> None:
    """One level of the odd-even scan. The odd rows are solved as a view, so nothing is copied back.

    Args:
        transition: the matrices of n steps.
        x: on entry `b`, on return the solution, `(n, *batch, D)`.
        solve: solves the pairs of steps, `(n // 2, *batch, D)`, which is half of the problem.
    """
    n = x.shape[0]
    if n == 1:
        return
    odd, even, rest = slice(1, n, 2), slice(0, n - 1, 2), slice(2, n, 2)
    pairs, later = x[odd], take(transition, odd)
    pairs += later.mv(x[even])
    if n > 3:
        solve(later.after(take(transition, even)), pairs)
    if n > 2:
        x[rest] += take(transition, rest).mv(pairs[: (n - 1) // 2])


@register_scan(Diagonal)
def diagonal_scan(transition: Diagonal, x: Tensor, initial: Tensor | None = None) -> None:
    """The odd-even scan with fused multiply-adds; reference: `reference_scan`."""
    _diagonal_scan(transition.diagonal, x, initial)


@register_scan(ScaledIdentity)
def scaled_identity_scan(transition: ScaledIdentity, x: Tensor, initial: Tensor | None = None) -> None:
    """The diagonal scan on a diagonal of width 1; reference: `reference_scan`."""
    scale = transition.scale
    if not isinstance(scale, Tensor):
        scale = x.new_full((x.shape[0], *[1] * (x.ndim - 1)), scale)
    _diagonal_scan(scale, x, initial)


@register_scan(Identity)
def identity_scan(transition: Identity, x: Tensor, initial: Tensor | None = None) -> None:
    """A cumulative sum; reference: `reference_scan`."""
    if initial is not None:
        x[0] += initial
    x.cumsum_(0)


@register_scan(Zero)
def zero_scan(transition: Zero, x: Tensor, initial: Tensor | None = None) -> None:
    """Nothing to do; reference: `reference_scan`."""


def _diagonal_scan(a: Tensor, x: Tensor, initial: Tensor | None) -> None:
    if initial is not None:
        x[0].addcmul_(a[0], initial)
    _diagonal_odd_even(a, x)


def _diagonal_odd_even(a: Tensor, x: Tensor) -> None:
    n = x.shape[0]
    if n == 1:
        return
    pairs, a_odd = x[1::2], a[1::2]
    x_even, a_even = (x[::2], a[::2]) if n % 2 == 0 else (x[:-1:2], a[:-1:2])
    pairs.addcmul_(a_odd, x_even)
    if n > 3:
        _diagonal_odd_even(a_odd * a_even, pairs)
    if n > 2:
        x[2::2].addcmul_(a[2::2], pairs[:-1] if n % 2 == 0 else pairs)


class _DifferentiableScan(torch.autograd.Function):
    """The gradient of a scan is a scan: `l_t = g_t + A_{t+1}^T l_{t+1}`, then `A_t` gets the VJP of `A_t x_{t-1}`.

    Made of differentiable operations, this scan among them, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, transition: AbstractTransition, b: Tensor, initial: Tensor | None, *flat: Tensor) -> Tensor:
        x = _scan(transition, b, initial)
        ctx.transition, ctx.has_initial = map_leaves(lambda leaf: leaf.detach(), transition), initial is not None
        ctx.save_for_backward(x, torch.zeros_like(b[0]) if initial is None else initial, *flat)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        again = torch.is_grad_enabled()
        x, initial, *flat = ctx.saved_tensors
        # Views of the leaves: `x` depends on the leaves themselves, and the VJP below would re-enter this node.
        flat = [leaf.view_as(leaf) if again else leaf.detach().requires_grad_() for leaf in flat]
        remaining = iter(flat)
        transition = map_leaves(lambda _: next(remaining), ctx.transition)
        transposed = transition.transpose()
        # Row t multiplies by A_{t+1}^T; the last row has no successor, so its matrix meets a zero initial value.
        shifted = map_leaves(lambda leaf: torch.cat([leaf[1:], leaf[:1]]), transposed)
        adjoint = linear_scan(shifted, grad, reverse=True)
        wanted = [leaf for leaf in flat if leaf.requires_grad]
        with without_autocast(grad):
            before = take(transposed, slice(0, 1)).mv(adjoint[:1])[0] if ctx.has_initial else None
        with torch.enable_grad(), without_autocast(grad):
            product = transition.mv(torch.cat([initial.unsqueeze(0), x[:-1]]))
            found = (
                torch.autograd.grad(product, wanted, adjoint, create_graph=again, allow_unused=True) if wanted else ()
            )
        given = iter(found)
        return (None, adjoint, before, *[next(given) if leaf.requires_grad else None for leaf in flat])
