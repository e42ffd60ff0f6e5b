"""Where ours wins and where it loses against `torch.nn.GRU`."""
