"""Recurrences as one large matrix, for theorems that are about it."""

import torch


def system(matrices):
    """`I - A L` in full, of the matrices `A_t`, `(n, D, D)`."""
    n, width = matrices.shape[:2]
    full = torch.eye(n * width, dtype=matrices.dtype)
    for t in range(1, n):
        full[t * width : (t + 1) * width, (t - 1) * width : t * width] = -matrices[t]
    return full


def spectral(matrix):
    """The spectral norm."""
    return float(torch.linalg.matrix_norm(matrix, ord=2))
