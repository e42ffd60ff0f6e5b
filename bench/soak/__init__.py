"""The soak: many solves and training steps of varying shapes, and what the process holds meanwhile."""
