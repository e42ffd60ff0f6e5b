"""Every Triton kernel compiled for real GPUs, without one: registers, shared memory, spills."""
