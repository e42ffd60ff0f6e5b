"""Times ParaRNN's cells and ours on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.common.timing import alternately, first_run
from bench.pararnn import cells

RESIDUAL = 1e-5
"""Where both stop: the largest residual. The default of `pararnn`; ours gets rtol = 0, atol = this."""

LIMIT = 100
"""Iterations allowed to both; neither comes near."""

ERROR, GRADIENT_ERROR = 5e-5, 1e-3
"""Largest difference of outputs, and relative difference of any parameter's gradient, at which a row is timed."""

Run = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """One row: a cell of `pararnn` by name, or `GRU` for that of `torch.nn.GRU`."""

    cell: str
    width: int
    length: int = 10_000
    batch: int = 1
    training: bool = False


CASES = [
    Case(cell, width, length, batch, training)
    for cell, width, length, batch in [
        ("ParaGRU", 8, 10_000, 1),
        ("ParaGRU", 32, 10_000, 1),
        ("ParaGRU", 128, 10_000, 1),
        ("ParaGRU", 32, 10_000, 8),
        ("ParaGRU", 32, 30_000, 1),
        ("ParaLSTM", 8, 10_000, 1),
        ("ParaLSTM", 32, 10_000, 1),
        ("ParaSLSTM", 8, 1_000, 1),  # longer, and its stabilizer is so large that pararnn stalls: `long_slstm`
        ("ParaSLSTM", 32, 1_000, 1),
        ("GRU", 8, 10_000, 1),
        ("GRU", 16, 10_000, 1),
        ("GRU", 32, 10_000, 1),
    ]
    for training in (False, True)
]


@dataclass(frozen=True)
class Setting:
    """A case built: the cell for `pararnn`, our layer, `torch.nn.GRU` where it computes the same, and the data."""

    cell: Any
    layer: Callable[..., Any]
    s0: Tensor | None
    torch_gru: torch.nn.GRU | None
    x: Tensor
    weights: Tensor


def build(case: Case, pararnn: Any) -> Setting:
    """Weights as the cell initialises them, N(0, 1) inputs `(T, B, D)`, and as many weights for a loss."""
    torch.manual_seed(0)
    x, weights = (torch.randn(case.length, case.batch, case.width) for _ in range(2))
    options: dict[str, Any] = {"rtol": 0, "atol": RESIDUAL, "max_iters": LIMIT}
    if case.cell == "GRU":
        module = torch.nn.GRU(case.width, case.width)
        layer = li.nn.GRU(case.width, case.width, method=li.nn.fixed_method(module), **options)
        layer.load_state_dict(module.state_dict())
        return Setting(cells.GRUCell(module), layer, None, module, x, weights)
    cell = getattr(pararnn, case.cell)(case.width, case.width)
    f = cells.CellRecurrence(cell)
    s0 = torch.zeros(case.batch, f.slots * case.width)
    if case.cell == "ParaSLSTM":
        return Setting(cell, cells.WarmSLSTM(cell, options), s0, None, x, weights)
    # With one number a channel the diagonal is the whole Jacobian, and this is Newton's method.
    method = li.QuasiNewton() if f.slots == 1 else li.BlockNewton(f.slots)
    layer = li.nn.Recurrent(f, method=method, **options)
    equal = cells.as_torch_gru(cell) if case.cell == "ParaGRU" else None
    return Setting(cell, layer, s0, equal, x, weights)


def contenders(case: Case, setting: Setting, pararnn: Any) -> tuple[dict[str, Run], Any]:
    """What is run, and the statistics that `pararnn` fills; `loop` is the Python loop over the cell."""
    config = pararnn.NewtonConfig(max_iters=LIMIT, residual_atol=RESIDUAL, residual_fail=None)
    stats, slots = pararnn.NewtonStats(), setting.cell.state_slots
    hidden = getattr(setting.cell, "hidden_slot", 0)
    batch_first = setting.x.transpose(0, 1).contiguous()

    def theirs() -> Tensor:
        states = pararnn.newton_apply(setting.cell, batch_first, config=config, stats=stats).transpose(0, 1)
        return states if slots == 1 else cells.pack(states)

    def runner(states: Callable[[], Tensor], parameters: list[torch.nn.Parameter]) -> Run:
        def output() -> Tensor:
            return states().unflatten(-1, (-1, slots))[..., hidden]

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (output(),)

        def step() -> tuple[Tensor, ...]:
            found = output()
            return found.detach(), *torch.autograd.grad((found * setting.weights).mean(), parameters)

        return step if case.training else forward

    own = list(setting.cell.parameters())
    arguments = (setting.x,) if setting.s0 is None else (setting.x, setting.s0)
    ours = list(setting.layer.parameters()) if isinstance(setting.layer, li.nn.GRU) else own
    runs = {
        "pararnn": runner(theirs, own),
        "lds_iter": runner(lambda: setting.layer(*arguments)[0], ours),
        "loop": runner(lambda: cells.loop(setting.cell, setting.x), own),
    }
    if setting.torch_gru is not None:
        module = setting.torch_gru
        runs["torch.nn.GRU"] = runner(lambda: module(setting.x)[0], list(module.parameters()))
    return runs, stats


def gate(found: tuple[Tensor, ...], exact: tuple[Tensor, ...], name: str) -> float:
    """The error of the outputs, in training the largest relative one of a gradient.

    Raises:
        AssertionError: when outputs or gradients differ by more than the gate allows.
    """
    error = float((found[0] - exact[0]).abs().max())
    assert error < ERROR, f"{name}: outputs differ by {error:.1e}, which is not below {ERROR:g}"
    if len(found) > 1:
        worst = cells.relative(found[1:], exact[1:])
        assert worst < GRADIENT_ERROR, f"{name}: gradients differ by {worst:.1e}, which is not below {GRADIENT_ERROR:g}"
        return worst
    return error


def measure(case: Case, pararnn: Any, rounds: int) -> dict[str, Any]:
    """All figures of a row."""
    setting = build(case, pararnn)
    runs, stats = contenders(case, setting, pararnn)
    reference = runs.pop("loop") if case.cell != "GRU" else runs["torch.nn.GRU"]
    runs.pop("loop", None)
    exact = reference()
    first = {name: first_run(run) for name, run in runs.items()}
    errors = {name: gate(first[name].result, exact, f"{case}, {name}") for name in ("pararnn", "lds_iter")}
    if setting.torch_gru is not None:  # another parametrisation, so its gradients have no counterpart
        errors["torch.nn.GRU"] = gate(first["torch.nn.GRU"].result[:1], exact[:1], f"{case}, torch.nn.GRU")
    last: Any = getattr(setting.layer, "last_solution")  # noqa: B009
    solution = last[0] if isinstance(last, tuple) else last
    assert solution.converged, f"{case}: ours did not converge"
    assert stats.max_residual <= RESIDUAL, f"{case}: pararnn stopped at a residual of {stats.max_residual:.1e}"
    timings = alternately(runs, {name: one.seconds for name, one in first.items()}, rounds, long=3.0)
    default = pararnn.NewtonStats()
    with torch.no_grad():
        config = pararnn.NewtonConfig(residual_fail=None)
        pararnn.newton_apply(setting.cell, setting.x.transpose(0, 1).contiguous(), config=config, stats=default)
    return {
        **vars(case),
        "ms": {name: timing.ms for name, timing in timings.items()},
        "rounds": {name: timing.rounds for name, timing in timings.items()},
        "peak_mib": {name: one.peak_mib for name, one in first.items()},
        "error": errors,
        # It counts evaluations of the residual; the last one only finds it small.
        "updates": {"pararnn": stats.iters - 1, "lds_iter": int(solution.iterations.max())},
        "residual": {"pararnn": stats.max_residual, "lds_iter": float(solution.residual.max())},
        "default_residual": default.max_residual,
        "backend": stats.scan_backend,
    }


def long_slstm(pararnn: Any, width: int, length: int) -> dict[str, Any]:
    """Why the rows of `ParaSLSTM` are short: residuals after `LIMIT` iterations, and the size of the largest state."""
    setting = build(Case("ParaSLSTM", width, length), pararnn)
    f, stats = cells.CellRecurrence(setting.cell), pararnn.NewtonStats()
    assert setting.s0 is not None
    options: dict[str, Any] = {"rtol": 0, "atol": RESIDUAL, "max_iters": LIMIT, "throw": False}
    with torch.no_grad():
        config = pararnn.NewtonConfig(max_iters=LIMIT, residual_atol=RESIDUAL, residual_fail=None)
        pararnn.newton_apply(setting.cell, setting.x.transpose(0, 1).contiguous(), config=config, stats=stats)
        warm = cells.WarmSLSTM(setting.cell, options)
        states, _ = warm(setting.x, setting.s0)
        cold = li.solve(f, setting.s0, f.inputs(setting.x), li.BlockNewton(f.slots), **options)
    assert warm.last_solution is not None
    return {
        "width": width,
        "length": length,
        "pararnn": stats.max_residual,
        "lds_iter": float(warm.last_solution.residual.max()),
        "updates": int(warm.last_solution.iterations.max()),
        "from_zeros": float(cold.residual.max()),
        "largest_state": float(states.abs().max()),
    }
