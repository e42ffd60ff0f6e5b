"""Trained recurrent networks out of published packages, by every method, against `torch.nn.GRU`."""
