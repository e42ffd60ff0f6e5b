"""Generating text from a recurrent-depth model."""
