"""Whole iterations and adjoints of GRU, LSTM and RNN on CUDA devices."""

from lds_iter.kernels.triton.cells import operators as operators
