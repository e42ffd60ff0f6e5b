"""The inverse mass matrix of a sampler, as a root `C` with `C C^T = W`: an estimate of the target's covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Root:
    """A root of the inverse mass matrix.

    Attributes:
        root: `(D)` for a diagonal one, `(D, D)`, or None for the identity.
    """

    root: Tensor | None

    def times(self, v: Tensor) -> Tensor:
        """`C v`, for `v` of shape `(..., D)`."""
        if self.root is None:
            return v
        root = self.root.to(v)
        return root * v if root.ndim == 1 else v @ root.mT

    def transposed(self, v: Tensor) -> Tensor:
        """`C^T v`."""
        if self.root is None:
            return v
        root = self.root.to(v)
        return root * v if root.ndim == 1 else v @ root


def root_of(inverse_mass_matrix: Tensor | None) -> Root:
    """The root of an inverse mass matrix.

    Raises:
        ValueError: for what is no positive diagonal `(D)` and no positive definite matrix `(D, D)`.
    """
    if inverse_mass_matrix is None:
        return Root(None)
    device = inverse_mass_matrix.device if isinstance(inverse_mass_matrix, Tensor) else "cpu"
    matrix = torch.as_tensor(inverse_mass_matrix, device=device)
    if matrix.ndim == 1 and bool((matrix > 0).all()):
        return Root(matrix.sqrt())
    if matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]:
        root, failed = torch.linalg.cholesky_ex(matrix)
        if not bool(failed):
            return Root(root)
    raise ValueError(
        "`inverse_mass_matrix` must be a positive diagonal, (D), or a positive definite matrix, (D, D), got shape "
        f"{tuple(matrix.shape)}. An estimate of the covariance of the target serves."
    )
