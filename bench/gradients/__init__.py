"""Errors of exact and of approximate gradients."""
