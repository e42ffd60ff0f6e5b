"""Seconds over length, ours beside torch and JAX."""
