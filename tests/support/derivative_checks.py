"""Derivatives of a recurrence against its Jacobians."""

import torch
from problems import CLOSE


def check_derivatives(derivatives, value, jacobian):
    v = torch.randn_like(value)
    torch.testing.assert_close(derivatives.value, value, **CLOSE)
    torch.testing.assert_close(derivatives.jacobian(), jacobian, **CLOSE)
    torch.testing.assert_close(derivatives.diagonal(), jacobian.diagonal(dim1=-2, dim2=-1), **CLOSE)
    torch.testing.assert_close(derivatives.jvp(v), (jacobian @ v[..., None])[..., 0], **CLOSE)
    torch.testing.assert_close(derivatives.vjp(v), (jacobian.mT @ v[..., None])[..., 0], **CLOSE)
    for size in 1, 2, 4:
        count = value.shape[-1] // size
        blocks = jacobian.unflatten(-1, (count, size)).unflatten(-3, (count, size))
        own = torch.stack([blocks[..., i, :, i, :] for i in range(count)], dim=-3)
        torch.testing.assert_close(derivatives.block_diagonal(size), own, **CLOSE)
