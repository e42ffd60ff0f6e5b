"""A method in another basis: `A_t = Q A'_t Q^T`, where `A'_t` is what the method makes of `Q^T J_t Q`.

For a diagonal method this is the freedom that it lacks: with `Q` the eigenvectors of a typical symmetric Jacobian, the
couplings that `diag J` drops become small. A discrete cosine transform serves states that are fields over space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.registry import register_scan
from lds_iter.linear.transitions import AbstractTransition, Factor, leaves
from lds_iter.methods.arguments import check_transition_method
from lds_iter.methods.base import StatefulTransition, checked_choice
from lds_iter.methods.spelling import same


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthogonal matrix `(D, D)`, its columns the basis; the same at every step, so not a leaf of a transition."""

    matrix: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Basis) and same(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash(self.matrix.shape)

    def into(self, x: Tensor) -> Tensor:
        """Coordinates in the basis, `Q^T x`."""
        return x @ self.matrix.to(x)

    def back(self, x: Tensor) -> Tensor:
        """From coordinates in the basis, `Q x`."""
        return x @ self.matrix.mT.to(x)


@dataclass(frozen=True)
class Conjugated(AbstractTransition):
    """`Q A' Q^T` with one orthogonal `Q` for all steps."""

    inner: AbstractTransition
    basis: Basis

    def mv(self, x: Tensor) -> Tensor:
        return self.basis.back(self.inner.mv(self.basis.into(x)))

    def after(self, earlier: Any) -> Conjugated:
        return Conjugated(self.inner.after(earlier.inner), self.basis)

    def transpose(self) -> Conjugated:
        return Conjugated(self.inner.transpose(), self.basis)

    def scaled(self, factor: Factor) -> Conjugated:
        return Conjugated(self.inner.scaled(factor), self.basis)


@register_scan(Conjugated)
def conjugated_scan(transition: Conjugated, x: Tensor, initial: Tensor | None = None) -> None:
    """The scan of the inner structure in the basis; reference: `reference_scan`."""
    basis = transition.basis
    start = None if initial is None else basis.into(initial)
    x.copy_(basis.back(linear_scan(transition.inner, basis.into(x), start)))


class _InBasis(AbstractDerivatives):
    """The derivatives `Q^T J Q`."""

    def __init__(self, of_f: AbstractDerivatives, basis: Basis) -> None:
        self._of_f, self._basis, self.value = of_f, basis, basis.into(of_f.value)

    def jvp(self, v: Tensor) -> Tensor:
        return self._basis.into(self._of_f.jvp(self._basis.back(v)))

    def vjp(self, w: Tensor) -> Tensor:
        return self._basis.into(self._of_f.vjp(self._basis.back(w)))

    def jacobian(self) -> Tensor:
        q = self._basis.matrix.to(self.value)
        return q.mT @ self._of_f.jacobian() @ q

    def diagonal(self) -> Tensor:
        return self.jacobian().diagonal(dim1=-2, dim2=-1)

    def block_diagonal(self, size: int) -> Tensor:
        blocks = self.jacobian().unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
        return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


@dataclass(frozen=True)
class Rotated(StatefulTransition):
    """Let a method choose its transitions in the basis of the columns of `q`.

    Attributes:
        method: `QuasiNewton()`, say: the diagonal of `Q^T J Q`.
        q: an orthogonal matrix `(D, D)`; best on the device of the states, or every iteration copies it there.

    Raises:
        TypeError: when `method` does not choose a transition, or `q` is no square matrix of real numbers.
        ValueError: when `q` is not orthogonal; in a solve, when D is another.
    """

    method: StatefulTransition
    q: Tensor

    def __post_init__(self) -> None:
        check_transition_method("method", self.method)
        q = self.q
        if not isinstance(q, Tensor) or q.is_meta or q.layout is not torch.strided:
            got = f"one of layout {q.layout} on {q.device}" if isinstance(q, Tensor) else type(q).__name__
            raise TypeError(f"`q` must be a dense tensor (D, D) that holds numbers, got {got}.")
        if q.ndim != 2 or q.shape[0] != q.shape[1] or not q.numel():
            raise TypeError(f"`q` must be a square matrix, a tensor (D, D), got {tuple(q.shape)}.")
        if q.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"`q` must be float32 or float64, got {q.dtype}. Type `q.double()`.")
        off = float((q.mT @ q - torch.eye(len(q), dtype=q.dtype, device=q.device)).abs().max())
        if not off <= 1e3 * torch.finfo(q.dtype).eps:  # room for a product of a few hundred rounded numbers
            raise ValueError(
                f"`q` must be orthogonal; q^T q is off the identity by {off:.1e}. Type torch.linalg.qr(q).Q."
            )

    @property
    def runs_forward(self) -> bool:
        return self.method.runs_forward

    def for_adjoint(self) -> StatefulTransition:
        return replace(self, method=self.method.for_adjoint())

    def init(self, guess: Tensor) -> Any:
        return self.method.init(Basis(self.q).into(guess)) if guess.shape[-1] == len(self.q) else None

    def choose(self, lin: Linearization, carry: Any) -> tuple[AbstractTransition, Any]:
        if lin.residual.shape[-1] != len(self.q):
            raise ValueError(f"`q` is for states of width {len(self.q)}, but D = {lin.residual.shape[-1]}.")
        basis = Basis(self.q)
        turned = replace(
            lin,
            prev=basis.into(lin.prev),
            states=basis.into(lin.states),
            residual=basis.into(lin.residual),
            derivatives=_InBasis(lin.derivatives, basis),
            _f=None if lin._f is None else _Turned(lin._f, basis),
        )
        inner, carry = checked_choice(self.method, turned, carry)
        return Conjugated(inner, basis) if leaves(inner) else inner, carry


@dataclass(frozen=True)
class _Turned:
    """`f` in the basis, for methods that evaluate it elsewhere."""

    f: Callable[[Tensor, Any], Tensor]
    basis: Basis

    def __call__(self, s: Tensor, u: Any) -> Tensor:
        return self.basis.into(self.f(self.basis.back(s), u))
