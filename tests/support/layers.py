"""Layers of torch and ours with the same weights, for tests."""

import torch

import lds_iter as li

KINDS = ["RNN", "GRU", "LSTM"]
METHODS = [None, li.Newton()]
"""The default, step by step in compiled code where there is a compiler, and a solve."""


def pair(kind, *sizes, method=None, dtype=torch.float64, **arguments):
    """A layer of torch and ours with the same weights."""
    theirs = getattr(torch.nn, kind)(*(sizes or (3, 4)), dtype=dtype, **arguments)
    tight = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    ours = getattr(li.nn, kind)(*(sizes or (3, 4)), dtype=dtype, method=method, **tight, **arguments)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def storages(*tensors):
    """The addresses of their memory."""
    return [tensor.untyped_storage().data_ptr() for tensor in tensors]
