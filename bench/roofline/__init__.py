"""Iterations against what the memory and the processor allow."""
