"""A recurrent-depth language model, its training, and `lds_iter.depth` measured on it and on trained transformers."""
