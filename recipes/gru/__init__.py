"""Training a five-layer GRU on a long real series with pytorch-lightning, by any method or by `torch.nn.GRU`."""
