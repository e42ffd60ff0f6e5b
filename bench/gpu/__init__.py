"""Every comparison that needs a GPU, in one plan."""
