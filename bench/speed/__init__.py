"""Solves and layers against torch's."""
