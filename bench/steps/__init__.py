"""Layers that evaluate step by step, against torch's."""
