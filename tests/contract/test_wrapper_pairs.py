"""Every pair of wrappers, with and without a window, around methods of every kind, is held to the laws of a method."""

import pytest
import torch
from catalogue import tanh_rnn
from wrapping import INNER, OUTER, WRAPPERS

from lds_iter.testing import check_method, method_laws

F64 = torch.float64


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", WRAPPERS)
def test_every_pair_of_wrappers(outer, inner, window):
    """Around methods of every kind; the elements of a batch do not influence each other's counts."""
    f, s0, u = tanh_rnn(4, 1.1), torch.zeros(2, 4, dtype=F64), torch.randn(12, 2, 4, dtype=F64)
    u[:, 1] *= 0.1
    for name in INNER:
        method = OUTER[outer](WRAPPERS[inner](INNER[name]))
        check_method(method, f, s0, u, windows=(window,), laws=(method_laws.trajectory,))
    # products by one matrix for all round with the batch
    laws = (method_laws.keeps_the_batch_apart, method_laws.has_the_gradient, method_laws.repeats_itself)
    check_method(method, f, s0, u, windows=(window,), mates=1e-9, laws=laws)
