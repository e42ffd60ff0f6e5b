"""Random cases over everything that composes, and the laws that every one of them must obey."""
