"""Attention that can be differentiated in forward mode.

Newton and its kin need Jacobian-vector products. PyTorch's fused attention kernels have none on a CPU, and the fast
path of `torch.nn.TransformerEncoderLayer` has no derivatives at all. Jacobi and Picard need nothing of this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Within it attention is computed by matrix products and a softmax, which have every derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
