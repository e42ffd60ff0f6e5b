"""Wrong arguments of layers and of what belongs to them: errors that say what to type."""

import re

import pytest
import torch

import lds_iter as li

X, H = torch.ones(5, 2, 3), torch.zeros(2, 4)

RECURRENT = {
    "sparse input": ((X.to_sparse(),), TypeError, "`input` must be an ordinary dense tensor"),
    "input on another device": ((X.to("meta"),), ValueError, "`input` is on meta but the weights of the cell on cpu"),
    "too many dimensions": ((X[None],), ValueError, "(T, B, D_in) or (T, D_in) for a GRUCell, got (1, 5, 2, 3)"),
    "one dimension": ((X[0, 0],), ValueError, "type input.unsqueeze(-1)"),
    "a number for a state": ((X[:, 0], 3), TypeError, "`state` must be a tensor (B, D) or a pytree"),
    "a state on another device": ((X, H.to("meta")), ValueError, "`state` is on meta but `input` on cpu"),
    "a state of another batch": ((X, H[:1]), ValueError, "`state` must have shape (2, 4)"),
    "a state of another dtype": ((X, H.double()), TypeError, "type state.to(torch.float32)"),
    "a pair for a state": ((X, (H, H)), TypeError, "must be one tensor for a GRUCell"),
}


@pytest.mark.parametrize("method", [None, li.Newton()], ids=repr)
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_names_what_does_not_fit(name, method):
    given, error, message = RECURRENT[name]
    layer = li.nn.Recurrent(torch.nn.GRUCell(3, 4), method=method)
    with pytest.raises(error, match=re.escape(message)):
        layer(*given)


def test_names_of_samples_are_hashable():
    with pytest.raises(TypeError, match=r"one hashable name per sample.* got \[1\]"), li.nn.WarmStart().samples([[1]]):
        pass
