"""What tests watch: reads by the host, and graphs that a compiler traces."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

HOST_READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "_unique2", "unique_dim"}


class Synchronisations(TorchDispatchMode):
    """Counts what makes the host wait for a device: numbers read, sizes that depend on numbers, data from the host."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        masks = [index for index in args[1] if index is not None and index.dtype == torch.bool] if name in INDEX else []
        if name in HOST_READS or name == "lift_fresh" or masks:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


INDEX = {"index", "index_put", "index_put_"}


class Tracer:
    """A compiler that traces one graph (or fails), runs it as it is, and counts."""

    def __init__(self, backend=None):
        self.graphs, self.nodes = 0, 0
        self._backend = backend

    def __call__(self, body, **options):
        return torch.compile(body, backend=self._traced, **options)

    def _traced(self, graph, _):
        self.graphs += 1
        self.nodes = len(graph.graph.nodes)
        return graph.forward
