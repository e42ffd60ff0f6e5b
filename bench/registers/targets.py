"""The GPUs that kernels are compiled for."""

TARGETS = {90: "H100, H200", 80: "A100", 100: "B200"}
"""Compute capabilities, and cards that have them."""

SHARED_KIB = {80: 163, 90: 227, 100: 227}
"""Shared memory that a program may have at most, in KiB (CUDA C++ Programming Guide, table of compute capabilities)."""
