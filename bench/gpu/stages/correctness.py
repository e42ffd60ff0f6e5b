"""Kernels, layers and solves against their references, and the tests of the library, on the device."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.gpu.stages.base import Figures, NotHere, Rows, Where
from lds_iter.linear.transitions import map_leaves

ROOT = Path(__file__).parents[3]

SCANS = {
    "diagonal, float32": (8, 1, torch.float32), "diagonal, bfloat16": (32, 1, torch.bfloat16),
    "diagonal, float64": (8, 1, torch.float64), "2x2 blocks, float32": (8, 2, torch.float32),
    "2x2 blocks, float64": (8, 2, torch.float64), "3x3 blocks, float32": (9, 3, torch.float32),
    "4x4 blocks, float32": (8, 4, torch.float32), "full, D = 5, float32": (5, 5, torch.float32),
    "full, D = 32, float32": (32, 32, torch.float32), "full, D = 64, float32": (64, 64, torch.float32),
    "full, D = 64, bfloat16": (64, 64, torch.bfloat16), "full, D = 32, float64": (32, 32, torch.float64),
}  # fmt: skip
"""Width, size of a block and dtype."""

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8e-3}
"""Relative to the largest number: rounding of sums that forget within some steps; half precision is rounded when it is
written, by half a unit in the last place (4e-3)."""

TESTS = (
    "tests/kernels/triton/test_single_pass.py", "tests/kernels/triton/test_iterations.py",
    "tests/kernels/triton/test_kernels.py", "tests/loop/test_device.py",
)  # fmt: skip
TESTS_SECONDS = 60
"""After which a file of tests is stopped; what it has shown by then is kept."""


def rows(where: Where) -> Rows:
    """Everything is compared with the same in float64, or with torch's layers, on the CPU."""
    found: Rows = {f"scan: {name}": partial(scan, where, *case) for name, case in SCANS.items()}
    found |= {f"layer: {name}": partial(layer, where, name) for name in ("GRU", "LSTM", "RNN")}
    found |= {f"iteration: {name}, D = {width}": partial(iteration, where, name, width)
              for name in ("GRU", "LSTM", "RNN") for width in (1, 32, 64)}  # fmt: skip
    found |= {f"solve: {name}": partial(solve, where, method) for name, method in METHODS.items()}
    found["scan: the same bits, again and again"] = partial(same_bits, where)
    found["a plain function with torch's GRUCell"] = partial(torch_cell, where)
    found["compiled solve"] = partial(compiled, where)
    found["scan: offsets beyond 32 bits"] = partial(far, where)
    found["scans and steps: more columns than a grid's second side has"] = partial(many_columns, where)
    found |= {test: partial(tests, where, test) for test in TESTS}
    return found


def within(error: float, bound: float) -> Figures:
    """The figures of a comparison.

    Raises:
        AssertionError: when it is not within its bound.
    """
    assert error <= bound, f"an error of {error:.2e} is not within {bound:.0e}"
    return {"error": error, "bound": bound, "line": f"error {error:.1e} of {bound:.0e}"}


def error_of(found: Tensor, exact: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float(
        (found.detach().cpu().double() - exact.detach().cpu().double()).abs().max() / exact.detach().abs().max().cpu()
    )


def transition(length: int, width: int, size: int, dtype: torch.dtype, device: str) -> Any:
    """Random blocks that forget."""
    a = (2 * torch.rand(length, 2, width // size, size, size, device=device) - 1).to(dtype) / size**0.5
    if size == 1:
        return li.Diagonal(a.view(length, 2, width))
    return li.Dense(a.squeeze(2)) if size == width else li.BlockDiagonal(a)


def scan(where: Where, width: int, size: int, dtype: torch.dtype) -> Figures:
    """Forwards and backwards, at a length that no chunk divides."""
    torch.manual_seed(0)
    length = where.size(10_007, 40)
    a = transition(length, width, size, dtype, where.device)
    b, initial = (torch.randn(*shape, device=where.device).to(dtype) for shape in ((length, 2, width), (2, width)))
    worst = 0.0
    for reverse in False, True:
        exact = li.linear_scan(map_leaves(lambda leaf: leaf.cpu().double(), a), b.cpu().double(),
                               initial.cpu().double(), reverse=reverse)  # fmt: skip
        worst = max(worst, error_of(li.linear_scan(a, b, initial, reverse=reverse), exact))
    return within(worst, BOUNDS[dtype])


def layer(where: Where, name: str) -> Figures:
    """States and gradients of a layer as a user has it, by its default, two calls, and by a method."""
    torch.manual_seed(0)
    peer = getattr(torch.nn, name)(5, 16).double()
    x = torch.randn(where.size(3_000, 30), 3, 5)
    exact = peer(x.double())[0]
    wanted = torch.autograd.grad(exact.square().mean(), list(peer.parameters()))
    worst, slope_error = 0.0, 0.0
    for method in None, li.BlockNewton(2) if name == "LSTM" else li.QuasiNewton():
        ours = getattr(li.nn, name)(5, 16, method=method)
        ours.load_state_dict({key: value.float() for key, value in peer.state_dict().items()})
        ours = ours.to(where.device)
        for _ in range(2):
            found = ours(x.to(where.device))[0]
            slopes = torch.autograd.grad(found.square().mean(), list(ours.parameters()))
            worst = max(worst, error_of(found, exact))
            slope_error = max(slope_error, *(error_of(*pair) for pair in zip(slopes, wanted, strict=True)))
    within(worst, 1e-4)
    return within(slope_error, 1e-3) | {"states_error": worst}


def iteration(where: Where, name: str, width: int) -> Figures:
    """A forward by the fused iteration, which must have been asked, against torch's layer in float64."""
    torch.manual_seed(0)
    kind = getattr(li.nn, f"{name}Recurrence")
    peer = getattr(torch.nn, name)(4, width)
    x = torch.randn(where.size(5_003, 30), 2, 4)
    f = kind.from_module(peer.to(where.device))
    method = li.BlockNewton(2) if name == "LSTM" else li.QuasiNewton()
    with torch.no_grad():
        s0 = torch.zeros(2, (2 if name == "LSTM" else 1) * width, device=where.device)
        solution = li.solve(f, s0, f.inputs(x.to(where.device)), method)
        states = solution.states[..., ::2] if name == "LSTM" else solution.states
        exact = peer.cpu().double()(x.double())[0]
    count = int(solution.iterations.max())
    return within(error_of(states, exact), 1e-4) | {"iterations": count}


METHODS = {
    "Newton()": li.Newton(), "QuasiNewton()": li.QuasiNewton(), "Picard()": li.Picard(), "Jacobi()": li.Jacobi(),
    "BlockNewton(2)": li.BlockNewton(2), "Damped(QuasiNewton(), 0.1)": li.Damped(li.QuasiNewton(), 0.1),
    "TrustRegion(Newton())": li.TrustRegion(li.Newton()), "Auto()": li.Auto(),
}  # fmt: skip


def solve(where: Where, method: Any) -> Figures:
    """A plain function, states and the gradient of its parameters, against the loop over the steps in float64."""
    torch.manual_seed(0)
    weight, u = 0.4 * torch.randn(4, 4), torch.randn(where.size(500, 20), 3, 4)

    def evaluated(weight: Tensor, run: Callable[[Any], Tensor]) -> tuple[Tensor, Tensor]:
        weight = weight.detach().requires_grad_()
        states = run(lambda s, x: torch.tanh(s @ weight.T + x))
        return states, torch.autograd.grad(states.square().mean(), weight)[0]

    exact = evaluated(weight.double(), lambda f: li.sequential(f, torch.zeros(3, 4).double(), u.double()))
    on = u.to(where.device)
    found = evaluated(weight.to(where.device), lambda f: li.solve(f, torch.zeros_like(on[0]), on, method).states)
    return within(max(error_of(*pair) for pair in zip(found, exact, strict=True)), 1e-3)


def torch_cell(where: Where) -> Figures:
    """On CUDA torch's cells have no forward derivative: see https://github.com/pytorch/pytorch/issues/174355."""
    torch.manual_seed(0)
    cell, x = torch.nn.GRUCell(3, 4).to(where.device), torch.randn(where.size(500, 20), 2, 3, device=where.device)
    worst = 0.0
    with torch.no_grad():
        f, s0 = li.fold(lambda h, x: cell(x, h)), torch.zeros(2, 4, device=where.device)
        exact = li.sequential(f, s0, x)
        for method in li.Newton(), li.QuasiNewton():
            worst = max(worst, error_of(li.solve(f, s0, x, method).states, exact))
    return within(worst, 1e-4)


def compiled(where: Where) -> Figures:
    """`li.Compiled`, by torch's compiler for the device."""
    if where.tiny:
        raise NotHere("compiling takes too long for a trial")
    u = torch.randn(500, 3, 4, device=where.device)

    def f(s: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(0.5 * s + x)

    with torch.no_grad():
        exact = li.sequential(f, torch.zeros_like(u[0]), u)
        return within(error_of(li.solve(li.Compiled(f), torch.zeros_like(u[0]), u).states, exact), 1e-4)


def same_bits(where: Where) -> Figures:
    """Programs that wait for each other must come to the same bits, however the device schedules them."""
    torch.manual_seed(0)
    length, times = where.size(1_000_000, 2_000), where.size(40, 2)
    a = li.Diagonal(torch.rand(length, 1, 8, device=where.device))
    b = torch.randn(length, 1, 8, device=where.device)
    first = li.linear_scan(a, b)
    different = sum(not torch.equal(li.linear_scan(a, b), first) for _ in range(times))
    return within(float(different), 0) | {"times": times}


def far(where: Where) -> Figures:
    """More than 2^31 numbers: the last rows must be those of the last rows alone, once these have forgotten."""
    width, last = 64, 200
    length = where.size((1 << 31) // width + 1_000_003, 1_000)
    needed = 5 * 4 * length * width  # b, what is found, and the products of the matrices of every 32 rows
    if where.device == "cuda" and torch.cuda.mem_get_info()[0] < needed:
        raise NotHere(f"needs {needed >> 30} GiB of memory")
    b = torch.randn(length, 1, width, device=where.device)
    exact = li.linear_scan(li.ScaledIdentity(0.5), b[-last:].cpu().double())
    worst = 0.0
    for a in li.ScaledIdentity(0.5), li.Dense(0.5 * torch.eye(width, device=where.device).expand(length, 1, -1, -1)):
        found = li.linear_scan(a, b)
        worst = max(worst, error_of(found[-last // 2 :], exact[-last // 2 :]))
        del found
    return within(worst, 1e-5)


def many_columns(where: Where) -> Figures:
    """A grid has 65,535 places on its second side; columns and sequences may be more."""
    columns, batch = where.size(9_000_000, 300), where.size(70_000, 300)
    b = torch.randn(3, columns, dtype=torch.float64, device=where.device)
    full = torch.rand(3, batch, 5, 5, device=where.device) / 5
    x, peer = torch.randn(3, batch, 5, device=where.device), torch.nn.GRU(5, 5).to(where.device)
    a = li.Diagonal(torch.rand_like(b))
    pairs = [
        (li.linear_scan(a, b), li.linear_scan(map_leaves(Tensor.cpu, a), b.cpu())),
        (li.linear_scan(li.Dense(full), x), li.linear_scan(li.Dense(full.cpu().double()), x.cpu().double())),
    ]
    with torch.no_grad():
        ours = li.nn.GRU(5, 5, method=li.Newton()).to(where.device)
        ours.load_state_dict(peer.state_dict())
        pairs.append((ours(x)[0], peer(x)[0]))
    return within(max(error_of(*pair) for pair in pairs), 1e-4)


def tests(where: Where, file: str) -> Figures:
    """A file of the library's tests, as far as it gets."""
    if where.tiny:
        raise NotHere("these are tests already")
    return tested(file, TESTS_SECONDS)


def tested(file: str, seconds: float) -> Figures:
    """Run a file of tests.

    Raises:
        AssertionError: when one failed, or none passed.
    """
    typed = [sys.executable, "-m", "pytest", file, "-vv", "--tb=line", "-p", "no:cacheprovider"]
    typed += ["-n0"] if find_spec("xdist") else []
    at_once = {**os.environ, "PYTHONUNBUFFERED": "1"}  # what it has said is there when it is stopped
    try:
        out = subprocess.run(typed, capture_output=True, timeout=seconds, check=False, cwd=ROOT, env=at_once).stdout
        ended = True
    except subprocess.TimeoutExpired as stopped:
        out, ended = stopped.stdout or b"", False
    said = out.decode(errors="replace")
    passed, failed = len(re.findall(r" PASSED", said)), re.findall(r"(\S+) (?:FAILED|ERROR)", said)
    words = f"{passed} passed, {len(failed)} failed" + ("" if ended else f", stopped after {seconds} s")
    if failed or not passed:
        raise AssertionError(f"{words}: {', '.join(failed[:20])}\n{said[-1200:]}")
    return {"passed": passed, "ended": ended, "line": words}
