"""Linear dynamical systems with given matrices, as the loop would hand them to a method."""

import torch

import lds_iter as li
from lds_iter.linear.cut import Cut


class Given(li.AbstractDerivatives):
    """Derivatives that are given matrices."""

    def __init__(self, matrices, value):
        self.matrices, self.value = matrices, value

    def jvp(self, v):
        return (self.matrices @ v.unsqueeze(-1)).squeeze(-1)

    def vjp(self, w):
        return (self.matrices.mT @ w.unsqueeze(-1)).squeeze(-1)

    def jacobian(self):
        return self.matrices

    def diagonal(self):
        return self.matrices.diagonal(dim1=-2, dim2=-1)

    def block_diagonal(self, size):
        raise NotImplementedError


def given_lds(shape, seed, norm=1.0, dtype=torch.float64):
    n, batch, width = shape
    generator = torch.Generator().manual_seed(seed)
    matrices = norm * torch.randn(n, *batch, width, width, generator=generator, dtype=torch.float64) / width**0.5
    residual = torch.randn(n, *batch, width, generator=generator, dtype=torch.float64)
    return matrices.to(dtype), residual.to(dtype)


def linearization(matrices, residual, frontier=None):
    """What the loop would hand to a method; a frontier of -1, the default, is the papers': s_0 alone is known."""
    batch, n = residual.shape[1:-1], residual.shape[0]
    frontier = torch.full(batch, -1) if frontier is None else frontier
    times = torch.arange(n).view(-1, *[1] * len(batch))
    residual = torch.where((times >= frontier).unsqueeze(-1), residual, 0)
    cut = Cut(0, frontier, int(frontier.min()), int(frontier.max()))
    zero = torch.zeros_like(residual)
    given = Given(matrices, residual)
    return li.Linearization(zero, zero, residual, given, zero, slice(0, n), n, 0, frontier < n, _cut=cut)


def proposal(method, lin):
    with torch.no_grad():
        return method.update(lin, None)[0]
