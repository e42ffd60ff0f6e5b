"""One trajectory over several processes: its time steps shared out over the ranks of torch.distributed."""
