"""Derivatives of declared structure: diagonal and blocks are those of the matrix, at the price of the structure."""

import pytest
import torch

import lds_iter as li
from lds_iter.derivatives.structured import StructuredDerivatives

N, D = 5, 6


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


TRANSITIONS = {
    "diagonal": li.Diagonal(_random(N, D)),
    "one diagonal for all times": li.Diagonal(_random(1, D).expand(N, D)),
    "low rank": li.LowRank(_random(N, D), _random(N, D, 2), _random(N, D, 2).flip(0)),
    "blocks": li.BlockDiagonal(_random(N, D // 2, 2, 2)),
    "dense": li.Dense(_random(N, D, D)),
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_parts_are_those_of_the_matrix(name):
    derivatives = StructuredDerivatives(_random(N, D), TRANSITIONS[name])
    matrix = derivatives.jacobian()
    torch.testing.assert_close(derivatives.diagonal(), matrix.diagonal(dim1=-2, dim2=-1))
    blocks = torch.stack([matrix[:, i : i + 3, i : i + 3] for i in (0, 3)], 1)
    torch.testing.assert_close(derivatives.block_diagonal(3), blocks)


@pytest.mark.parametrize("name", ["diagonal", "low rank"])
def test_the_diagonal_takes_no_products(name, monkeypatch):
    transition = TRANSITIONS[name]
    monkeypatch.setattr(type(transition), "mv", lambda *_: pytest.fail("a product of the whole matrix"))
    assert StructuredDerivatives(_random(N, D), transition).diagonal().shape == (N, D)
