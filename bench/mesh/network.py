"""How long messages between GPUs take: rings of NCCL's, over links of several kinds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How NCCL sends round a ring.

    Attributes:
        base: seconds of a collective besides its hops.
        near, near_of_several, far: seconds of a hop within the only node, within one of several, and between nodes.
        share, share_of_several: of a link's rate, in one node and in several.
    """

    base: float
    near: float
    near_of_several: float
    far: float
    share: float
    share_of_several: float


PROTOCOLS = (
    Protocol(3.6e-6, 0.47e-6, 1.8 * 0.47e-6, 2.7e-6, 1 / 3, 1 / 4),
    Protocol(10e-6, 1.9e-6, 1.9e-6, 4.0e-6, 0.92, 0.92),
    Protocol(8.4e-6, 3.4e-6, 3.4e-6, 9.6e-6, 1, 1),
)
"""LL, LL128 and Simple, of which NCCL takes the fastest for a message: NVIDIA/nccl, src/graph/tuning.cc at commit
01afd20."""


@dataclass(frozen=True)
class Network:
    """GPUs in nodes of `node`, in a ring through all.

    Attributes:
        node: how many GPUs.
        rate: bytes per second of the slowest link.
        later: seconds that a hop between nodes takes longer than by InfiniBand.
    """

    node: int
    rate: float
    later: float = 0

    def gather(self, ranks: int, sent: float) -> float:
        """Seconds of an all-gather to which each rank gives `sent` bytes."""
        return self._best(ranks - 1, -(-ranks // self.node) - 1, ranks, sent)

    def hop(self, ranks: int, sent: float) -> float:
        """Seconds of one message to the next rank."""
        return self._best(1, int(ranks > self.node), ranks, sent)

    def _best(self, hops: int, far: int, ranks: int, sent: float) -> float:
        """Seconds of so many hops, `far` of them between nodes, by the fastest protocol."""
        several = ranks > self.node
        return min(
            protocol.base
            + (hops - far) * (protocol.near_of_several if several else protocol.near)
            + far * (protocol.far + self.later)
            + hops * sent / (self.rate * (protocol.share_of_several if several else protocol.share))
            for protocol in PROTOCOLS
        )


NETWORKS = {
    "NVLink": Network(8, 370e9),
    "InfiniBand": Network(8, 50e9),
    "Ethernet": Network(8, 12.5e9, 20.3e-6),
}
"""Rates: NVLink 4 of an H100, 370 of 450 GB/s (NVIDIA/nccl-tests issue 212); NDR, 400 Gb/s a GPU; 100 Gb/s. A hop by
Ethernet is estimated at 23 us, half of 46 us, an all-reduce of 8 bytes between two hosts (facebookresearch/param issue
40)."""
