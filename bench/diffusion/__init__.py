"""Parallel sampling of diffusion models."""
