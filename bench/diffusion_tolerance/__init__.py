"""Whether diffusion samples keep their tolerance."""
