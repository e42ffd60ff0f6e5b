"""Times each kernel against its reference and its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.timing import first_run
from lds_iter.kernels.triton.cells import iterations
from lds_iter.kernels.triton.cells import operators as cells
from lds_iter.kernels.triton.scans import cuda
from lds_iter.linear.linear_scan import diagonal_scan
from lds_iter.linear.transitions import leaves, map_leaves
from lds_iter.nn.gru import GRUDerivatives

GATES = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Largest error, relative to the largest number, at which a case is timed."""


@dataclass(frozen=True)
class Case:
    """A scan: `size` is of its blocks, D for a full matrix."""

    length: int
    batch: int
    width: int
    size: int = 1
    dtype: torch.dtype = torch.float32


BAR, LONG = 1.3, 100_000
"""A scan of at least `LONG` steps should take no longer than this many copies."""

CASES = [
    *(Case(length, 1, width) for length in (10_000, 100_000, 1_000_000) for width in (1, 8, 32)),
    Case(100_000, 16, 32),
    Case(100_000, 1, 32, dtype=torch.bfloat16),
    *(Case(100_000, 1, 32, size) for size in (2, 3, 4)),
    Case(1_000_000, 1, 32, 2),
    *(Case(100_000, 1, width, width) for width in (8, 16, 32, 64)),
    Case(100_000, 1, 32, 32, torch.bfloat16),
]


def transition(case: Case, device: str) -> tuple[Any, Tensor]:
    """Random matrices of norm below 1, and b."""
    generator = torch.Generator(device).manual_seed(0)

    def rand(*shape: int) -> Tensor:
        number = torch.rand(case.length, case.batch, *shape, device=device, generator=generator)
        return (2 * number - 1).to(case.dtype)

    if case.size == 1:
        return li.Diagonal(rand(case.width)), rand(case.width)
    if case.size == case.width:
        return li.Dense(rand(case.size, case.size) / case.size**0.5), rand(case.width)
    return li.BlockDiagonal(rand(case.width // case.size, case.size, case.size) / case.size**0.5), rand(case.width)


def error_of(a: Any, b: Tensor, found: Tensor) -> float:
    """Relative to the largest number, against the reference in float64."""
    exact = b.double()
    li.reference_scan(map_leaves(Tensor.double, a), exact)
    return float((found.double() - exact).abs().max() / exact.abs().max())


def contenders(a: Any, b: Tensor, with_peers: bool) -> dict[str, Callable[[], Any]]:
    """The kernel, forwards and backwards, a copy of the same bytes, the plain path, and peers where they apply."""
    x, least = b.clone(), sum(leaf.nbytes for leaf in leaves(a)) + 2 * b.nbytes
    source = torch.empty(least // 2, dtype=torch.uint8, device=b.device)
    target = torch.empty_like(source)
    plain = diagonal_scan if isinstance(a, li.Diagonal) else li.reference_scan
    runs: dict[str, Callable[[], Any]] = {
        "copy": lambda: target.copy_(source),
        "kernel": lambda: cuda.triton_scan(a, x, None),
        "kernel, backwards": lambda: cuda.triton_reverse_scan(a, x, None),
        "plain": lambda: plain(a, x, None),
    }
    if single_pass_serves(a, x):
        runs["three launches"] = lambda: three_launches(a, x)
    return runs | (peers(a, b) if with_peers and isinstance(a, li.Diagonal) and b.dtype == torch.float32 else {})


def single_pass_serves(a: Any, x: Tensor) -> bool:
    """Whether `kernel` is the scan in one launch, `lds_iter.kernels.triton.scans.single_pass`."""
    from lds_iter.kernels.triton.scans import single_pass

    return not isinstance(a, li.Dense) and single_pass.serves(blocks(a), x)


def three_launches(a: Any, x: Tensor) -> None:
    """What such a scan would be without it."""
    from lds_iter.kernels.triton.scans import block_scan

    block_scan.scan_(blocks(a), x, None, False)


def blocks(a: Any) -> Tensor:
    """`(n, B, D // K, K, K)`."""
    return a.diagonal.unsqueeze(-1).unsqueeze(-1) if isinstance(a, li.Diagonal) else a.blocks


def peers(a: li.Diagonal, b: Tensor) -> dict[str, Callable[[], Any]]:
    """The associative scan of torch, compiled, and accelerated-scan where it is installed (channels first)."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def compose(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return two[0] * one[0], two[0] * one[1] + two[1]

    whole = torch.compile(lambda a, b: associative_scan(compose, (a, b), 0, combine_mode="pointwise")[1])
    found: dict[str, Callable[[], Any]] = {"torch associative_scan": lambda: whole(a.diagonal, b)}
    try:
        from accelerated_scan.scalar import scan  # pyright: ignore[reportMissingImports]
    except ImportError:
        return found
    first, second = (y.permute(1, 2, 0).contiguous() for y in (a.diagonal, b))
    return {**found, "accelerated-scan": lambda: scan(first, second)}


def times(run: Callable[[], Any]) -> dict[str, float]:
    """Medians in microseconds: as a CUDA graph, if one can be captured, and launched from Python; on a CPU one run."""
    if not torch.cuda.is_available():
        taken = 1e6 * first_run(run).seconds
        return {"graph": taken, "launched": taken}
    from triton import testing  # pyright: ignore[reportMissingImports]

    launched = 1e3 * testing.do_bench(run, return_mode="median")  # pyright: ignore[reportOperatorIssue]
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            graph = 1e3 * testing.do_bench_cudagraph(run, return_mode="median")  # pyright: ignore[reportOperatorIssue]
    except RuntimeError:
        graph = launched
    return {"graph": graph, "launched": launched}


def measure(case: Case, device: str, *, peers: bool = True) -> dict[str, Any]:
    """All figures of a scan; those of a peer that fails are what it said. Some `peers` compile for many seconds."""
    a, b = transition(case, device)
    error = error_of(a, b, li.linear_scan(a, b))
    assert error < GATES[case.dtype], f"{case}: an error of {error:.1e} is not below {GATES[case.dtype]:g}"
    figures: dict[str, Any] = {}
    for name, run in contenders(a, b, peers).items():
        try:
            figures[name] = times(run)
        except Exception as problem:
            if name in ("copy", "kernel", "kernel, backwards", "plain", "three launches"):
                raise
            figures[name] = {"failed": repr(problem)[:200]}
    least = sum(leaf.nbytes for leaf in leaves(a)) + 2 * b.nbytes
    copies = figures["kernel"]["graph"] / figures["copy"]["graph"]
    return {**vars(case), "dtype": str(case.dtype), "error": error, "least": least, "copies": copies, "us": figures}


def measure_step(width: int, length: int, device: str) -> dict[str, Any]:
    """A GRU's step and its whole iteration against the closed-form derivatives in plain operations."""
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        f, states = li.nn.GRURecurrence.from_module(torch.nn.GRU(width, width)), torch.randn(length + 1, 1, width)
        u, lo = f.inputs(torch.randn(length, 1, width)), torch.zeros(1, dtype=torch.int64)
    weights = tuple(leaf.detach() for leaf in f.weights.leaves)
    rows = (0, lo, lo + length, 0.0, 1e-5)
    new = torch.empty_like(states[1:])

    @torch.no_grad()
    def plain() -> tuple[Tensor, Tensor]:
        at = GRUDerivatives(states[:-1], u, f.weights)
        return at.value, at.diagonal()

    found, wanted = cells.gru_step(states[:-1], *u, *weights), plain()
    error = max(float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True))
    assert error < 1e-5, f"GRU step, D = {width}: an error of {error:.1e} is not below 1e-5"
    runs = {
        "plain": plain,
        "kernel": lambda: cells.gru_step(states[:-1], *u, *weights),
        "iteration": lambda: iterations.gru_iteration_(states, *u, *weights, new, states[0], *rows),
    }
    return {"length": length, "width": width, "error": error, "us": {name: times(run) for name, run in runs.items()}}
