"""The scans as operators of `torch.library`, one node each in a compiled graph.

A traced odd-even scan has dozens of operations per level, and its recursion is unrolled for one T. An operator is
opaque: the graph stays small and serves every T, and the kernel is looked up in the registry of `linear` when
the operator runs, so that `register_scan` reaches compiled code too. Eager code calls the kernels directly,
except under `torch.func.vmap`, whose dimension becomes one more of the batch.

The gradient is the law of `scan`, written out for each structure so that it can be traced:

    l_t = g_t + A_{t+1}^T l_{t+1}             a scan in reverse
    db_t = l_t    dx_0 = A_1^T l_1    dA_t = l_t x_{t-1}^T, as far as the structure has entries for it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.registry import register_operator
from lds_iter.linear.transitions import BlockDiagonal, Dense, Diagonal, ScaledIdentity, leaves

LeafGradient = Callable[[Tensor, Tensor, Tensor], Tensor]
OneLeaf = type[Dense] | type[BlockDiagonal] | type[Diagonal] | type[ScaledIdentity]


def _elementwise(leaf: Tensor, adjoint: Tensor, before: Tensor) -> Tensor:
    return (adjoint * before).sum_to_size(leaf.shape)


def _outer(leaf: Tensor, adjoint: Tensor, before: Tensor) -> Tensor:  # noqa: ARG001
    return adjoint.unsqueeze(-1) * before.unsqueeze(-2)


def _outer_of_blocks(leaf: Tensor, adjoint: Tensor, before: Tensor) -> Tensor:
    shape = leaf.shape[-3:-1]
    return _outer(leaf, adjoint.unflatten(-1, shape), before.unflatten(-1, shape))


def _leaf(transition: Any, b: Tensor) -> Tensor:
    """The one tensor of a transition; a `ScaledIdentity` may have a number in its place."""
    found = leaves(transition)
    return found[0] if found else b.new_full((b.shape[0], *[1] * (b.ndim - 1)), transition.scale)


def _with_dimension(x: Tensor, given: int | None, wanted: int, size: int) -> Tensor:
    """`x` with the dimension that is mapped over at `wanted`; repeated, without a copy, where there is none."""
    if given is not None:
        return x.movedim(given, wanted)
    return x.unsqueeze(wanted).expand(*x.shape[:wanted], size, *x.shape[wanted:])


def _operator(name: str, structure: OneLeaf, law: LeafGradient) -> None:
    """Make the operator `lds_iter::<name>` of a structure with one leaf; `law` gives `dA` from `l_t` and `x_{t-1}`."""

    @torch.library.custom_op(f"lds_iter::{name}", mutates_args=())
    def scan(leaf: Tensor, b: Tensor, initial: Tensor | None) -> Tensor:
        with torch.no_grad():
            return linear_scan(structure(leaf), b, initial)

    @scan.register_fake
    def fake(leaf: Tensor, b: Tensor, initial: Tensor | None) -> Tensor:  # noqa: ARG001
        return torch.empty_like(b, memory_format=torch.contiguous_format)

    def remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        leaf, _, initial = inputs
        ctx.save_for_backward(leaf, output, initial)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        leaf, x, initial = ctx.saved_tensors
        (transposed,) = leaves(structure(leaf).transpose())
        # Row t multiplies by A_{t+1}^T; the last row has no successor, so its matrix meets a zero initial value.
        later = torch.cat([transposed[1:], transposed[:1]])
        adjoint = scan(later.flip(0), grad.flip(0), None).flip(0)
        first = None if initial is None else structure(transposed[:1]).mv(adjoint[:1])[0]
        before = torch.cat([(torch.zeros_like(x[0]) if initial is None else initial).unsqueeze(0), x[:-1]])
        return law(leaf, adjoint, before) if ctx.needs_input_grad[0] else None, adjoint, first

    def batched(
        info: Any, in_dims: tuple[int | None, ...], leaf: Tensor, b: Tensor, initial: Tensor | None
    ) -> tuple[Tensor, int]:
        """One more dimension of the batch, in front of the others; time stays first."""
        leaf_dim, b_dim, initial_dim = in_dims
        leaf, b = _with_dimension(leaf, leaf_dim, 1, info.batch_size), _with_dimension(b, b_dim, 1, info.batch_size)
        if initial is not None:
            initial = _with_dimension(initial, initial_dim, 0, info.batch_size)
        return scan(leaf, b, initial), 1

    scan.register_autograd(backward, setup_context=remember)
    scan.register_vmap(batched)
    register_operator(structure, lambda transition, b, initial: scan(_leaf(transition, b), b, initial))


_operator("scan_diagonal", Diagonal, _elementwise)
_operator("scan_scaled_identity", ScaledIdentity, _elementwise)
_operator("scan_block_diagonal", BlockDiagonal, _outer_of_blocks)
_operator("scan_dense", Dense, _outer)
