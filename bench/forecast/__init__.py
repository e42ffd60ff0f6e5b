"""What solves should take on a GPU, from counts alone."""
