"""How close a layer must be to that of torch."""

import torch

# In float64 a solve stops at a residual of 1e-10, relative and absolute, and these networks contract.
OUTPUTS = {"rtol": 1e-8, "atol": 1e-8}
# The adjoint stops at 1e-10 of the largest gradient, and sums over all steps follow.
GRADIENTS = {"rtol": 1e-6, "atol": 1e-6}


def assert_close(ours, theirs, tolerance):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)
