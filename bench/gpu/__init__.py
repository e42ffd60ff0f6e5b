"""Everything that needs a GPU, in one visit of some minutes."""
