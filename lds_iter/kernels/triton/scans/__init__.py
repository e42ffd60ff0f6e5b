"""Scans on CUDA devices: diagonal, in blocks, dense; in one pass over memory or in several."""

from lds_iter.kernels.triton.scans import cuda as cuda
