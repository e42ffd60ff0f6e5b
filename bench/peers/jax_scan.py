"""`jax.lax.associative_scan` on the affine maps, jitted."""

from __future__ import annotations

from typing import Any

from bench.peers.base import AbstractPeer, Prepared
from bench.peers.jax_arrays import from_jax, reason, to_jax
from bench.peers.problems import ScanProblem


class JaxScan(AbstractPeer[ScanProblem]):
    """Compiled by XLA for the device that JAX finds."""

    name = "jax.lax.associative_scan"
    package = "jax"

    def available(self, problem: ScanProblem) -> str:
        return reason(problem.device)

    def prepare(self, problem: ScanProblem) -> Prepared:
        import jax  # pyright: ignore[reportMissingImports]

        def compose(earlier: Any, later: Any) -> Any:
            return later[0] * earlier[0], later[0] * earlier[1] + later[1]

        scan = jax.jit(lambda a, b: jax.lax.associative_scan(compose, (a, b))[1])
        a, b = to_jax(problem.a), to_jax(problem.b)
        return Prepared(lambda: (scan(a, b).block_until_ready(),), from_jax, compiles=True)
