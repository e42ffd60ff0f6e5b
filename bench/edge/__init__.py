"""Recurrences at the edge of stability, and how many iterations each method needs for them."""
