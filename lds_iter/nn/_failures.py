"""The words for a layer whose solve did not converge."""

from __future__ import annotations

from lds_iter.solution import Result, Solution

REMEDIES = """  - a trained network far from its guess: type layer.method = li.TrustRegion(li.Newton())
  - the same, with states too wide for a Jacobian: layer.method = li.Then(li.Jacobi(), li.QuasiNewton(), 16)
  - long memory: layer.window = 200, or layer.max_iters = 1000"""


def explain_fallback(who: str, where: str, solution: Solution, instead: str) -> str:
    """What fell back, and what to type.

    Args:
        who: the layer.
        where: which part of it.
        solution: the one that failed.
        instead: what was computed in its place.
    """
    return (
        f"`{who}` did not converge{where}: {_extent(solution)}. {instead}, as it will be whenever this happens (shown "
        f"once per module). In order of likelihood:\n{REMEDIES}\n"
        "  - dynamics that cannot be parallelized: layer.method = None, the default"
    )


def explain_shared_failure(who: str, solution: Solution) -> str:
    """What did not converge on the ranks of a mesh, and what to type.

    Args:
        who: the layer, and which part of it.
        solution: the one that failed.
    """
    return (
        f"`{who}` did not converge: {_extent(solution)}. With `mesh` no kernel of torch takes over. In order of "
        f"likelihood:\n{REMEDIES}\n"
        "  - dynamics that cannot be parallelized: layer.mesh = None, with all time steps on one rank"
    )


def _extent(solution: Solution) -> str:
    """How many sequences did not converge, how far they were, and after how many iterations."""
    failed = solution.result != Result.SUCCESS
    return (
        f"{int(failed.sum())} of {failed.numel()} sequence(s), residual up to {float(solution.residual.max()):.2g}, "
        f"after {int(solution.iterations.max())} iterations"
    )
